"""`sio-ray plan`: figures that follow from the config, and measured ones that follow from those."""

from __future__ import annotations

import json

import pytest

from sio_ray.cli import main
from sio_ray.commands.plan import fitting_images_per_shard, make_plan
from sio_ray.config import load_config
from sio_ray.errors import CheckpointError
from sio_ray.generate.plan import Plan


@pytest.fixture
def config(gaussian_generator, tmp_path):
    """A set that stands alone: 100 images in shards of 30, in sampler batches of 8."""
    path = tmp_path / "alone.yaml"
    path.write_text(
        f"name: alone\noutput_dir: {tmp_path}\ngenerate: {{generator: {gaussian_generator}, num_images: 100, "
        "images_per_shard: 30, sampler_batch_size: 8, num_inference_steps: 3}\n"
    )
    return str(path)


def test_what_follows_from_the_config(config, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["plan", config, "--json"])
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    # Three shards of 30 images need 4 calls each, the last one of 10 needs 2.
    assert (told["num_shards"], told["num_sampler_calls"]) == (4, 14)
    assert told["padding_share"] == pytest.approx(1 - 100 / 112)
    assert (told["num_classes"], told["images_per_class"]) == (3, [33, 34])
    assert told["raw_bytes"] == 100 * 8 * 8
    assert told["images"].startswith(str(tmp_path))
    assert told["wall_s"] is None
    for words in ("100 of 8x8 grey", "3, 33 images each to 34", "4 of 30 images", "add --calibrate"):
        assert words in captured.err


def test_a_generator_that_is_not_here_is_planned_for_by_what_the_config_says(capsys):
    estimate = make_plan(load_config("imagenet_256px"), calibrate=False)
    assert (estimate.num_images, estimate.num_classes, estimate.num_shards) == (1_281_167, 1000, 1252)
    assert estimate.images_per_class == (1281, 1282)
    assert estimate.image_shape == (3, 256, 256)
    assert "the generator was not looked at: " in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="facebook/DiT-XL-2-256"):
        make_plan(load_config("imagenet_256px"), calibrate=True)


def test_too_few_shards_for_the_actors_are_told(config, capsys):
    # 100 images in shards of 30 by batches of 8: 4 shards; 3 actors take 2 rounds of which a third is unused.
    told = make_plan(load_config(config, ["generate.num_actors=3"]), calibrate=False).few_shards
    assert told == (
        "4 shards for 3 actors leave at least 33% of their time unused, as the last ones end apart; "
        "set generate.images_per_shard=8 before the first shard is drawn."
    )
    with pytest.raises(SystemExit, match="0"):
        main(["plan", config, "generate.num_actors=3"])
    assert "4 shards for 3 actors" in capsys.readouterr().err
    whole_batches = ["generate.num_actors=3", "generate.images_per_shard=8"]  # 13 shards
    told = make_plan(load_config(config, whole_batches), calibrate=False).few_shards
    assert "; a shard is one sampler batch already, so give fewer actors, or" in told
    for enough in (["generate.num_actors=1"], ["generate.num_actors=2", "generate.images_per_shard=5"], []):
        assert make_plan(load_config(config, enough), calibrate=False).few_shards is None


def test_images_per_shard_that_give_each_actor_eight_shards():
    plan = Plan(1_281_167, (1,) * 1000, images_per_shard=1024, sampler_batch_size=64, base_seed=0)
    assert [fitting_images_per_shard(plan, num_actors) for num_actors in (1, 64, 512, 10**6)] == [1024, 1024, 256, 64]
    assert -(-plan.num_images // 256) >= 8 * 512
