"""What a study says of the paper's claims."""

from __future__ import annotations

import numpy as np

from training.cells import Found, seeds_of
from training.paired import LEAST_SEEDS, Difference, seeds_in_words, show
from training.studies import CONFIGURATIONS, Claim
from training.study_tables import difference


def claim_line(claim: Claim, found: Found, groups: np.ndarray | None) -> str:
    """A claim, the difference that it is about, and what that says of it; "" where one of its rows is not done.

    All its differences are of the seeds that all its rows have.
    """
    rows = [claim.more, claim.less, *([claim.base] if claim.base else [])]
    seeds = seeds_of(found, *rows)
    gap = difference(found, claim.more, claim.less, 1, groups, seeds)
    if gap is None:
        return f"{claim.says}: **no seed has all of its rows**" if all(seeds_of(found, row) for row in rows) else ""
    each = [difference(found, row, claim.base, 1, groups, seeds) if claim.base else None for row in rows[:2]]
    more, less = each
    base = CONFIGURATIONS[claim.base].says if claim.base else ""
    own = f", the one {show(more)} and the other {show(less)} over {base!r}" if more and less else ""
    return f"{claim.says}: {show(gap)} points{own}: **{verdict(claim, gap, more, less)}**"


def _both(gap: Difference) -> tuple[float, float]:
    """The ends of both intervals together, in points."""
    return 100 * min(gap.low, gap.t_low), 100 * max(gap.high, gap.t_high)


def verdict(claim: Claim, gap: Difference, more: Difference | None = None, less: Difference | None = None) -> str:
    """Whether it holds here: only what both intervals say is taken as shown.

    Args:
        gap: what the claim's `more` has over its `less`. more, less: what each has over its `base`, where it has one,
            with the same seeds.
    """
    if len(gap.by_seed) < LEAST_SEEDS:
        return f"{seeds_in_words(len(gap.by_seed))} can say nothing about it"
    low, high = _both(gap)
    if high < 0:
        return _no_help("the other", less) or "the opposite holds here"
    if low > 0 and (fault := _no_help("it", more)):
        return fault
    if claim.most is not None and low <= 0 and high <= claim.most:
        return f"not shown here; if there is a gain, it is below {claim.most:.1f} points"
    if low <= 0:
        return f"not shown here: the difference is {_within_the_noise(gap)}"
    if claim.most is None or high <= claim.most:
        return "holds here"
    return "more helps here, " + ("and not only slightly" if low > claim.most else "but not shown to be slight")


def _no_help(which: str, over_base: Difference | None) -> str:
    """Why a row that is ahead of another is no help all the same; "" where it is one, or nothing is asked of it."""
    if over_base is None or _both(over_base)[0] > 0:
        return ""
    if _both(over_base)[1] < 0:
        return f"not shown here: {which} only does less harm"
    return f"not shown here: whether {which} helps at all is {_within_the_noise(over_base)}"


def _within_the_noise(gap: Difference) -> str:
    low, high = _both(gap)
    return f"within the noise, which leaves room for {low:+.1f} to {high:+.1f} points"
