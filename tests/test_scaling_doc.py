"""docs/scaling.md says what its commands print, and those of them that a user types run."""

from __future__ import annotations

import sys

import pytest
from benchmark_module import load_benchmark
from markdown_commands import code_blocks, read_document, sio_ray_commands

from sio_ray.cli import main

DOCUMENT = read_document("docs/scaling.md")
scaling = load_benchmark("scaling")


def printed(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    scaling.main()
    return capsys.readouterr().out


def test_the_tables_are_what_the_command_prints(monkeypatch, capsys):
    assert scaling.replace_tables(DOCUMENT, printed(monkeypatch, capsys).rstrip()) == DOCUMENT, (
        "run python benchmarks/scaling.py --docs"
    )


def test_what_a_user_measured_and_pays_is_taken(monkeypatch, capsys):
    (line,) = [line for line in code_blocks(DOCUMENT, "text")[0].splitlines() if "--price" in line]
    told = printed(monkeypatch, capsys, *line.split(" #")[0].split()[2:])
    (row,) = [row for row in told.splitlines() if row.startswith("| H100 ")]
    assert "55 (measured)" in row
    assert row.endswith("| $2.20 |")
    assert "(computed)" in row


def test_operations_are_those_that_are_published():
    # The DiT paper (arXiv:2212.09748) gives 118.64 Gflops for DiT-XL/2 at 256 px, a multiply-add being one.
    network, _ = scaling.count_dit()
    assert network / 2 == pytest.approx(118.64e9, rel=0.001)


def test_a_run_on_paper_adds_up_by_hand():
    # 1,281,167 images on 8 GPUs: 1,252 shards of 1,024 are 157 waves; at 64 images/s a wave takes 16 s.
    run = scaling.plan_run(scaling.WORKS["imagenet"], 1_281_167, 8, 64.0)
    assert (run.images_per_shard, run.num_shards) == (1024, 1252)
    assert run.wall_s == pytest.approx(10 + 60 + 157 * 16 + 10)
    assert run.at_work == pytest.approx(1_281_167 / 64 / (8 * run.wall_s))


@pytest.mark.parametrize("arguments", sio_ray_commands(DOCUMENT), ids=" ".join)
def test_commands_run(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert "set generate.images_per_shard=256 before the first shard is drawn" in capsys.readouterr().err
