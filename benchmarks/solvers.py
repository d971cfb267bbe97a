"""`python -m benchmarks.solvers`: what choosing thresholds costs, for one budget and for a whole curve."""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import numpy as np
import typer

from benchmarks.report import Out, Report
from dvt_tf.thresholds import METHODS, choose

GMACS = np.array([0.47, 1.46, 3.50])  # about those of DVT (T2T-ViT-12)
CURVE = 40


def made_up_results(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences (N, 3) with many of exactly 1, as trained models have, and which exits are right (N, 3)."""
    random = np.random.default_rng(seed)
    hardness = random.normal(size=(images, 1))
    score = random.normal(size=(images, 3)) * 0.7 + np.array([0.6, 1.1, 1.4]) - hardness
    confidences = np.minimum(1 / (1 + np.exp(-2.2 * score)), 0.999)
    confidences[score > 2.5] = 1.0
    correct = random.random((images, 3)) < 0.25 + 0.75 * confidences
    return confidences.astype(np.float32), correct


def main(
    images: Annotated[int, typer.Option(help="Made-up images.")] = 50_000,
    repeats: Annotated[int, typer.Option(help="Runs of each, of which the median is shown.")] = 3,
    out: Out = None,
) -> None:
    """Time every method for one budget and for a curve of 40; and the exact one where every cut matters."""
    usual = made_up_results(images, seed=0)
    # Only the last exit is ever right, so that no cut can be left out.
    hardest = (usual[0], np.tile([False, False, True], (images, 1)))
    cases = [*((method, "usual", usual) for method in METHODS), ("exact", "every cut matters", hardest)]
    rows = []
    for method, kind, (confidences, correct) in cases:
        budgets = [[1.5], np.linspace(GMACS[0], GMACS[-1], CURVE).tolist()]
        seconds = [[_seconds(confidences, correct, wanted, method) for _ in range(repeats)] for wanted in budgets]
        rows.append([method, kind, *(f"{statistics.median(runs):.2f}" for runs in seconds)])
    report = Report("solvers", f"Choosing thresholds: {images:,} images, three exits, median of {repeats}", out)
    report.table(("method", "results", "one budget, s", f"{CURVE} budgets, s"), rows)
    report.close()


def _seconds(confidences: np.ndarray, correct: np.ndarray, budgets: list[float], method: str) -> float:
    start = time.perf_counter()
    choose(confidences, correct, GMACS, budgets, method)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
