"""The simulation of a pool agrees with what can be worked out by hand, and plays trouble to its end."""

from __future__ import annotations

import pytest
from benchmark_module import load_benchmark

pool_simulation = load_benchmark("pool_simulation")
Scenario, simulate = pool_simulation.Scenario, pool_simulation.simulate

#: Nothing goes wrong, and all shards take as long.
CALM = {
    "spread": 0.0,
    "slow_share": 0.0,
    "grow_s": 0.0,
    "node_life_s": 1e12,
    "failure_share": 0.0,
    "crash_share": 0.0,
    "driver_call_s": 1e-9,
}


def figures(result):
    """Those that follow from the scenario and its seed, not from this machine."""
    measured = ("driver", "shards_per_s_at_most")
    return {name: value for name, value in result.items() if "us_per" not in name and not name.startswith(measured)}


@pytest.mark.parametrize(("num_actors", "num_shards", "waves"), [(1, 3, 3), (8, 80, 10), (24, 25, 2)])
def test_without_trouble_it_takes_as_many_waves_as_there_are(num_actors, num_shards, waves):
    simulation = pool_simulation.Simulation(Scenario(num_actors, num_shards, **CALM))
    simulation.run()
    # The last one of an actor may have to wait until that before it is written, as none is given ahead any more.
    assert 5 <= simulation.now_s - (60 + waves * 100) <= 2 * 5 + 1
    assert simulation.num_calls == simulation.num_done == num_shards
    assert simulation.busy_s == pytest.approx(num_shards * 100)


def test_trouble_costs_calls_and_time_and_no_shard():
    trouble = {"grow_s": 600.0, "node_life_s": 1500.0, "failure_share": 0.02, "crash_share": 0.02, "slow_share": 0.05}
    result = simulate(Scenario(32, 400, **trouble))
    calm = simulate(Scenario(32, 400, **CALM))
    assert result["actors_died"] > 20
    assert result["calls_per_shard"] > 1.05
    assert result["hours"] > 1.5 * calm["hours"]
    assert result["set_aside"] <= 4
    assert figures(result) == figures(simulate(Scenario(32, 400, **trouble))), "its seed does not decide it"


def test_a_driver_that_cannot_keep_up_leaves_gpus_idle():
    # 64 actors end 6.4 shards a second; the driver takes in 2.
    options = CALM | {"sample_s": 10.0, "write_s": 0.5}
    slow = simulate(Scenario(64, 640, **(options | {"driver_call_s": 0.5})))
    assert slow["gpu_idle_share"] == pytest.approx(1 - 2 / 6.4, abs=0.1)
    assert simulate(Scenario(64, 640, **options))["gpu_idle_share"] < 0.05
