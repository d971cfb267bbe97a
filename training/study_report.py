"""What a study found: its tables as Markdown and CSV, and what they say of the paper's claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dvt_tf.files import written_whole
from training.cells import NOT_NOTED, Cell, Found, Outcome, seeds_of
from training.studies import CLAIMS, CONFIGURATIONS, STUDIES, Study
from training.study_claims import claim_line
from training.study_curves import budgeted, points
from training.study_plots import learned, plot_budgets, plot_learning, plot_rows, write_csv
from training.study_tables import at_equal_cost, table

REPORT_FILE = "report.md"


def write(out: Path, studies: Sequence[str], found: Found, data: str, groups: np.ndarray | None) -> None:
    """Writes report.md, a CSV for each table and a PNG for each plot, from what is kept alone.

    Args:
        found: of the cells that are done. groups: (N,) what each test image was made of; see `paired_difference`.
    """
    images = sorted({outcome.images for outcome in found.values()})
    tests = sorted({len(outcome.correct["test"]) for outcome in found.values()})
    parts = [
        f"# Studies on `{data}`",
        f"{' or '.join(f'{count:,}' for count in images)} training images a run, "
        f"{' or '.join(f'{count:,}' for count in tests)} test images. Top-1 in %, the mean over the seeds and their "
        "standard deviation. Differences are in points, between runs of the same seed on the same images, with a 95 % "
        "bootstrap interval over seeds and images, and in brackets, of three seeds or more, the other by Student's t "
        "over the seeds. Cost in GFLOPs (multiply-adds, as the paper counts). How alike the first and the last exit "
        "are is Loevinger's H of their right answers, 1 - P(one right, other wrong) / (p (1 - q)), where p is how "
        "often the one is right that is so less often, and q how often the other: 1 where the one is right only where "
        "the other is, 0 where they err independently.",
        f"Trained with {' or '.join(sorted({_versions(outcome) for outcome in found.values()}))}.",
    ]
    processors = Counter(outcome.processors() or NOT_NOTED for outcome in found.values())
    if set(processors) != {NOT_NOTED}:  # their sums differ in the last bits
        told = "; ".join(f"{name} ({count} of {len(found)} runs)" for name, count in processors.most_common())
        parts.append(f"What the processors had for matmuls: {told}.")
    replicas = Counter(outcome.replicas() or NOT_NOTED for outcome in found.values())
    counts = {count for told in replicas for count in told.split("; ")}
    if not counts <= {NOT_NOTED, "1"}:  # which draw stochastic depth each for itself
        told = "; ".join(f"{name} ({count} of {len(found)} runs)" for name, count in replicas.most_common())
        parts.append(f"Parts of a batch, each trained by a replica: {told}.")
    for name in studies:
        study = STUDIES[name]
        rows = [row for row in study.rows if seeds_of(found, row)]
        if not rows:
            continue
        headings, cells = table(study, rows, found, groups)
        write_csv(out / f"{name}.csv", headings, cells)
        parts += [f"## {study.title}", _markdown(headings, cells)]
        missing = _missing(study, found)
        if missing:
            parts.append(f"Not done, so that rows stand on different seeds: {'; '.join(missing)}.")
        if name == "curves":
            parts += _curves(out, rows, found, data, groups)
        else:
            plot_rows(out / f"{name}.png", study, rows, found, data)
            parts.append(f"![{study.title}]({name}.png)")
        own = [cell for cell in found if cell.configuration in rows]
        lines = learned(out, own)
        if lines:
            plot_learning(out / f"{name}_learning.png", rows, lines)
            parts.append(f"![How each row learned]({name}_learning.png)")
        without = [cell.name for cell in own if cell not in lines]
        if without:
            parts.append(f"Of these no history is kept: {', '.join(without)}.")
    claims = [claim_line(claim, found, groups) for claim in CLAIMS]
    if any(claims):
        parts += [
            "## The paper's claims at the second exit",
            "Each is looked at by itself; nothing corrects for their number.",
            "\n".join(f"- {line}" for line in claims if line),
        ]
    with written_whole(out / REPORT_FILE) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _curves(out: Path, rows: Sequence[str], found: Found, data: str, groups: np.ndarray | None) -> list[str]:
    """Writes the plot and its points, and gives what the report says of them."""
    own = [Cell(row, seed) for row in rows for seed in seeds_of(found, row)]
    alone = {cell: found[cell] for cell in own if CONFIGURATIONS[cell.configuration].alone is not None}
    curves = {cell: budgeted(found[cell]) for cell in own if cell not in alone}
    write_csv(out / "curves_points.csv", *points(curves, alone))
    plot_budgets(out / "curves.png", rows, found, curves, data)
    parts = ["![Accuracy against mean cost](curves.png)"]
    headings, cells = at_equal_cost(rows, found, curves, groups)
    if cells:
        write_csv(out / "curves_at_equal_cost.csv", headings, cells)
        parts += [
            "At the mean cost of each single Transformer, by thresholds of the calibration split; between two budgets, "
            "images are let through by one or the other by lot, and beyond its dearest one a cascade spends no more. "
            "The intervals take the thresholds as given: other calibration images might have chosen others.",
            _markdown(headings, cells),
        ]
    return parts


def _missing(study: Study, found: Found) -> list[str]:
    """Rows, in words, that lack seeds which other rows of the study have."""
    every = sorted({seed for row in study.rows for seed in seeds_of(found, row)})
    lacking = {row: [seed for seed in every if seed not in seeds_of(found, row)] for row in study.rows}
    return [
        f"{CONFIGURATIONS[row].says} (seed {', '.join(map(str, seeds))})" for row, seeds in lacking.items() if seeds
    ]


def _versions(outcome: Outcome) -> str:
    return ", ".join(f"{name} {version}" for name, version in outcome.made_by["versions"].items())


def _markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *cells))
