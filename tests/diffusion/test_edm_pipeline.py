"""The pipeline: Euler's rule with guidance, what the network is asked at each step, one seed per picture."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS, SCHEDULERS, Solver

SIGMA_DATA = 0.5


def pipeline_of(unet: UNet2DModel, scheduler: str = "edm_dpmsolver_multistep") -> ClassConditionalEDMPipeline:
    pipeline = ClassConditionalEDMPipeline(unet, EDM_SCHEDULERS[scheduler](sigma_data=SIGMA_DATA))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def as_uint8(pictures: Tensor) -> Tensor:
    return ((pictures + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 2.5])
def test_euler_steps_are_the_papers_with_the_guided_denoiser(unet, guidance_scale):
    labels, seeds, num_steps = [0, 2, 1], [3, 4, 5], 5
    ours = pipeline_of(unet, "edm_euler")(labels, generators(seeds), num_steps, guidance_scale)

    def denoise(x: Tensor, sigma: float, class_labels: Tensor) -> Tensor:
        norm = math.hypot(sigma, SIGMA_DATA)
        F = unet((x / norm).float(), torch.full((3,), math.log(sigma) / 4), class_labels=class_labels).sample
        return SIGMA_DATA**2 / norm**2 * x + sigma * SIGMA_DATA / norm * F.double()

    i = np.arange(num_steps) / (num_steps - 1)
    sigmas = [*((80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).tolist(), 0.0]
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in generators(seeds)]).double() * math.hypot(80, 1)
    with torch.no_grad():
        for sigma, following in itertools.pairwise(sigmas):
            conditional = denoise(x, sigma, torch.tensor(labels))
            unconditional = denoise(x, sigma, torch.full((3,), 3))
            D = unconditional + guidance_scale * (conditional - unconditional)
            x = x + (following - sigma) * (x - D) / sigma
    torch.testing.assert_close(ours.double(), x.clamp(-1, 1), atol=2e-3, rtol=0)


def test_labels_change_pictures_unless_guidance_is_zero(unet):
    pipeline = pipeline_of(unet)

    def draw(labels: list[int], guidance_scale: float) -> Tensor:
        return as_uint8(pipeline(labels, generators([7, 8]), 4, guidance_scale))

    assert not torch.equal(draw([0, 1], 1.0), draw([1, 0], 1.0))
    assert not torch.equal(draw([0, 1], 1.0), draw([0, 1], 3.0))
    assert torch.equal(draw([0, 1], 0.0), draw([1, 2], 0.0))
    null = pipeline.num_classes
    torch.testing.assert_close(
        pipeline([null, null], generators([7, 8]), 4, 1.0),
        pipeline([0, 1], generators([7, 8]), 4, 0.0),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_picture_depends_on_its_label_and_seed_but_not_on_batch_mates_or_position(unet, scheduler):
    pipeline = pipeline_of(unet)

    def draw(labels: list[int], seeds: list[int]) -> Tensor:
        return as_uint8(pipeline(labels, generators(seeds), 4, scheduler=scheduler))

    mates = draw([0, 1, 2, 0], [10, 11, 12, 13])
    assert torch.equal(draw([2, 1, 1, 2], [12, 99, 11, 98])[[0, 2]], mates[[2, 1]])
    assert torch.equal(draw([0], [13])[0], mates[3])


class Asked(UNet2DModel):
    """Remembers sigma, x, labels and type of every call, and answers with a constant F."""

    calls: list[tuple[float, Tensor, list[int], torch.dtype]]
    answer = 0.0

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        sigma = float(torch.exp(4 * timestep))
        x = sample.float() * math.hypot(sigma, SIGMA_DATA)
        self.calls.append((sigma, x, class_labels.tolist(), sample.dtype))
        return UNet2DOutput(sample=torch.full_like(sample, self.answer))


@pytest.fixture
def asked() -> Asked:
    network = Asked(
        sample_size=(8, 8),
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        num_class_embeds=4,
    )
    network.calls = []
    return network


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_guidance_is_one_doubled_batch_inside_its_interval_and_the_labels_alone_outside(asked, scheduler):
    options = {"guidance_scale": 3.0, "guidance_interval": (0.3, 5.0), "scheduler": scheduler}
    pipeline_of(asked)([0, 2], generators([1, 2]), 12, **options)
    sigmas = [sigma for sigma, *_ in asked.calls]
    assert len(sigmas) == 12, "one call a step"
    assert {0.3 < sigma <= 5 for sigma in sigmas} == {True, False}
    for sigma, x, labels, _ in asked.calls:
        guided = 0.3 < sigma <= 5
        assert labels == ([0, 2, 3, 3] if guided else [0, 2])
        if guided:
            assert torch.equal(x[:2], x[2:])


def test_an_interval_is_open_below_and_closed_above(asked):
    pipeline = pipeline_of(asked)
    middle = Solver(None, pipeline.scheduler, 3).sigmas[1]
    for interval, guided in (((0.0, middle), True), ((middle, 99.0), False)):
        asked.calls.clear()
        pipeline([0], generators([1]), 3, 3.0, guidance_interval=interval)
        assert (len(asked.calls[1][2]) == 2) is guided


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_clipping_holds_the_denoised_picture_of_every_step_to_the_range_of_pixels(asked, scheduler):
    asked.answer = 50.0  # D is far above 1 until the noise is small
    clipped = pipeline_of(asked)([0], generators([5]), 9, scheduler=scheduler, clip_denoised=True, clamp=False)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * math.hypot(80, 1)
    first = asked.calls[0][0]
    for sigma, x, *_ in asked.calls[:7]:
        # With D = 1 at every step the way from the noise is a straight line.
        torch.testing.assert_close(x, 1 + sigma / first * (noise - 1), rtol=1e-3, atol=1e-3)
    asked.calls.clear()
    free = pipeline_of(asked)([0], generators([5]), 9, scheduler=scheduler, clamp=False)
    assert asked.calls[6][1].mean() > 3
    assert free.mean() > 3
    assert 1 < clipped.mean() < 2, "the last one is not clipped, so that it can be measured"
    assert pipeline_of(asked)([0], generators([5]), 9, scheduler=scheduler).max() == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_network_in_bfloat16_is_asked_in_bfloat16_and_the_arithmetic_around_it_is_not(asked, scheduler):
    pipeline_of(asked)([1], generators([5]), 6, scheduler=scheduler)
    exact = list(asked.calls)
    asked.calls.clear()
    pictures = pipeline_of(asked.to(torch.bfloat16))([1], generators([5]), 6, scheduler=scheduler)
    assert pictures.dtype == torch.float32
    for (sigma, x, _, dtype), (same_sigma, same_x, _, _) in zip(asked.calls, exact, strict=True):
        assert dtype == torch.bfloat16
        assert sigma == same_sigma
        torch.testing.assert_close(x, same_x, rtol=2**-8, atol=0)  # rounded once, never summed up


def test_pictures_are_in_range_on_the_cpu_and_asked_for_by_tensor_or_list(unet):
    pipeline = pipeline_of(unet)
    of_list = pipeline([0, 1], generators([1, 2]), 3)
    assert of_list.shape == (2, 1, 8, 8)
    assert of_list.dtype == torch.float32
    assert of_list.abs().max() <= 1
    assert torch.equal(of_list, pipeline(torch.tensor([0, 1]), generators([1, 2]), 3))


def test_saved_and_loaded_pipelines_draw_identical_pictures_and_only_safetensors_are_on_disk(unet, tmp_path):
    scheduler = EDM_SCHEDULERS["edm_euler"](sigma_data=SIGMA_DATA)
    pipeline = ClassConditionalEDMPipeline(unet, scheduler, class_names=["a", "b", "c"])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(str(tmp_path), safe_serialization=True)
    loaded = ClassConditionalEDMPipeline.from_pretrained(
        str(tmp_path), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
    )
    loaded.set_progress_bar_config(disable=True)
    assert loaded.num_classes == 3
    assert loaded.config.class_names == ["a", "b", "c"]
    assert json.loads((tmp_path / "model_index.json").read_text())["class_names"] == ["a", "b", "c"]
    assert loaded.scheduler.config.sigma_data == SIGMA_DATA
    assert torch.equal(loaded([0, 1, 2], generators([1, 2, 3]), 4), pipeline([0, 1, 2], generators([1, 2, 3]), 4))
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
