"""Faults of a search: trials are killed, and its driver, which is started again."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from faults.ledger import Fault, Ledger, Work
from faults.processes import Census, all_workers, kill, last_words, start_driver
from sio_ray.cli import run_stages
from sio_ray.config import Config, load_config

TRIAL, DRIVER = "trial killed", "driver of a search killed"

#: Kinds, and how many of 100 faults of a search are of each.
SHARES = {TRIAL: 60, DRIVER: 40}

_MAX_WAIT_S = 900.0

_OVERRIDES = (
    *("prepare.images_per_ood_set=24", "prepare.num_outliers=24", "fit_generator.kind=gaussian"),
    *("generate.synthetic_ratio=0.25", "generate.num_inference_steps=4", "train.width=8", "train.learning_rate=0.02"),
    *("tune.algorithm=optuna", "tune.num_validations=4", "tune.lookahead=2", "tune.concurrent_trials=1"),
    *("tune.num_steps=120", "tune.confirm_seeds=[5]"),
)


def run(kinds: list[str], ledger: Ledger, folder: Path, rng: random.Random) -> None:
    """Inject faults of these kinds, in this order, into searches, one after the other."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    space = folder / "space.py"
    space.write_text("SPACE = {'train.real_weight': ('uniform', 0.5, 0.95)}\n")
    kinds, number = list(kinds), 0
    try:
        while kinds:
            number += 1
            size = (f"tune.num_trials={len(kinds) + 1}", f"tune.seeds=[{number}]")
            overrides = [*_OVERRIDES, f"tune.space={space}", *size]
            configs = [load_config("digits", [*overrides, f"output_dir={folder / name}"]) for name in ("hurt", "whole")]
            kinds = _Search(*configs, cluster, folder, ledger, rng).run(kinds)
    finally:
        cluster.shutdown()


class _Search:
    """One search, and what is done to it."""

    def __init__(
        self, config: Config, undisturbed: Config, cluster: Cluster, folder: Path, ledger: Ledger, rng: random.Random
    ) -> None:
        self._config, self._undisturbed, self._cluster = config, undisturbed, cluster
        self._folder, self._ledger, self._rng = folder, ledger, rng
        self._log, self._census = folder / "driver.log", Census()
        self._faults: list[Fault] = []

    def run(self, kinds: list[str]) -> list[str]:
        """Inject what there is time for; returns what is left for another search."""
        self._result_of(self._undisturbed, "prepare", "fit-generator", "generate")
        self._result_of(self._config, "prepare", "fit-generator", "generate")
        self._known: dict[Path, int] = {}
        self._twice = 0
        self._driver = self._start(self._config, "tune")
        try:
            while kinds and self._wait_for_trial():
                time.sleep(self._rng.uniform(0, 1.0))
                self._census.take(self._cluster)
                if self._driver.poll() is None and self._inject(kinds[0]):
                    kinds = kinds[1:]
            self._driver.wait(timeout=_MAX_WAIT_S)
        finally:
            self._driver.kill()
            self._driver.wait()
        if self._driver.returncode:
            self._ledger.complain(f"the search ended with {self._driver.returncode}: {last_words(self._log)}")
        self._check()
        return kinds

    def _start(self, config: Config, stage: str) -> subprocess.Popen[bytes]:
        file = self._folder / "config.yaml"
        file.write_text(json.dumps(config.model_dump(mode="json")))
        return start_driver(self._cluster, ["-m", "sio_ray.cli", stage, file], self._log)

    def _result_of(self, config: Config, *stages: str) -> None:
        for stage in stages:
            if self._start(config, stage).wait(timeout=_MAX_WAIT_S):
                raise RuntimeError(f"{stage} failed: {last_words(self._log)}")

    def _states(self) -> list[Path]:
        """Of trials that have passed a validation and go on."""
        return list((self._config.run_dir / "trials").glob("*/state.safetensors"))

    def _results(self) -> dict[Path, int]:
        """Of trials that have ended, and when that was written."""
        paths = (self._config.run_dir / "trials").glob("*/result.json")
        return {path: path.stat().st_mtime_ns for path in paths}

    def _wait_for_trial(self) -> bool:
        """Until a trial is in the middle of its work; false if the search ends first."""
        while self._driver.poll() is None:
            if self._states() and all_workers(self._cluster, "ImplicitFunc"):
                return True
            time.sleep(0.02)
        return False

    def _inject(self, kind: str) -> bool:
        workers = all_workers(self._cluster, "ImplicitFunc")
        if not workers:
            return False
        before = self._progress()
        fault = self._ledger.begin(kind)
        self._faults.append(fault)
        self._note_results()
        if kind == TRIAL:
            kill(self._rng.choice(workers))
        else:
            self._driver.kill()
            self._driver.wait()
            self._driver = self._start(self._config, "tune")
        while self._driver.poll() is None and self._progress() == before:
            time.sleep(0.02)
        self._ledger.recovered(fault)
        return True

    def _progress(self) -> Any:
        """Another value after every validation."""
        states = {}
        for path in self._states():
            try:
                states[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        return states, len(self._results())

    def _note_results(self) -> None:
        """Count results that have been written again."""
        now = self._results()
        self._twice += sum(now.get(path) != time_ns for path, time_ns in self._known.items())
        self._known = now

    def _check(self) -> None:
        """Compare with a search that nobody disturbed."""
        self._note_results()
        orphans = self._census.orphans(self._cluster)
        self._result_of(self._undisturbed, "tune")
        found, expected = (
            run_stages(config, ["tune"])["tune"]["result"] for config in (self._config, self._undisturbed)
        )
        left = self._states()
        for what, is_wrong in ((f"orphans: {orphans}", orphans), (f"states of trials are left: {left}", left)):
            if is_wrong:
                self._ledger.complain(what)
        rows, expected_rows = _rows(found), _rows(expected)
        is_equal = rows == expected_rows and found["best_values"] == expected["best_values"]
        self._ledger.settle(
            Work(
                f"a search of {len(rows)} trials",
                len(self._faults),
                lost=max(0, len(expected_rows) - len(rows)),
                twice=self._twice,
                may_be_twice=0,
                is_equal=is_equal and not orphans and not left,
            )
        )


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the trials, without seconds, which differ from run to run."""
    return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in result["trials"]]
