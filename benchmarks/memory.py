"""`python -m benchmarks.memory`: the most memory a process takes that classifies one batch, TensorFlow included."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import typer

from benchmarks.inference import up_to_exit
from benchmarks.measure import load
from benchmarks.report import Out, Report

FORMS = ("layers", "float32", "bfloat16")
PEAK = "peak memory, bytes:"


def main(
    model: Annotated[str, typer.Option(help="A model folder or a preset; an untrained one takes as much.")],
    batch: Annotated[int, typer.Option(help="Images at once, through all exits.")] = 32,
    form: Annotated[str, typer.Option(help=f"One of {', '.join(FORMS)}. [default: each, in its process]")] = "",
    out: Out = None,
) -> None:
    """What `/usr/bin/time -v` calls the maximum resident set size, for the plain layers and both folded forms."""
    if form:
        _classify(model, form, batch)
        print(PEAK, peak())
        return
    report = Report("memory", f"{model}: peak memory of a process that classifies {batch} images, all exits", out)
    rows = [["no model", f"{peak() / 1e9:.2f}"]]
    rows += [[name, f"{_in_a_process(model, name, batch) / 1e9:.2f}"] for name in FORMS]
    report.table(("form", "GB"), rows)
    report.close()


def _classify(model: str, form: str, batch: int) -> None:
    cascade = load(model)
    size = cascade.config.image_size
    images = tf.random.stateless_normal((batch, size, size, 3), (1, 2))
    run = up_to_exit(cascade if form == "layers" else cascade.optimized(form), cascade.num_exits - 1, images)
    for _ in range(3):
        run().numpy()


def _in_a_process(model: str, form: str, batch: int) -> float:
    return peak_of("benchmarks.memory", "--model", model, "--batch", str(batch), "--form", form)


def peak_of(module: str, *arguments: str) -> float:
    """The most memory, bytes, that a program of its own had, which prints it last, behind `PEAK`."""
    command = [sys.executable, "-m", module, *arguments]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(found.stdout.rpartition(PEAK)[2])


def peak() -> float:
    """The most memory, bytes, that this process has had."""
    status = Path("/proc/self/status")  # of Linux, where the other one counts what started this process too
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    typer.run(main)
