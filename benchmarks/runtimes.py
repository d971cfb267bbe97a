"""`python -m benchmarks.runtimes`: DeiT-S alone and the cascade, against the runtimes a user would take instead."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import typer

from benchmarks.measure import Middle, Rounds, interleaved
from benchmarks.other_runtimes import OURS, RUNTIMES
from benchmarks.report import Out, Report
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights
from dvt_tf.presets import CascadeConfig, get_preset
from dvt_tf.processor import available_cores
from dvt_tf.published import published_weight

CASCADE = "dvt_deit_small"
# Shares of the images that leave at each exit.
MIXES: dict[str, tuple[float, ...]] = {
    "all at exit 1": (1, 0, 0),
    "all at exit 2": (0, 1, 0),
    "all at exit 3": (0, 0, 1),
    "60/25/15 %": (0.60, 0.25, 0.15),
    "a third each": (1 / 3, 1 / 3, 1 / 3),
}
INSTALL = "python -m pip install -r requirements-pytorch.txt -r requirements-benchmarks.txt"
_TOLERANCE = 1e-3  # of a float32 logit, from what our plain layers say
_IMAGES = 16  # in a run of a round at least: of a few milliseconds, too much would be caches still cold
_ROOT = Path(__file__).parents[1]


def main(
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Images at once. [default: 1, 32]")] = None,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 5,
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", help=f"Some of {', '.join(RUNTIMES)}. [default: all]")
    ] = None,
    out: Out = None,
) -> None:
    """Time DeiT-S alone under every runtime, and the cascade with some shares of images leaving early.

    All have the same weights, and in float32 give the same logits, which is checked first. Each runtime has a process
    of its own with a thread for every core, and all take turns in every round. Ratios are medians over the rounds, with
    the lowest and highest. It is time alone: where images leave and how many answers are right, trained weights decide.
    """
    unknown = sorted(set(runtimes or ()) - set(RUNTIMES))
    if unknown:
        raise typer.BadParameter(f"no runtime {', '.join(unknown)}; there are {', '.join(RUNTIMES)}")
    names = [name for name in RUNTIMES if name == OURS or name in (runtimes or RUNTIMES)]
    report = Report("runtimes", f"DeiT-S alone, and {CASCADE}; {rounds} interleaved rounds", out)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(get_preset(CASCADE).config, batches or (1, 32), rounds, names, Path(folder))
    report.say(", ".join(f"{name} {version}" for name, version in found.versions.items() if name != OURS))
    for note in found.notes:
        report.say(note)
    show(found, report)
    report.close()


class Contender(NamedTuple):
    """DeiT-S alone, or our cascade, in one form of one runtime; `place` is the form's among the runtime's."""

    runtime: str
    place: int
    kind: str
    precision: str

    @property
    def is_cascade(self) -> bool:
        """Whether it is the cascade."""
        return self.kind == "cascade"

    @property
    def title(self) -> str:
        """Its name without the precision."""
        return f"{self.runtime} {self.kind}".strip()


class Found(NamedTuple):
    """What was measured.

    versions: of each runtime that is there. notes: what is not there or does not run. differences: of each batch and
    contender, the largest of a logit from our plain layers'. alone: seconds a batch, of each batch and contender.
    mixes: seconds a batch, of each batch, cascade and name in `MIXES`.
    """

    versions: dict[str, str]
    notes: list[str]
    differences: dict[tuple[int, Contender], float]
    alone: dict[tuple[int, Contender], Rounds]
    mixes: dict[tuple[int, Contender, str], Rounds]


def compare(config: CascadeConfig, batches: Sequence[int], rounds: int, names: Sequence[str], folder: Path) -> Found:
    """Measures.

    Args:
        config: a cascade of three Transformers on patches; the one of its last grid is also timed alone.
        batches: images at once. rounds: that are kept. names: of `RUNTIMES`, ours among them. folder: for files.

    Raises:
        RuntimeError: logits that differ in float32, a form of ours that does not run, or a process that ended.
    """
    write_work(config, batches, folder)
    found = Found({}, [], {}, {}, {})
    with contextlib.ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name in names:
            process = stack.enter_context(running(name, folder))
            if "missing" in process.about:
                found.notes.append(f"{name}: not installed ({process.about['missing']} is missing): {INSTALL}")
                continue
            found.versions[name] = process.about["version"]
            processes[name] = process
        contenders = [
            Contender(name, place, *form)
            for name, process in processes.items()
            for place, form in enumerate(process.about["forms"])
        ]
        for batch in batches:
            _compare_batch(batch, rounds, contenders, processes, found)
    return found


def _compare_batch(
    batch: int, rounds: int, contenders: Sequence[Contender], processes: Mapping[str, Process], found: Found
) -> None:
    """Prepares and checks every contender for a batch, then times those that run."""
    repeats = -(-_IMAGES // batch)
    runs: dict[tuple[Contender, tuple[int, ...]], Callable[[], Any]] = {}
    for contender in contenders:
        ask = functools.partial(processes[contender.runtime].ask, form=contender.place, batch=batch)
        for exits in sorted({mix_counts(shares, batch) for shares in MIXES.values()}) if contender.is_cascade else [()]:
            answer = ask(exits=exits, repeats=0)
            if "error" in answer:
                note = f"{contender.title}, {contender.precision}: does not run here: {answer['error']}"
                if contender.runtime == OURS:  # everything is compared with it
                    raise RuntimeError(note)
                found.notes.append(note)
                break
            runs[contender, exits] = functools.partial(ask, exits=exits, repeats=repeats)
            if not contender.is_cascade:
                found.differences[batch, contender] = answer["difference"]
                if contender.precision == "float32" and not answer["difference"] <= _TOLERANCE:
                    raise RuntimeError(f"{contender.title}: a logit differs by {answer['difference']:.2g} from ours")
    taken = interleaved(runs, rounds, warm_up=1)
    seconds = {key: tuple(each / repeats for each in run.seconds) for key, run in taken.items()}
    for contender in dict.fromkeys(contender for contender, _ in runs):
        if contender.is_cascade:
            for mix, shares in MIXES.items():
                found.mixes[batch, contender, mix] = Rounds(mix_seconds(seconds, contender, shares, batch))
        else:
            found.alone[batch, contender] = Rounds(seconds[contender, ()])


def mix_seconds(
    taken: Mapping[tuple[Contender, tuple[int, ...]], tuple[float, ...]],
    cascade: Contender,
    shares: Sequence[float],
    batch: int,
) -> tuple[float, ...]:
    """The seconds that a batch takes with these shares, round by round.

    One image leaves at one exit, so alone it takes the mean over the exits.

    Args:
        taken: seconds a batch by contender and images leaving at each exit, round by round.
    """
    if batch > 1:
        return taken[cascade, mix_counts(shares, batch)]
    exits = [taken[cascade, tuple(row)] for row in np.eye(len(shares), dtype=int).tolist()]
    return tuple(float(np.dot(shares, each)) for each in zip(*exits, strict=True))


def mix_counts(shares: Sequence[float], batch: int) -> tuple[int, ...]:
    """How many images of a batch leave at each exit: the shares, rounded so that they make a batch."""
    exact = np.asarray(shares, np.float64) / np.sum(shares) * batch
    counts = np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: batch - counts.sum()]] += 1
    return tuple(counts.tolist())


def break_even(first: float, last: float, other: float) -> float:
    """The share of images above which the cascade is faster on average than another model.

    Args:
        first, last: seconds an image that leaves at the first exit, and at the last, as all others are to.
        other: seconds an image of the other model.

    Returns:
        Below 0 where the cascade is always faster, 1 and above where it never is.
    """
    if first >= last:  # leaving early gains nothing
        return -np.inf if first < other else np.inf
    return (last - other) / (last - first)


def show_share(share: Middle) -> str:
    """`73 % (70-75)`; always or never where no share makes a difference."""
    if share.median < 0 or share.median >= 1:
        return "always" if share.median < 0 else "never"
    return "{:.0f} % ({:.0f}-{:.0f})".format(*(100 * min(max(each, 0), 1) for each in share))


def show(found: Found, report: Report) -> None:
    """The tables: DeiT-S alone under every runtime; then the cascade against these, by batch and precision."""
    rows = []
    for (batch, contender), run in found.alone.items():
        ours = next(other for key, other in found.alone.items() if key[0] == batch)  # the first: folded, float32
        rows.append(
            [
                contender.title,
                contender.precision,
                f"{batch}",
                run.rate(batch).show("{:.1f}"),
                ours.over(run).show(),
                f"{found.differences[batch, contender]:.1g}",
            ]
        )
    headings = ("runtime", "precision", "batch", "images a second", "times our float32", "logits differ by up to")
    report.table(headings, rows, "DeiT-S alone, all with the same weights")
    for batch, cascade in dict.fromkeys(key[:2] for key in found.mixes):
        mixes = {mix: found.mixes[batch, cascade, mix] for mix in MIXES}
        rows = [["(images a second)", *(run.rate(batch).show("{:.1f}") for run in mixes.values()), ""]]
        for (batch_, other), run in found.alone.items():
            if batch_ == batch:
                times = zip(mixes["all at exit 1"].seconds, mixes["all at exit 3"].seconds, run.seconds, strict=True)
                shares = [break_even(*each) for each in times]
                share = show_share(Middle(statistics.median(shares), min(shares), max(shares)))
                ratios = (f"{run.over(mix).median:.2f}" for mix in mixes.values())
                rows.append([f"{other.title}, {other.precision}", *ratios, share])
        caption = (
            f"The cascade in {cascade.precision}, batches of {batch}: how many times as fast as DeiT-S alone under"
        )
        report.table(("", *mixes, "break-even"), rows, caption)
    report.say(
        "Break-even: the share of images above which the cascade is faster, if they leave at exit 1 and the rest at 3."
    )


class Process:
    """A runtime in its own process; `about` is what it first says of itself (see `benchmarks.other_runtimes.serve`)."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.about = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer to a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended ({self._process.wait()}):\n{self._log.read_text()[-2000:]}")
        return json.loads(line)


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Process]:
    """One of `RUNTIMES` in its process, with the work in `folder`, until the end of the context."""
    log, threads = folder / f"{name}.log", f"{available_cores()}"
    quiet = {"PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.other_runtimes", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=_ROOT,
            env={**os.environ, **quiet, "OMP_NUM_THREADS": threads},
        ) as process,
    ):
        yield Process(process, log)  # leaving closes its stdin, at which it ends


def write_work(config: CascadeConfig, batches: Sequence[int], folder: Path) -> None:
    """What `benchmarks.other_runtimes.Work` reads: random weights for DeiT alone, images, and what our layers say."""
    model = DynamicVisionTransformer(dataclasses.replace(config, token_grids=config.token_grids[-1:]))
    model.build()
    random = np.random.default_rng(0)
    for name, weight in named_weights(model):  # fresh ones would not show whether a bias or a scale is in its place
        shape = tuple(weight.shape)
        spread = 1 / np.sqrt(np.prod(shape[:-1])) if name.endswith("kernel") else 0.1
        weight.assign(float(name.endswith("gamma")) + spread * random.standard_normal(shape))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    np.savez(folder / "weights.npz", **published_state(model))
    size = config.image_size
    for batch in batches:
        images = random.standard_normal((batch, size, size, 3)).astype(np.float32)
        np.save(folder / f"images_{batch}.npy", images)
        np.save(folder / f"logits_{batch}.npy", model(images)["exit_1"].numpy())


def published_state(model: DynamicVisionTransformer) -> dict[str, np.ndarray]:
    """The weights of a single Transformer on patches under the published names, which are also timm's: the inverse of
    `dvt_tf.published.load_published_weights`.
    """
    state = {}
    for name, weight in named_weights(model):
        array = weight.numpy()
        if name.endswith(".kernel"):
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T  # (h, w, in, out) -> (out, in, h, w)
        state[published_weight(name, tuple(weight.shape), model.config, ("",)).name] = np.ascontiguousarray(array)
    return state


if __name__ == "__main__":
    typer.run(main)
