"""The tables of a study: its rows side by side, and cascades beside single Transformers at the same cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from training.cells import Cell, Found, Outcome, seeds_of
from training.paired import Difference, paired_difference, show
from training.studies import CONFIGURATIONS, Study
from training.study_curves import Curves, right_at


def difference(
    found: Found, more: str, less: str, exit_: int, groups: np.ndarray | None, seeds: Sequence[int] | None = None
) -> Difference | None:
    """What one configuration has over another at an exit (from 0; -1 the last), None where there is no seed.

    Args:
        groups: see `paired_difference`. seeds: with which both are done; None, all of those.
    """
    seeds = seeds_of(found, more, less) if seeds is None else seeds
    if not seeds:
        return None
    right = [[found[Cell(name, seed)].correct["test"][:, exit_] for seed in seeds] for name in (more, less)]
    return paired_difference(right[0], right[1], groups)


def table(
    study: Study, rows: Sequence[str], found: Found, groups: np.ndarray | None
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a study's table."""
    published = any(CONFIGURATIONS[row].published for row in rows)
    against = _says(study.against)
    headings = [
        "what",
        *(f"exit {k + 1}" for k in range(study.exits)),
        "exits alike",
        "GFLOPs",
        "seeds",
        f"over {against!r}, exit 1",
        f"over {against!r}, last exit",
    ]
    headings += ["paper, ImageNet: exit 1 / 2", f"paper, ImageNet: over {against!r}"] if published else []
    cells = []
    for row in rows:
        seeds = seeds_of(found, row)
        shares = np.stack([found[Cell(row, seed)].top1() for seed in seeds])  # (S, K)
        first = found[Cell(row, seeds[0])]
        shown = [mean_and_deviation(100 * shares[:, k]) for k in range(shares.shape[1])]
        # A single Transformer stands under the exit whose tokens it has.
        alone = CONFIGURATIONS[row].alone
        shown = [""] * (alone or 0) + shown
        shown += [""] * (study.exits - len(shown))
        compared = row != study.against and alone is None
        gaps = [difference(found, row, study.against, exit_, groups) if compared else None for exit_ in (0, -1)]
        line = [
            _says(row),
            *shown,
            mean_and_deviation(np.array([likeness(found[Cell(row, seed)]) for seed in seeds])) if alone is None else "",
            f"{first.gmacs[-1]:.4f}",
            f"{len(seeds)}",
            *(show(gap) if gap else "" for gap in gaps),
        ]
        if published:
            own, base = CONFIGURATIONS[row].published, CONFIGURATIONS[study.against].published
            assert own is not None
            assert base is not None
            line += [
                f"{own.first:.2f} / {own.second:.2f}",
                f"{own.second - base.second:+.2f}" if own is not base else "",
            ]
        cells.append(line)
    return headings, cells


def likeness(outcome: Outcome) -> float:
    """How much the last exit is right where the first one is, on the test split: Loevinger's H.

    The covariance of their right answers over the largest that their accuracies allow: 1 where the one that is right
    less often is right only where the other is, 0 where they err independently, below 0 where they err apart.
    """
    right = outcome.correct["test"][:, [0, -1]]
    fewer, more = sorted(right.mean(0))
    most = fewer * (1 - more)
    if most == 0:
        return math.nan
    return float((right.all(1).mean() - fewer * more) / most)


def mean_and_deviation(values: np.ndarray) -> str:
    """Values (S,) of several seeds as `61.23 ± 0.45`, of one as `61.23`."""
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


def at_equal_cost(
    rows: Sequence[str], found: Found, curves: Curves, groups: np.ndarray | None
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of cascades at the mean cost of each single Transformer, beside it and beside each other.

    Every comparison is of the seeds that both have. No cells where there is no single Transformer, or no cascade.
    """
    singles = [row for row in rows if CONFIGURATIONS[row].alone is not None]
    cascades = [row for row in rows if row not in singles]
    pairs = [(row, "") for row in cascades] + list(itertools.combinations(cascades, 2))
    headings = ["at the cost of", "GFLOPs", "its top-1", *(f"cascade, {_says(row)}" for row in cascades)]
    headings += [f"{_says(more)} over {_says(less) if less else 'the Transformer alone'}" for more, less in pairs]
    cells = []
    for single in singles if cascades else []:
        cost = float(found[Cell(single, seeds_of(found, single)[0])].gmacs[0])
        right = {cell: found[cell].correct["test"][:, 0] for cell in found if cell.configuration == single}
        right |= {cell: right_at(curve, cost) for cell, curve in curves.items()}
        shares = [
            100 * np.array([right[Cell(row, s)].mean() for s in seeds_of(right, row)]) for row in (single, *cascades)
        ]
        line = [_says(single), f"{cost:.4f}", *map(mean_and_deviation, shares)]
        for more, less in pairs:
            seeds = seeds_of(right, more, less or single)
            each = [[right[Cell(row, seed)] for seed in seeds] for row in (more, less or single)]
            line.append(show(paired_difference(each[0], each[1], groups)) if seeds else "")
        cells.append(line)
    return headings, cells


def _says(row: str) -> str:
    return CONFIGURATIONS[row].says
