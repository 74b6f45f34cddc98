"""The command line: help that fits a screen, and mistakes that are one line, exit code 2, and nothing written."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import sio_ray
from sio_ray.cli import main
from sio_ray.config import STAGES, load_config, preset_names
from sio_ray.config.evaluate_section import PAPER_DETECTORS
from sio_ray.ood.detectors import DETECTORS

ROOT = Path(__file__).parents[1]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize("command", [*STAGES, "run", "demo", "submit", "study"])
def test_help_fits_a_screen_and_shows_an_example(capsys, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 30
    assert f"sio-ray {command}" in out.split("Example:")[1]


def test_help_waits_for_no_heavy_library():
    code = "import sys; from sio_ray.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'ray', 'diffusers', 'sklearn', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "digits", "train.real_weight=80"],
            "error: train.real_weight must be in [0, 1], got 80; give a share, not a percentage.",
        ),
        (
            ["run", "digits", "train.real_wieght=0.9"],
            "error: train.real_wieght must be a field of the config, got 0.9; did you mean train.real_weight.",
        ),
        (
            ["evaluate", "digits", "evaluate.detectors=[msp,knnn]"],
            f"error: evaluate.detectors must be among {', '.join(DETECTORS)}, got 'knnn'; did you mean knn.",
        ),
        (
            ["run", "digits", "train.synthetic_ratio=3"],
            "error: train.synthetic_ratio must be at most generate.synthetic_ratio (1), got 3.0; "
            "draw more with generate.synthetic_ratio=3, or lower it.",
        ),
        (
            ["run", "digits", "report.detector=gradnorm"],
            f"error: report.detector must be among evaluate.detectors ({', '.join(PAPER_DETECTORS)}), "
            "got 'gradnorm'; choose one of them.",
        ),
        (
            ["run", "no_such_preset"],
            f"error: config must be a preset ({', '.join(preset_names())}) or a YAML file, got 'no_such_preset'; "
            "check the name or the path.",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, tmp_path, arguments, message):
    if "digits" in arguments:
        arguments = [*arguments, f"output_dir={tmp_path}"]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.strip() == message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_debug_shows_where_an_error_comes_from(capsys):
    with pytest.raises(sio_ray.errors.ConfigError):
        main(["train", "digits", "train.real_weight=80", "--debug"])


def test_wrong_usage_is_exit_code_2_too(capsys):
    code, _, err = run(capsys, "trian", "digits")
    assert code == 2
    assert "Did you mean 'train'?" in err


def test_json_goes_alone_to_standard_output(capsys, tmp_path, tiny):
    code, out, err = run(capsys, "prepare", "digits", *tiny, f"output_dir={tmp_path}", "--json")
    assert code == 0
    outcome = json.loads(out)
    assert outcome["stage"] == "prepare"
    assert outcome["result"]["num_images"]["far_ood/test/letters"] == 24
    assert "prepare" in err


def test_a_printed_config_loads_as_the_same_config(capsys, tmp_path):
    _, out, _ = run(capsys, "config", "digits", "train.seeds=[4,5]")
    path = tmp_path / "mine.yaml"
    path.write_text(out)
    assert load_config(str(path)) == load_config("digits", ["train.seeds=[4,5]"])


@pytest.mark.parametrize("stage", [*STAGES, "run"])
def test_every_stage_has_a_job_that_only_calls_it(stage, monkeypatch, capsys):
    script = ROOT / "jobs" / f"{stage.replace('-', '_')}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "digits", "train.real_weight=80"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 2
    assert "train.real_weight must be in [0, 1], got 80" in capsys.readouterr().err
    assert len(script.read_text().splitlines()) < 15
