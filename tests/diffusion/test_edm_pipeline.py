"""The pipeline against closed forms: an optimal denoiser, Euler's rule with guidance, one seed per picture."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from sio_ray.diffusion.pipeline import SCHEDULERS, ClassConditionalEDMPipeline

SIGMA_DATA = 0.5


def pipeline_of(unet: UNet2DModel, scheduler: str = "edm_dpmsolver_multistep") -> ClassConditionalEDMPipeline:
    pipeline = ClassConditionalEDMPipeline(unet, SCHEDULERS[scheduler](sigma_data=SIGMA_DATA))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def as_uint8(pictures: Tensor) -> Tensor:
    return ((pictures + 1) * 127.5).round().to(torch.uint8)


class GaussianUNet(UNet2DModel):
    """F of the optimal denoiser where the pixels of class c are normal with mean (c - 1) / 10 and this deviation."""

    deviation = 0.2

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        sigma = torch.exp(4 * timestep.double())
        norm = (sigma**2 + SIGMA_DATA**2).sqrt()
        x, mean = sample.double() * norm, (class_labels.double()[:, None, None, None] - 1) / 10
        D = mean + self.deviation**2 / (self.deviation**2 + sigma**2) * (x - mean)
        F = (D - SIGMA_DATA**2 / norm**2 * x) / (sigma * SIGMA_DATA / norm)
        return UNet2DOutput(sample=F.float())


@pytest.fixture
def gaussian() -> GaussianUNet:
    return GaussianUNet(
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


# Euler errs by the step, the multistep solver by its square.
@pytest.mark.parametrize(("scheduler", "num_steps"), [("edm_euler", 600), ("edm_dpmsolver_multistep", 60)])
def test_an_optimal_denoiser_gives_the_distribution_of_the_data(gaussian, scheduler, num_steps):
    labels = [0, 1, 2] * 20
    seeds = list(range(len(labels)))
    pictures = pipeline_of(gaussian, scheduler)(labels, generators(seeds), num_inference_steps=num_steps)
    start = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in generators(seeds)]).double() * math.hypot(80, 1)
    for label in range(3):
        rows, mean = np.flatnonzero(np.array(labels) == label), (label - 1) / 10
        # The probability flow of a Gaussian is known: a pixel keeps its quantile.
        expected = mean + gaussian.deviation * (start[rows] - mean) / math.hypot(80, gaussian.deviation)
        torch.testing.assert_close(pictures[rows].double(), expected, atol=4e-3, rtol=0)
        num_pixels = len(rows) * 64
        assert float(pictures[rows].mean()) == pytest.approx(mean, abs=4 * gaussian.deviation / num_pixels**0.5)
        assert float(pictures[rows].std()) == pytest.approx(gaussian.deviation, rel=0.08)


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
    pipeline = pipeline_of(unet, scheduler)
    mates = as_uint8(pipeline([0, 1, 2, 0], generators([10, 11, 12, 13]), 4))
    others = as_uint8(pipeline([2, 1, 1, 2], generators([12, 99, 11, 98]), 4))
    assert torch.equal(others[[0, 2]], mates[[2, 1]])
    alone = as_uint8(pipeline([0], generators([13]), 4))
    assert torch.equal(alone[0], mates[3])


def test_pictures_are_in_range_on_the_cpu_and_asked_for_by_tensor_or_list(unet):
    pipeline = pipeline_of(unet)
    of_list = pipeline([0, 1], generators([1, 2]), 3)
    assert of_list.shape == (2, 1, 8, 8)
    assert of_list.dtype == torch.float32
    assert of_list.abs().max() <= 1
    assert torch.equal(of_list, pipeline(torch.tensor([0, 1]), generators([1, 2]), 3))


def test_saved_and_loaded_pipelines_draw_identical_pictures_and_only_safetensors_are_on_disk(unet, tmp_path):
    pipeline = pipeline_of(unet)
    pipeline.save_pretrained(str(tmp_path), safe_serialization=True)
    loaded = ClassConditionalEDMPipeline.from_pretrained(
        str(tmp_path), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
    )
    loaded.set_progress_bar_config(disable=True)
    assert loaded.num_classes == 3
    assert loaded.scheduler.config.sigma_data == SIGMA_DATA
    assert torch.equal(loaded([0, 1, 2], generators([1, 2, 3]), 4), pipeline([0, 1, 2], generators([1, 2, 3]), 4))
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
