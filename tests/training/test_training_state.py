"""Training state: the next step after a round trip is the same to the last bit, and broken files say so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sio_ray.errors import CheckpointError
from sio_ray.training.state import flatten_state, load_progress, restore_state, save_progress

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "sgd_momentum": lambda parameters: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw_amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
}


def model_of() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    model[3].bias.requires_grad_(False)  # a parameter without optimiser state
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 1, 3])
def test_the_next_steps_after_a_round_trip_are_bit_identical(tmp_path, name, steps_before):
    straight = model_of()
    optimizer = OPTIMIZERS[name](straight.parameters())
    for number in range(steps_before):
        step(straight, optimizer, number)
    save_progress(tmp_path, flatten_state(straight, optimizer), steps_before, [{"step": 1, "loss": 0.5}])

    state, done, points = load_progress(tmp_path)
    assert (done, points) == (steps_before, [{"step": 1, "loss": 0.5}])
    resumed = copy.deepcopy(model_of())
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1)
    resumed_optimizer = OPTIMIZERS[name](resumed.parameters())
    restore_state(state, resumed, resumed_optimizer)
    for number in range(steps_before, steps_before + 2):
        step(straight, optimizer, number)
        step(resumed, resumed_optimizer, number)
    assert different(flatten_state(resumed, resumed_optimizer), flatten_state(straight, optimizer)) == []


def test_the_learning_rate_of_the_optimiser_that_is_restored_stays(tmp_path):
    model = model_of()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    step(model, optimizer, 0)
    other = torch.optim.Adam(model.parameters(), lr=0.7)
    restore_state(flatten_state(model, optimizer), model, other)
    assert other.param_groups[0]["lr"] == 0.7


def test_taken_state_is_a_copy_and_given_state_is_not_changed():
    model = model_of()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    step(model, optimizer, 0)
    state = flatten_state(model, optimizer)
    before = copy.deepcopy(state)
    step(model, optimizer, 1)
    assert different(state, before) == []
    restore_state(state, model, optimizer)
    step(model, optimizer, 1)
    assert different(state, before) == []


def test_nothing_on_disk_is_pickled(tmp_path):
    model = model_of()
    save_progress(tmp_path, flatten_state(model, OPTIMIZERS["sgd"](model.parameters())), 0, [])
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "progress.json"}


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_missing_or_broken_file_is_one_clear_error(tmp_path, name, damage):
    save_progress(tmp_path, {"a": torch.ones(100)}, 3, [{"step": 3, "loss": 1.0}])
    data = (tmp_path / name).read_bytes()
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError) as error:
        load_progress(tmp_path)
    assert str(error.value).startswith(f"the training state in {tmp_path} cannot be read (")
    assert str(error.value).endswith("); delete its folder to train from the start.")


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"step": null, "points": []}', '{"step": 1, "points": 3}'])
def test_json_of_another_form_is_the_same_error(tmp_path, text):
    save_progress(tmp_path, {"a": torch.ones(2)}, 3, [])
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_progress(tmp_path)
