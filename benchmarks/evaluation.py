"""Speed of an evaluation: one pass for all detectors, against one pass per detector and per setting, as OpenOOD works.

python benchmarks/evaluation.py --json
python benchmarks/evaluation.py --width 8 --train 1500 --test 300 --val 200        # quick
python benchmarks/evaluation.py --width 64 --no-odin                               # ResNet-18 itself: an hour on a core

The SIO paper's post-hoc detectors on a ResNet-18 for 32 px, seven test sets (one ID, two near, four far), sweeps of
OpenOOD v1.5 on validation sets. One core for each side, or one GPU.

- plain: for every detector that fits, a pass over what it fits on; for every setting of its sweep, a pass over ID and
  OOD validation images; then a pass over each test set. Scores of a set are computed at once, where OpenOOD loops over
  images for OpenMax, KLM and GradNorm: what is compared is the passes. Pictures lie decoded in memory, and no time is
  counted for starting a process or loading the network.
- ours: what `sio-ray evaluate` runs once Ray is there: actors start, read Parquet, run the network, write its outputs;
  tasks fit, sweep, score and compare. `extract_s` is all extraction by the clock, with the start of actors, `network_s`
  the passes in it; the other seconds are sums over detectors.

Both keep to the same network, pictures and settings; `largest_auroc_difference` is over all detectors and sets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from scipy.stats import weibull_min
from torch import Tensor

from sio_ray.classifier.checkpoint import load_classifier, save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.config import ClusterConfig, EvaluateConfig
from sio_ray.config.evaluate_section import PAPER_DETECTORS
from sio_ray.imageset import ImageArrays, ImageSet, ImageSetInfo, write_image_set
from sio_ray.ood.detectors import DETECTORS, build_detectors
from sio_ray.ood.metrics import auroc, ood_metrics
from sio_ray.provenance import machine, versions

NUM_CLASSES, SIDE_PX, BATCH = 10, 32, 200
CLASSES = tuple(map(str, range(NUM_CLASSES)))
OOD_SETS = (("near", "a"), ("near", "b"), ("far", "c"), ("far", "d"), ("far", "e"), ("far", "f"))
ID_SETS = ("train", "val", "test")
VAL_OOD = ("near", "val")


# What is evaluated.


def patterns(count: int, rng: np.random.Generator) -> np.ndarray:
    """Coarse coloured patterns, (count, 3, 32, 32) in [0, 255]."""
    return np.kron(rng.uniform(40, 215, (count, 3, 4, 4)), np.ones((1, 1, 8, 8)))


def noisy(of: np.ndarray, count: int, rng: np.random.Generator) -> ImageArrays:
    """Pictures of patterns in turn, under noise."""
    images = of[np.arange(count) % len(of)] + rng.normal(0, 60, (count, 3, SIDE_PX, SIDE_PX))
    return ImageArrays(images.clip(0, 255).astype(np.uint8), np.arange(count) % len(of), np.arange(count))


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the image sets and the checkpoint."""
    rng = np.random.default_rng(0)
    classes = patterns(NUM_CLASSES, rng)
    info = ImageSetInfo(class_names=CLASSES, height_px=SIDE_PX, width_px=SIDE_PX, channels=3)
    counts = {"train": arguments.train, "val": arguments.val, "test": arguments.test}
    id_sets = {name: noisy(classes, count, rng) for name, count in counts.items()}
    for name, arrays in id_sets.items():
        write_image_set(folder / name, info, arrays.images, arrays.labels)
    for group, name in (*OOD_SETS, VAL_OOD):
        others = patterns(NUM_CLASSES, rng)
        # Near ones are halfway to a class.
        arrays = noisy((classes + others) / 2 if group == "near" else others, counts.get(name, arguments.test), rng)
        no_labels = np.full(len(arrays), -1)
        write_image_set(folder / group / name, info.model_copy(update={"class_names": ()}), arrays.images, no_labels)
    write_network(folder / "checkpoint", id_sets["train"], arguments.width)


@torch.no_grad()
def write_network(folder: Path, train: ImageArrays, width: int) -> None:
    """Random convolutions, and the last layer that takes each feature for the class with the nearest mean."""
    torch.manual_seed(0)
    architecture = Architecture(
        network="resnet18_32px",
        width=width,
        class_names=CLASSES,
        image_shape=(3, SIDE_PX, SIDE_PX),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    classifier = Classifier(architecture)
    images = torch.from_numpy(train.images[:500]).float() / 255
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the batch's own statistics
    classifier.train()(images)
    features = classifier.eval().features(images)
    means = torch.stack([features[c::NUM_CLASSES].mean(0) for c in range(NUM_CLASSES)])
    sharpness = 10 / torch.pdist(means).square().mean()
    classifier.head.weight.copy_(2 * sharpness * means)
    classifier.head.bias.copy_(-sharpness * means.square().sum(1))
    save_classifier(folder, architecture, classifier.state_dict())


def section_of(arguments: argparse.Namespace, *, with_odin: bool, workers: int) -> EvaluateConfig:
    """What to evaluate: ViM's dim of half the features is OpenOOD's 256 for the real network."""
    names = [name for name in PAPER_DETECTORS if with_odin or name != "odin"]
    gpus = 1 / workers if torch.cuda.is_available() else 0
    options = {"vim": {"dim": 4 * arguments.width}}
    return EvaluateConfig(
        detectors=names, detector_options=options, batch_size=BATCH, num_actors=workers, gpus_per_task=gpus
    )


# The plain side.


class PlainRun:
    """A network that is run again for everybody who asks.

    Attributes:
        num_forwards: pictures that went through the network.
        num_backwards: pictures whose gradient was taken.
        head: the last layer.
    """

    def __init__(self, folder: Path, num_train: int, dim: int) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = load_classifier(folder / "checkpoint").to(self._device).requires_grad_(False)
        self._sets = {name: ImageSet(folder / name).read() for name in ID_SETS}
        self._sets |= {"/".join(key): ImageSet(folder.joinpath(*key)).read() for key in (*OOD_SETS, VAL_OOD)}
        self.num_forwards = self.num_backwards = 0
        self.head, self.num_train, self.dim = self._network.last_layer, num_train, dim

    def labels(self, name: str) -> Tensor:
        """Of a set."""
        return torch.from_numpy(self._sets[name].labels).to(self._device)

    def outputs(self, name: str) -> tuple[Tensor, Tensor]:
        """One pass over a set: features and logits."""
        with torch.no_grad():
            features = torch.cat([self._features(images) for images in self._batches(name)])
        return features, self.head(features)

    def odin(self, name: str, temperature: float, epsilon: float) -> Tensor:
        """One pass over a set with ODIN's step: logits of the pictures after it."""
        logits = []
        for images in self._batches(name):
            images.requires_grad_()
            found = self.head(self._features(images)) / temperature
            F.cross_entropy(found, found.argmax(1), reduction="sum").backward()
            self.num_backwards += len(images)
            moved = images.detach() - epsilon * torch.where(images.grad >= 0, 1.0, -1.0)
            with torch.no_grad():
                logits.append(self.head(self._features(moved)))
        return torch.cat(logits)

    def _batches(self, name: str) -> Iterator[Tensor]:
        images = self._sets[name].images
        for start in range(0, len(images), BATCH):
            yield torch.from_numpy(images[start : start + BATCH]).to(self._device).float() / 255

    def _features(self, images: Tensor) -> Tensor:
        self.num_forwards += len(images)
        return self._network.features(images)


@dataclass(frozen=True)
class Plain:
    """A detector as one writes it down: what it fits, and the score of features x and logits z."""

    score: Callable[[Tensor, Tensor, Any, Any], Tensor]
    fit: Callable[[PlainRun], Any] = lambda run: run.head
    settings: tuple[Any, ...] = (None,)


def fit_temperature(run: PlainRun) -> float:
    """The temperature of the smallest cross-entropy on validation images."""
    _, logits = run.outputs("val")
    log_t = torch.zeros((), device=logits.device, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits.double() / log_t.exp(), run.labels("val"))
        value.backward()
        return value

    optimizer.step(loss)
    return log_t.exp().item()


def fit_openmax(run: PlainRun) -> tuple[Tensor, list[Any]]:
    """Mean logits of each class, and the Weibull distribution of the largest distances to them."""
    _, logits = run.outputs("train")
    labels = run.labels("train")
    means, tails = [], []
    for c in range(NUM_CLASSES):
        of_class = logits[(labels == c) & (logits.argmax(1) == c)].double()
        means.append(of_class.mean(0))
        tail = (of_class - means[-1]).norm(dim=1).sort().values[-20:].cpu().numpy()
        tails.append((tail[0], *weibull_min.fit(tail - tail[0] + 1, floc=0)))
    return torch.stack(means), tails


def score_openmax(x: Tensor, z: Tensor, fitted: tuple[Tensor, list[Any]], setting: None) -> Tensor:
    """Log odds of the unknown class."""
    means, tails = fitted
    z = z.double()
    distances = torch.cdist(z, means).cpu().numpy()
    surely = [weibull_min.cdf(distances[:, c] - low + 1, *of) for c, (low, *of) in enumerate(tails)]
    rank = z.argsort(1, descending=True).argsort(1)
    unknown = z * torch.from_numpy(np.stack(surely, 1)).to(z) * ((3 - rank).clamp(min=0) / 3)
    return unknown.sum(1) - (z - unknown).logsumexp(1)


def fit_klm(run: PlainRun) -> Tensor:
    """Log of the mean softmax of each predicted class."""
    _, z = run.outputs("val")
    p = z.double().softmax(1)
    return torch.stack([p[z.argmax(1) == c].mean(0) for c in z.argmax(1).unique()]).log()


def fit_vim(run: PlainRun) -> tuple[Tensor, Tensor, float]:
    """Origin, residual space, and what brings the residual to the size of the largest logit."""
    x, z = run.outputs("train")
    weight, bias = run.head.weight.double(), run.head.bias.double()
    origin = -torch.linalg.pinv(weight) @ bias
    centred = x.double() - origin
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    residual = vectors[:, : x.shape[1] - run.dim]
    return origin, residual, float(z.amax(1).double().mean() / (centred @ residual).norm(dim=1).mean())


def score_vim(x: Tensor, z: Tensor, fitted: tuple[Tensor, Tensor, float], setting: None) -> Tensor:
    """Scaled residual less the log-sum-exp of the logits."""
    origin, residual, alpha = fitted
    return alpha * ((x.double() - origin) @ residual).norm(dim=1) - z.double().logsumexp(1)


def fit_dice(run: PlainRun) -> tuple[Tensor, Tensor]:
    """The last layer without the weights that contribute little."""
    x, _ = run.outputs("train")
    contributions = x.mean(0) * run.head.weight
    threshold = np.percentile(contributions.cpu().numpy(), 90)
    return run.head.weight * (contributions > threshold), run.head.bias


def score_grad_norm(x: Tensor, z: Tensor, head: Any, setting: None) -> Tensor:
    """Closed form of the gradient's norm."""
    return -x.double().abs().sum(1) * (NUM_CLASSES * z.double().softmax(1) - 1).abs().sum(1)


def score_knn(x: Tensor, z: Tensor, bank: Tensor, k: int) -> Tensor:
    """Distance to the k-th neighbour."""
    nearest = (F.normalize(x) @ bank.T).topk(k, 1).values[:, -1]
    return (2 - 2 * nearest).clamp(min=0).sqrt()


PLAIN = {
    "msp": Plain(lambda x, z, head, setting: -z.double().softmax(1).amax(1)),
    "temp_scale": Plain(lambda x, z, t, setting: -(z.double() / t).softmax(1).amax(1), fit_temperature),
    "max_logit": Plain(lambda x, z, head, setting: -z.amax(1)),
    "energy": Plain(lambda x, z, head, setting: -z.double().logsumexp(1)),
    "openmax": Plain(score_openmax, fit_openmax),
    "klm": Plain(
        lambda x, z, typical, setting: (
            (z.double().softmax(1) * z.double().log_softmax(1)).sum(1) - (z.double().softmax(1) @ typical.T).amax(1)
        ),
        fit_klm,
    ),
    "react": Plain(
        lambda x, z, fitted, p: -fitted[0](x.clamp(max=float(np.percentile(fitted[1], p)))).logsumexp(1),
        lambda run: (run.head, run.outputs("val")[0].cpu().numpy()),
        (85, 90, 95, 99),
    ),
    "dice": Plain(lambda x, z, layer, setting: -F.linear(x, *layer).logsumexp(1), fit_dice),
    "grad_norm": Plain(score_grad_norm),
    "knn": Plain(score_knn, lambda run: F.normalize(run.outputs("train")[0]), (50, 100, 200, 500, 1000)),
    "vim": Plain(score_vim, fit_vim),
}
ODIN_SETTINGS = tuple((temperature, epsilon) for temperature in (1, 10, 100, 1000) for epsilon in (0.0014, 0.0028))


@torch.no_grad()
def evaluate_plainly(run: PlainRun, name: str) -> dict[str, float]:
    """One detector: AUROC of each OOD set."""
    if name == "odin":

        def scores_of(image_set: str, setting: Any) -> np.ndarray:
            with torch.enable_grad():
                logits = run.odin(image_set, *setting)
            return -(logits.double() / setting[0]).softmax(1).amax(1).cpu().numpy()

        settings: tuple[Any, ...] = ODIN_SETTINGS
    else:
        plain = PLAIN[name]
        with torch.enable_grad():
            fitted = plain.fit(run)

        def scores_of(image_set: str, setting: Any) -> np.ndarray:
            return plain.score(*run.outputs(image_set), fitted, setting).cpu().numpy()

        settings = tuple(each for each in plain.settings if name != "knn" or each <= run.num_train)
    best = settings[0]
    if len(settings) > 1:
        best = max(settings, key=lambda each: auroc(scores_of("val", each), scores_of("/".join(VAL_OOD), each)))
    of_id = scores_of("test", best)
    return {"/".join(key): ood_metrics(of_id, scores_of("/".join(key), best)).auroc for key in OOD_SETS}


def measure_plain(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every detector, and what it found."""
    torch.set_num_threads(1)
    run = PlainRun(folder, arguments.train, 4 * arguments.width)
    run.outputs("val")  # warms up
    run.num_forwards = 0
    seconds, aurocs, forwards = {}, {}, {}
    for name in section_of(arguments, with_odin=not arguments.no_odin, workers=1).detectors:
        start_s, before = time.perf_counter(), run.num_forwards
        aurocs[name] = evaluate_plainly(run, name)
        seconds[name], forwards[name] = time.perf_counter() - start_s, run.num_forwards - before
    return {"seconds": seconds, "forwards": forwards, "backwards": run.num_backwards, "aurocs": aurocs}


# Ours.


def measure_ours(folder: Path, arguments: argparse.Namespace, *, with_odin: bool, workers: int) -> dict[str, Any]:
    """The stage's own work, from nothing but image sets and a checkpoint to scores and metrics."""
    import ray

    from sio_ray.cluster import connect
    from sio_ray.evaluation.networks import check_references, load_network
    from sio_ray.evaluation.scoring import Parts, score
    from sio_ray.evaluation.subjects import EvaluatedSets, Subject, extract_sets
    from sio_ray.ood.extract import last_layer_of

    section, cluster = section_of(arguments, with_odin=with_odin, workers=workers), ClusterConfig(num_cpus=workers)
    connect(cluster)
    ray.get(ray.remote(_nothing).remote())  # Ray is up once it has run something
    start_s = time.perf_counter()
    info = ImageSet(folder / "train").info
    (checked,) = check_references([str(folder / "checkpoint")], info)
    out = folder / f"ours-{with_odin}-{workers}"
    subject = Subject(
        arm="baseline",
        seed=0,
        references=(checked.reference,),
        sha256=(checked.sha256,),
        last_layer=last_layer_of(load_network([checked.reference], info)),
        detectors=tuple(build_detectors(section.detectors, section.detector_options)),
        folder=str(out / "outputs"),
    )
    sets = EvaluatedSets(
        **{name: str(folder / name) for name in ID_SETS},
        ood={key: str(folder.joinpath(*key)) for key in OOD_SETS},
        val_ood={VAL_OOD: str(folder.joinpath(*VAL_OOD))},
        shifted={},
    )
    (extracted,), cost = extract_sets([subject], sets, section, cluster)
    extracted_s = time.perf_counter()
    shared, parts = extracted.share(), Parts(str(out / "parts"))
    task = ray.remote(num_cpus=section.cpus_per_task, num_gpus=section.gpus_per_task)(score)
    ray.get([task.remote(name, shared, section, parts) for name in section.detectors])
    end_s = time.perf_counter()
    ray.shutdown()
    read = {name: parts.read(name) for name in section.detectors}
    return {
        "total_s": end_s - start_s,
        "extract_s": extracted_s - start_s,
        "network_s": cost.network_s,
        **{
            name: sum(part["seconds"][name] for part in read.values())
            for name in ("fit_s", "sweep_s", "score_s", "metrics_s")
        },
        "images": cost.num_images,
        "aurocs": {
            name: {f"{row['group']}/{row['ood_set']}": row["auroc"] for row in part["metrics"]}
            for name, part in read.items()
        },
    }


def _nothing() -> None:
    """Runs in a task."""


# Side by side.

MEASUREMENTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "plain": measure_plain,
    "one_worker": partial(measure_ours, with_odin=False, workers=1),
    "two_workers": partial(measure_ours, with_odin=False, workers=2),
    "one_worker_with_odin": partial(measure_ours, with_odin=True, workers=1),
}


def in_process(name: str, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """A measurement in a process of its own; with the most memory that it and what it starts have at once.

    Memory is looked at twice a second. What processes share counts once.
    """
    command = [sys.executable, __file__, *arguments, "--part", name, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak_bytes = 0
    while process.poll() is None:
        found = 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            for each in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    found += each.memory_full_info().pss
        peak_bytes = max(peak_bytes, found)
        time.sleep(0.5)
    assert process.stdout is not None
    printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"measuring {name} ended with {process.returncode}")
    return {**json.loads(printed.splitlines()[-1]), "peak_mib": peak_bytes / 2**20}


def compare(measured: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """The result: what each side took, and the ratios."""
    plain = measured["plain"]
    odin_s = plain["seconds"].get("odin", 0)
    features_s = sum(plain["seconds"].values()) - odin_s
    differences = [
        abs(found - plain["aurocs"][detector][ood_set])
        for name, of_run in measured.items()
        if name != "plain"
        for detector, of_detector in of_run["aurocs"].items()
        for ood_set, found in of_detector.items()
    ]
    one, two, odin = (measured.get(name) for name in ("one_worker", "two_workers", "one_worker_with_odin"))
    ratios = {
        "ratio_without_odin": features_s / one["total_s"],
        "two_workers_over_one": one["total_s"] / two["total_s"],
    }
    if odin is not None:
        ratios["ratio_with_odin"] = (features_s + odin_s) / odin["total_s"]
    return {
        "network": f"resnet18_32px of width {arguments.width}",
        "machine": machine(),
        "versions": versions(),
        "runs_on": "the GPU, shared by workers" if torch.cuda.is_available() else "one core for each worker",
        "num_train": arguments.train,
        "num_test_images": (1 + len(OOD_SETS)) * arguments.test,
        "num_val_images": 2 * arguments.val,
        "plain": {
            "without_odin_s": round(features_s, 1),
            "odin_s": round(odin_s, 1),
            "forwards": sum(plain["forwards"].values()),
            "backwards": plain["backwards"],
            "peak_mib": round(plain["peak_mib"]),
            "seconds": {name: round(value, 1) for name, value in plain["seconds"].items()},
        },
        **{
            name: {key: round(value, 1) for key, value in of_run.items() if key != "aurocs"}
            for name, of_run in measured.items()
            if name != "plain"
        },
        **{name: round(value, 2) for name, value in ratios.items()},
        "largest_auroc_difference": max(differences),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_width = 64 if torch.cuda.is_available() else 12
    parser.add_argument(
        "--width", type=int, default=default_width, help="of the network; 64 is ResNet-18 (default: %(default)s)"
    )
    parser.add_argument("--train", type=int, default=5000, help="training images (default: %(default)s)")
    parser.add_argument(
        "--test", type=int, default=2900, help="images of each of the seven test sets (default: %(default)s)"
    )
    parser.add_argument("--val", type=int, default=300, help="images of each validation set (default: %(default)s)")
    parser.add_argument("--no-odin", action="store_true", help="leave out the runs with ODIN")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    assert set(PLAIN) | {"odin"} == set(PAPER_DETECTORS) <= set(DETECTORS)
    if arguments.part:
        name, folder = arguments.part
        print(json.dumps(MEASUREMENTS[name](Path(folder), arguments)))
        return
    measured = {}
    with tempfile.TemporaryDirectory(prefix="sio_ray_evaluation_") as folder:
        prepare(Path(folder), arguments)
        for name in MEASUREMENTS:
            if not (arguments.no_odin and name.endswith("_odin")):
                if not arguments.json:
                    print(f"measuring {name} ...", file=sys.stderr, flush=True)
                measured[name] = in_process(name, Path(folder), sys.argv[1:])
    print(json.dumps(compare(measured, arguments), indent=1))


if __name__ == "__main__":
    main()
