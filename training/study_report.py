"""What a study found: its tables as Markdown and CSV, and what they say of the paper's claims."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dvt_tf.files import written_whole
from training.cells import Cell, Found, Outcome, seeds_of
from training.paired import Difference, paired_difference
from training.studies import CLAIMS, CONFIGURATIONS, STUDIES, Claim, Study
from training.study_plots import learned, plot_budgets, plot_learning, plot_rows, write_csv

REPORT_FILE = "report.md"
_NOT_NOTED = "not noted"
_LEAST_SEEDS = 3  # for a verdict: two may agree by chance, and Student's t then says next to nothing


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
        "bootstrap interval over seeds and images, and in brackets the other by Student's t over the seeds. "
        "Cost in GFLOPs (multiply-adds, as the paper counts). Exits are alike as far as the last one is right where "
        "the first one is: Loevinger's H, 1 where the one right less often is right only where the other is, 0 where "
        "they err independently.",
        f"Trained with {' or '.join(sorted({_versions(outcome) for outcome in found.values()}))}.",
    ]
    processors = Counter(outcome.made_by.get("processor") or _NOT_NOTED for outcome in found.values())
    if set(processors) != {_NOT_NOTED}:  # their sums differ in the last bits
        told = "; ".join(f"{name} ({count} of {len(found)} runs)" for name, count in processors.most_common())
        parts.append(f"What the processors had for matmuls: {told}.")
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
            plot_budgets(out / "curves.png", out / "curves_points.csv", rows, found, data)
            parts.append("![Accuracy against mean cost](curves.png)")
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


def _missing(study: Study, found: Found) -> list[str]:
    """Rows, in words, that lack seeds which other rows of the study have."""
    every = sorted({seed for row in study.rows for seed in seeds_of(found, row)})
    lacking = {row: [seed for seed in every if seed not in seeds_of(found, row)] for row in study.rows}
    return [
        f"{CONFIGURATIONS[row].says} (seed {', '.join(map(str, seeds))})" for row, seeds in lacking.items() if seeds
    ]


def _versions(outcome: Outcome) -> str:
    return ", ".join(f"{name} {version}" for name, version in outcome.made_by["versions"].items())


def difference(found: Found, more: str, less: str, exit_: int, groups: np.ndarray | None) -> Difference | None:
    """What one configuration has over another at an exit (from 0; -1 the last); None where no seed has both."""
    seeds = seeds_of(found, more, less)
    if not seeds:
        return None
    right = [[found[Cell(name, seed)].correct["test"][:, exit_] for seed in seeds] for name in (more, less)]
    return paired_difference(right[0], right[1], groups)


def table(
    study: Study, rows: Sequence[str], found: Found, groups: np.ndarray | None
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a study's table."""
    published = any(CONFIGURATIONS[row].published for row in rows)
    against = CONFIGURATIONS[study.against].says
    headings = [
        "what",
        *(f"exit {k + 1}" for k in range(study.exits)),
        "exits alike",
        "GFLOPs",
        "seeds",
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
        gap = difference(found, row, study.against, -1, groups) if row != study.against and alone is None else None
        alike = mean_and_deviation(np.array([likeness(found[Cell(row, seed)]) for seed in seeds]))
        line = [
            CONFIGURATIONS[row].says,
            *shown,
            alike if alone is None else "",
            f"{first.gmacs[-1]:.4f}",
            f"{len(seeds)}",
            show(gap) if gap else "",
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


def claim_line(claim: Claim, found: Found, groups: np.ndarray | None) -> str:
    """A claim, the difference that it is about, and what that says of it; "" where nothing is known."""
    gap = difference(found, claim.more, claim.less, 1, groups)
    each = [difference(found, row, claim.base, 1, groups) if claim.base else None for row in (claim.more, claim.less)]
    if gap is None or (claim.base and None in each):
        return ""
    more, less = each
    own = f", the one {show(more)} and the other {show(less)} over {_says(claim.base)!r}" if more and less else ""
    return f"{claim.says}: {show(gap)} points{own}: **{verdict(claim, gap, more, less)}**"


def _says(row: str) -> str:
    return CONFIGURATIONS[row].says


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _both(gap: Difference) -> tuple[float, float]:
    """The ends of both intervals together, in points."""
    return 100 * min(gap.low, gap.t_low), 100 * max(gap.high, gap.t_high)


def verdict(claim: Claim, gap: Difference, more: Difference | None = None, less: Difference | None = None) -> str:
    """Whether it holds here: only what both intervals say is taken as shown.

    Args:
        gap: what the claim's `more` has over its `less`. more, less: what each has over its `base`, where it has one.
    """
    fewest = min(len(one.by_seed) for one in (gap, more, less) if one)
    if fewest < _LEAST_SEEDS:
        return f"{_seeds(fewest)} can say nothing about it"
    low, high = _both(gap)
    if high < 0:
        return _no_help("the other", less) or "the opposite holds here"
    if low > 0 and (fault := _no_help("it", more)):
        return fault
    if claim.most is not None:
        if high <= claim.most:
            return "holds here" if low > 0 else f"not shown here; if there is a gain, it is below {claim.most:g} points"
        if low > claim.most:
            return "more helps here, and not only slightly"
        return "not shown here" if low <= 0 else "more helps here, but not shown to be slight"
    if low <= 0:
        return f"not shown here: the difference is within the noise, which hides up to {max(-low, high):.1f} points"
    return "holds here"


def _no_help(which: str, over_base: Difference | None) -> str:
    """Why a row that is ahead of another is no help all the same; "" where it is one, or nothing is asked of it."""
    if over_base is None or _both(over_base)[0] > 0:
        return ""
    if _both(over_base)[1] < 0:
        return f"not shown here: {which} only does less harm"
    return f"not shown here: whether {which} helps at all is within the noise"


def show(gap: Difference) -> str:
    """`+1.42 (0.90 to 1.95) [0.11 to 2.73; 3 seeds]`, in points."""
    count = len(gap.by_seed)
    brackets = f" [{100 * gap.t_low:.2f} to {100 * gap.t_high:.2f}; {_seeds(count)}]" if count > 1 else " [one seed]"
    return f"{100 * gap.mean:+.2f} ({100 * gap.low:.2f} to {100 * gap.high:.2f}){brackets}"


def mean_and_deviation(values: np.ndarray) -> str:
    """Values (S,) of several seeds as `61.23 ± 0.45`, of one as `61.23`."""
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


def _markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *cells))
