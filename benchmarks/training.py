"""`python -m benchmarks.training`: what a training step of a cascade takes beside its Transformers trained alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import typer
from tensorflow import keras

from benchmarks.measure import Rounds, interleaved
from benchmarks.memory import PEAK, peak, peak_of
from benchmarks.report import Out, Report
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.freed_memory import keep_freed_memory
from dvt_tf.presets import get_preset

PRECISIONS = ("float32", "mixed_bfloat16")
STEPS = 4  # before any is timed, and of which the peak of memory is taken: the second and third are slow as well


class Case(NamedTuple):
    """What is trained: its name in the table, how its configuration differs, and how a step is computed."""

    name: str
    overrides: dict[str, Any]
    remat: bool = False
    compiled: bool = False


WHOLE = (
    Case("neither reuse", {"feature_reuse": "none", "relationship_reuse": "none"}),
    Case("feature reuse alone", {"relationship_reuse": "none"}),
    Case("relationship reuse alone", {"feature_reuse": "none"}),
    Case("the cascade", {}),
    Case("the cascade, remat", {}, remat=True),
)
COMPILED = Case("the cascade, the whole step compiled", {}, compiled=True)


def main(
    model: Annotated[str, typer.Option(help="A preset; weights are fresh.")],
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 64,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 5,
    precisions: Annotated[
        list[str] | None, typer.Option("--precision", help=f"[default: {', '.join(PRECISIONS)}]")
    ] = None,
    compiled: Annotated[bool, typer.Option("--jit", help="Also have XLA compile the whole step.")] = False,
    memory: Annotated[bool, typer.Option(help="Also take each one's peak of memory, in a process of its own.")] = True,
    case: Annotated[str, typer.Option(help="Print the peak of this process with one of them alone.")] = "",
    out: Out = None,
) -> None:
    """Time a step of `fit`, in the same rounds, of a cascade and of each of its Transformers alone.

    Each has AdamW and a loss for every exit, on one fixed batch of noise: neither data nor callbacks are timed. Ratios
    are medians over the rounds, with the lowest and highest, to the sum of the Transformers alone in the same round.
    Memory is what a process has at most, above one without a model.
    """
    alone = [Case(f"{grid}x{grid} alone", {"token_grids": (grid,)}) for grid in get_preset(model).config.token_grids]
    cases = [*alone, *WHOLE, *([COMPILED] if compiled else [])]
    keep_freed_memory()  # as a run does
    if case:
        before = peak()
        step = step_of(
            model, next(one for one in (*cases, COMPILED) if one.name == case), (precisions or PRECISIONS)[0], batch
        )
        for _ in range(STEPS):
            step()
        print(PEAK, peak() - before)
        return
    report = Report("training", f"{model}: a training step of {batch} images; {rounds} interleaved rounds", out)
    report.say(f"Without a model the process takes {peak() / 1e9:.2f} GB; below is what comes on top.")
    for precision in precisions or PRECISIONS:
        given = ("--model", model, "--batch", str(batch), "--precision", precision)
        used = [
            peak_of("benchmarks.training", *given, "--case", one.name) if memory else math.nan for one in cases
        ]  # first, while this process is small itself
        found = interleaved({one.name: step_of(model, one, precision, batch) for one in cases}, rounds, STEPS)
        times = [found[one.name] for one in cases]
        several = slice(len(alone))
        together = Rounds(tuple(map(sum, zip(*(one.seconds for one in times[several]), strict=True))))
        rows = [
            [one.name, *_row(time, its, together, used[several])]
            for one, time, its in zip(cases, times, used, strict=True)
        ]
        rows.insert(len(alone), ["their sum", *_row(together, sum(used[several]), together, used[several])])
        headings = ("what", "step, ms", "over the sum", "peak, GB", "over the largest alone", "over the sum")
        shown = len(headings) if memory else 3
        report.table(headings[:shown], [row[:shown] for row in rows], precision)
    report.close()


def step_of(model: str, case: Case, precision: str, batch: int) -> Callable[[], float]:
    """One step of `fit` on a fixed batch of noise -> its loss."""
    cascade = DynamicVisionTransformer.from_preset(model, load_weights=False, dtype=precision, **case.overrides)
    cascade.remat = case.remat
    exits = [f"exit_{k + 1}" for k in range(cascade.num_exits)]
    cascade.compile(
        optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.05),
        loss={key: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for key in exits},
        jit_compile=case.compiled,
    )
    size, classes = cascade.config.image_size, cascade.config.num_classes
    images = tf.random.stateless_normal((batch, size, size, 3), (1, 2))
    labels = tf.random.stateless_uniform((batch,), (3, 4), 0, classes, tf.int32)
    batches = iter(tf.data.Dataset.from_tensors((images, dict.fromkeys(exits, labels))).repeat())
    step = cascade.make_train_function() or cascade.train_function  # Keras 3 only sets it
    return lambda: float(step(batches)["loss"])


def _row(found: Rounds, used: float, together: Rounds, alone: Sequence[float]) -> list[str]:
    return [
        f"{1000 * found.middle.median:.0f}",
        found.over(together).show(),
        *(f"{value:.2f}" for value in (used / 1e9, used / max(alone), used / sum(alone))),
    ]


if __name__ == "__main__":
    typer.run(main)
