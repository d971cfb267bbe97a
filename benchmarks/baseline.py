"""`python -m benchmarks.baseline`: what the folded inference form gains over a plain Keras port of the paper."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import typer

from benchmarks.inference import up_to_exit
from benchmarks.measure import Rounds, interleaved, load
from benchmarks.port import Port
from benchmarks.report import Out, Report

FORMS = ("port", "float32", "bfloat16")
SETTINGS = {0: "all", 1: "1"}  # TensorFlow's threads within an operation, and what the tables call them
_ROUND = 0.03  # seconds that one run of a round takes at least; below it, the clock and a stray thread count too much
_RATIOS = tuple(f"{form} / port" for form in FORMS[1:])
_BEST = "Each with the threads that suit it best, which stand in brackets; ms an image"
_FOUND = "seconds by exit, form and round:"


def main(
    model: Annotated[str, typer.Option(help="A model folder or a preset; an untrained one takes as long.")],
    batch: Annotated[int, typer.Option(help="Images at once.")] = 1,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 9,
    threads: Annotated[
        int | None, typer.Option(help="In this process, as JSON; 0 for all cores. [default: both, a process each]")
    ] = None,
    out: Out = None,
) -> None:
    """Time every exit of a port without a thought for speed and of both folded forms, in the same rounds.

    Ratios are medians over the rounds, with the lowest and highest. TensorFlow's threads are set as a process starts,
    so each setting has its own, one after the other: milliseconds of two settings are compared, not their rounds.
    """
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        print(_FOUND, json.dumps(timed(model, batch, rounds)))
        return
    found = {setting: _in_a_process(model, batch, rounds, setting) for setting in SETTINGS}
    exits = range(len(found[0]))
    report = Report("baseline", f"{model}: a plain Keras port and the folded forms; {rounds} interleaved rounds", out)
    rows = []
    for setting, name in SETTINGS.items():
        for k in exits:
            port, *others = (found[setting][k][form] for form in FORMS)
            rows.append([name, f"{k + 1}", _milliseconds(port, batch), *(run.over(port).show() for run in others)])
    caption = f"Batches of {batch}, by the threads within an operation"
    report.table(("threads", "exit", "port, ms an image", *_RATIOS), rows, caption)
    report.table(("exit", *(f"{form}, ms" for form in FORMS), *_RATIOS), [_best(found, k, batch) for k in exits], _BEST)
    report.close()


def _best(found: Mapping[int, Sequence[Mapping[str, Rounds]]], k: int, batch: int) -> list[str]:
    """The row of exit `k` (0-based) in the second table."""
    runs = {(form, setting): found[setting][k][form] for form in FORMS for setting in SETTINGS}
    best = {form: min(SETTINGS, key=lambda setting: runs[form, setting].middle.median) for form in FORMS}
    port, *others = (runs[chosen].middle.median for chosen in best.items())
    shown = [f"{_milliseconds(runs[chosen], batch)} ({SETTINGS[chosen[1]]})" for chosen in best.items()]
    return [f"{k + 1}", *shown, *(f"{seconds / port:.2f}" for seconds in others)]


def timed(model: str, batch: int, rounds: int) -> list[dict[str, list[float]]]:
    """For every exit the seconds of each form, round by round."""
    cascade = load(model)
    forms = {"port": Port(cascade), **{precision: cascade.optimized(precision) for precision in FORMS[1:]}}
    size = cascade.config.image_size
    images = tf.random.stateless_normal((batch, size, size, 3), (1, 2))
    found = []
    for k in range(cascade.num_exits):
        runs: dict[Any, Callable[[], tf.Tensor]] = {name: up_to_exit(form, k, images) for name, form in forms.items()}
        once = interleaved(runs, rounds=2)
        repeats = math.ceil(_ROUND / min(run.middle.lowest for run in once.values()))
        taken = interleaved(runs, rounds, warm_up=1, repeats=repeats)
        found.append({name: list(run.seconds) for name, run in taken.items()})
    return found


def _in_a_process(model: str, batch: int, rounds: int, threads: int) -> list[dict[str, Rounds]]:
    command = [sys.executable, "-m", "benchmarks.baseline", "--model", model, "--batch", str(batch)]
    command += ["--rounds", str(rounds), "--threads", str(threads)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(printed.rpartition(_FOUND)[2])
    return [{form: Rounds(tuple(seconds)) for form, seconds in forms.items()} for forms in found]


def _milliseconds(run: Rounds, batch: int) -> str:
    return f"{1000 * run.middle.median / batch:.2f}"


if __name__ == "__main__":
    typer.run(main)
