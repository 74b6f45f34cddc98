"""Measure the detectors with a bank, class statistics or many classes: seconds and memory of fit and score.

python benchmarks/detectors.py --json
python benchmarks/detectors.py --bank 8192 --images 512 --detectors knn mds --no-pytorch-ood      # quick

Each case runs in a process of its own, and its peak memory is what it takes beyond its inputs. Every setting of
OpenOOD's sweep is scored. Beside each of ours: what the formula makes of it at the size of ImageNet-1K with OpenOOD's
sets on a ResNet-50, on this machine; seconds by the number of multiplications, bytes by the docstring of the detector.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sio_ray.ood.detectors import DETECTORS, Sizes
from sio_ray.ood.outputs import LastLayer, NetworkOutputs

#: Bytes of what `ru_maxrss` counts in.
RSS_UNIT_BYTES = 1 if platform.system() == "Darwin" else 1024


@dataclass(frozen=True)
class Size:
    """N training images, M scored ones, D features, C classes."""

    N: int
    M: int
    D: int
    C: int


#: ImageNet-1K: 45,000 test and 85,908 OOD images of OpenOOD v1.5.
FULL = Size(N=1_281_167, M=130_908, D=2048, C=1000)


@dataclass(frozen=True)
class Case:
    """What a detector costs at a size: multiplications of fit and of score, and bytes beside its inputs."""

    fit: Callable[[Size], float]
    score: Callable[[Size], float]
    num_bytes: Callable[[Size], float]
    formula: str


#: Of a block of float64 features or logits.
BLOCK_BYTES = 2**25


def search_bytes(s: Size, num_rows: int, count: int) -> float:
    """Of a float32 search of a bank: the buffer, results of top-k, queries, and a block of the bank."""
    images, rows = min(s.M, 8192), min(num_rows, 8192)
    return images * (4 * rows + 40 * count + 8 * s.D) + 8 * rows * s.D


CASES = {
    "knn": Case(
        lambda s: s.N * s.D,
        lambda s: s.N * s.M * s.D,
        lambda s: search_bytes(s, s.N, 1128) + min(s.M, 8192) * (4 * s.D + 30 * 1128) + 16 * s.N,
        "fit N D, score N M D",
    ),
    "nnguide": Case(
        lambda s: s.N * s.C,
        lambda s: s.N * s.M * s.D / 100,
        lambda s: max(search_bytes(s, s.N // 100, 100), 3 * BLOCK_BYTES) + 24 * s.N,
        "fit N C, score N M D / 100",
    ),
    "mds": Case(
        lambda s: s.N * s.D**2,
        lambda s: s.M * s.D * (s.D + s.C),
        lambda s: 3 * BLOCK_BYTES + 8 * s.D * (4 * s.D + 3 * s.C),
        "fit N D^2, score M D (D + C)",
    ),
    "rmds": Case(
        lambda s: s.N * s.D**2,
        lambda s: s.M * s.D * (2 * s.D + s.C),
        lambda s: 3 * BLOCK_BYTES + 8 * s.D * (6 * s.D + 3 * s.C),
        "fit N D^2, score M D (2 D + C)",
    ),
    "vim": Case(
        lambda s: 2 * s.N * s.D**2,
        lambda s: s.M * s.D**2,
        lambda s: 3 * BLOCK_BYTES + 40 * s.D**2,
        "fit 2 N D^2, score M D^2",
    ),
    "cop": Case(
        lambda s: s.N * s.D**2,
        lambda s: s.M * s.D**2,
        lambda s: 4 * BLOCK_BYTES + 40 * s.D**2,
        "fit N D^2, score M D^2",
    ),
    "corp": Case(
        lambda s: s.N * (4 * s.D) ** 2,
        lambda s: s.M * (4 * s.D) ** 2,
        lambda s: 4 * 4 * BLOCK_BYTES + 40 * (4 * s.D) ** 2,
        "fit N (4 D)^2, score M (4 D)^2",
    ),
    "relation": Case(
        lambda s: 0,
        lambda s: s.N * s.M * (s.D + s.C),
        lambda s: 2048 * (8 * 2048 + 24 * (s.D + s.C)) + 44 * 2048**2,
        "fit 0, score N M (D + C)",
    ),
    "dice": Case(
        lambda s: s.N * s.D,
        lambda s: s.M * s.D * s.C,
        lambda s: 3 * BLOCK_BYTES + 8 * 4 * s.D * s.C,
        "fit N D, score M D C",
    ),
    "klm": Case(
        lambda s: s.N * s.C,
        lambda s: s.M * s.C**2,
        lambda s: 6 * BLOCK_BYTES + 16 * s.C**2,
        "fit N C, score M C^2",
    ),
}


NOT_IN_PYTORCH_OOD = ("relation", "cop", "corp")


def made_up(num_images: int, size: Size, seed: int) -> tuple[NetworkOutputs, LastLayer]:
    """Rectified features around a mean for each class, a block at a time, so that making them takes no memory."""
    shared = torch.Generator().manual_seed(0)
    means = torch.randn(size.C, size.D, generator=shared)
    layer = LastLayer(means / size.D**0.5, torch.zeros(size.C))
    generator = torch.Generator().manual_seed(seed)
    features, logits = torch.empty(num_images, size.D), torch.empty(num_images, size.C)
    labels = torch.arange(num_images) % size.C
    for start in range(0, num_images, 1024):
        rows = slice(start, start + 1024)
        torch.randn(features[rows].shape, generator=generator, out=features[rows])
        features[rows].add_(means[labels[rows]]).clamp_(min=0)
        logits[rows] = torch.addmm(layer.bias, features[rows], layer.weight.T)
    return NetworkOutputs(features, logits, labels, torch.arange(num_images)), layer


def ours(
    name: str, train: NetworkOutputs, layer: LastLayer
) -> tuple[Callable[[], Any], Callable[[NetworkOutputs], Any], int]:
    """Fit, score, and how many settings are scored."""
    detector = DETECTORS[name]()
    sizes = Sizes.of(train)
    settings = [setting for setting in detector.settings() if detector.with_setting(setting).refusal(sizes) is None]
    settings = settings or [{}]
    return lambda: detector.fit(train, train, layer), lambda test: detector.score_sweep(test, settings), len(settings)


def pytorch_ood(
    name: str, train: NetworkOutputs, layer: LastLayer
) -> tuple[Callable[[], Any], Callable[[NetworkOutputs], Any], int]:
    """The same of pytorch-ood; KNN searches once for each k of the sweep, as that is how it is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_ood import detector as theirs

    def head(features: Tensor) -> Tensor:
        return torch.addmm(layer.bias, features, layer.weight.T)

    features, labels = train.features, train.labels
    if name == "klm":
        detector = theirs.KLMatching(None)
        return lambda: detector.fit_logits(train.logits), lambda test: detector.predict_logits(test.logits), 1
    if name == "nnguide":
        # It has no share of the bank: one gives it the bank.
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(train) // 100]
        features, labels = features[chosen], labels[chosen]
    detector = {
        "knn": lambda: theirs.KNN(None),
        "nnguide": lambda: theirs.NNGuide(None, head, k=100),
        "mds": lambda: theirs.Mahalanobis(None),
        "rmds": lambda: theirs.RMD(None),
        "vim": lambda: theirs.ViM(None, d=train.features.shape[1] // 2, w=layer.weight, b=layer.bias),
        "dice": lambda: theirs.DICE(None, layer.weight, layer.bias, 0.9),
    }[name]()

    def search_for_each_k(test: NetworkOutputs) -> None:
        for detector.k in (k for k in DETECTORS["knn"].sweep["k"] if k <= len(train)):
            detector.predict_features(test.features)

    if name == "knn":
        return lambda: detector.fit_features(features, labels), search_for_each_k, len(DETECTORS["knn"].sweep["k"])
    return lambda: detector.fit_features(features, labels), lambda test: detector.predict_features(test.features), 1


LIBRARIES = {"ours": ours, "pytorch_ood": pytorch_ood}


def peak_bytes() -> int:
    """The most memory this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


def measure_case(library: str, name: str, size: Size) -> dict[str, Any]:
    """Fit and score once, in this process."""
    train, layer = made_up(size.N, size, 0)
    test, _ = made_up(size.M, size, 1)
    # Once on a few images, so that no library is loaded while the clock runs.
    few = Size(N=10_000, M=8, D=8, C=4)
    few_train, few_layer = made_up(few.N, few, 0)
    fit, score, _ = LIBRARIES[library](name, few_train, few_layer)
    fit()
    score(made_up(few.M, few, 1)[0])
    fit, score, num_settings = LIBRARIES[library](name, train, layer)
    before_bytes = peak_bytes()
    start_s = time.perf_counter()
    fit()
    fitted_s = time.perf_counter()
    score(test)
    return {
        "num_settings": num_settings,
        "fit_s": fitted_s - start_s,
        "score_s": time.perf_counter() - fitted_s,
        "peak_mib": (peak_bytes() - before_bytes) / 2**20,
    }


def measure(library: str, name: str, size: Size, *, num_threads: int, limit_s: float) -> dict[str, Any]:
    """`measure_case` in a process of its own; what went wrong if it did not finish."""
    command = [sys.executable, __file__, "--case", library, name, "--threads", str(num_threads)]
    command += ["--bank", str(size.N), "--images", str(size.M), "--features", str(size.D), "--classes", str(size.C)]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished in {limit_s:g} s"}
    if outcome.returncode:
        return {"failed": outcome.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(outcome.stdout)
    return {key: round(value, 3) for key, value in result.items()}


def with_full_size(measured: dict[str, Any], case: Case, size: Size) -> dict[str, Any]:
    """Beside what was measured: its formula at this size and at the full one."""
    mib = {"formula_mib": round(case.num_bytes(size) / 2**20), "full_formula_mib": round(case.num_bytes(FULL) / 2**20)}
    if "failed" in measured:
        return measured | mib
    full_s = {
        f"full_{part}_s": round(measured[f"{part}_s"] * work(FULL) / work(size)) if work(size) else 0
        for part, work in (("fit", case.fit), ("score", case.score))
    }
    return {"formula": case.formula, **measured, **mib, **full_s}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=int, default=65_536, help="training images")
    parser.add_argument("--images", type=int, default=4096, help="images to score")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--detectors", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, default=300, help="seconds that a case may take")
    parser.add_argument("--no-pytorch-ood", action="store_true", help="measure ours alone")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = Size(arguments.bank, arguments.images, arguments.features, arguments.classes)
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(measure_case(*arguments.case, size)))
        return
    cases: dict[str, dict[str, Any]] = {}
    for name in arguments.detectors:
        if not arguments.json:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
        run = {"num_threads": arguments.threads, "limit_s": arguments.limit}
        cases[name] = {"ours": with_full_size(measure("ours", name, size, **run), CASES[name], size)}
        if name not in NOT_IN_PYTORCH_OOD and not arguments.no_pytorch_ood:
            cases[name]["pytorch_ood"] = measure("pytorch_ood", name, size, **run)
    print(
        json.dumps(
            {"size": asdict(size), "full_size": asdict(FULL), "num_threads": arguments.threads, **cases}, indent=1
        )
    )


if __name__ == "__main__":
    main()
