"""What a study says of the paper's claims."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.training.outcomes import IMAGES, all_found
from training import study_claims
from training.cells import Cell
from training.paired import Difference, paired_difference, show
from training.studies import CLAIMS, Claim

pytestmark = pytest.mark.one_stack

NOISE = "within the noise, which leaves room for"


def gap(mean: float, reach: float, t_reach: float) -> Difference:
    return Difference(mean, mean - reach, mean + reach, (mean,) * 3, mean - t_reach, mean + t_reach)


@pytest.mark.parametrize(
    ("fields", "most", "says"),
    [
        ((0.02, 0.01, 0.015), None, "holds here"),
        ((0.02, 0.01, 0.03), None, f"not shown here: the difference is {NOISE} -1.0 to +5.0 points"),
        ((-0.02, 0.01, 0.015), None, "the opposite holds here"),
        ((0.004, 0.003, 0.0035), 1.0, "holds here"),
        ((0.001, 0.003, 0.0035), 1.0, "not shown here; if there is a gain, it is below 1.0 points"),
        ((0.02, 0.005, 0.006), 1.0, "more helps here, and not only slightly"),
        ((0.01, 0.005, 0.006), 1.0, "more helps here, but not shown to be slight"),
        ((0.004, 0.02, 0.02), 1.0, f"not shown here: the difference is {NOISE} -1.6 to +2.4 points"),
    ],
)
def test_verdicts(fields: tuple[float, float, float], most: float | None, says: str) -> None:
    assert study_claims.verdict(Claim("", "", "", most), gap(*fields)) == says


def test_what_is_shown_needs_both_intervals() -> None:
    for reach, t_reach in ((0.01, 0.03), (0.03, 0.01)):
        told = study_claims.verdict(Claim("", "", ""), gap(0.02, reach, t_reach))
        assert told == f"not shown here: the difference is {NOISE} -1.0 to +5.0 points"


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_told_of_its_rows_at_the_second_exit(claim: Claim) -> None:
    random = np.random.default_rng(0)
    found = all_found()
    for cell, one in found.items():
        found[cell] = dataclasses.replace(one, correct={"test": random.random(one.correct["test"].shape) < 0.6})
    groups = np.arange(IMAGES) % 40

    def expected(more: str, less: str) -> str:
        right = [[found[Cell(name, seed)].correct["test"][:, 1] for seed in range(3)] for name in (more, less)]
        return show(paired_difference(right[0], right[1], groups))

    line = study_claims.claim_line(claim, found, groups)
    assert line.startswith(f"{claim.says}: {expected(claim.more, claim.less)} points")
    mean = np.mean([found[Cell(claim.more, s)].top1()[1] - found[Cell(claim.less, s)].top1()[1] for s in range(3)])
    assert f": {100 * mean:+.2f} (" in line
    if claim.base:
        assert f"the one {expected(claim.more, claim.base)} and the other {expected(claim.less, claim.base)}" in line


def test_fewer_than_three_seeds_are_no_verdict() -> None:
    single = Difference(0.02, 0.01, 0.03, (0.02,), -np.inf, np.inf)
    assert study_claims.verdict(Claim("", "", ""), single) == "1 seed can say nothing about it"
    two = Difference(0.02, 0.01, 0.03, (0.02, 0.02), 0.01, 0.03)
    assert study_claims.verdict(Claim("", "", ""), two) == "2 seeds can say nothing about it"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((0.02, 0.01, 0.015), "holds here"),
        ((-0.02, 0.01, 0.015), "not shown here: it only does less harm"),
        ((0.01, 0.01, 0.015), f"not shown here: whether it helps at all is {NOISE} -0.5 to +2.5 points"),
    ],
)
@pytest.mark.parametrize("most", [None, 5.0])
def test_less_harm_is_no_help(most: float | None, more: tuple[float, float, float], says: str) -> None:
    claim = Claim("", "", "", most, base="two_none")
    harm = gap(-0.06, 0.01, 0.015)
    assert study_claims.verdict(claim, gap(0.02, 0.01, 0.015), gap(*more), harm) == says
    assert study_claims.verdict(Claim("", "", "", 1.0, "two_none"), gap(0.02, 0.005, 0.006), gap(*more), harm) == (
        "more helps here, and not only slightly" if says == "holds here" else says
    )


@pytest.mark.parametrize(
    ("less", "says"),
    [
        ((0.02, 0.01, 0.015), "the opposite holds here"),
        ((-0.02, 0.01, 0.015), "not shown here: the other only does less harm"),
        ((0.01, 0.01, 0.015), f"not shown here: whether the other helps at all is {NOISE} -0.5 to +2.5 points"),
    ],
)
def test_less_harm_refutes_nothing(less: tuple[float, float, float], says: str) -> None:
    claim = Claim("", "", "", base="two_none")
    assert study_claims.verdict(claim, gap(-0.04, 0.01, 0.015), gap(-0.06, 0.01, 0.015), gap(*less)) == says


def test_all_differences_of_a_claim_are_of_the_seeds_that_all_its_rows_have() -> None:
    claim = CLAIMS[2]
    found = all_found(5)
    rest = {cell: one for cell, one in found.items() if cell.configuration != claim.base or cell.seed >= 2}
    line = study_claims.claim_line(claim, rest, None)
    assert line.count("; 3 seeds]") == 3
    common = {cell: one for cell, one in found.items() if cell.seed >= 2}
    assert line == study_claims.claim_line(claim, common, None)
    apart = {c: o for c, o in found.items() if (c.configuration == claim.base) == (c.seed >= 2)}
    assert study_claims.claim_line(claim, apart, None) == f"{claim.says}: **no seed has all of its rows**"
    undone = {cell: one for cell, one in found.items() if cell.configuration != claim.base}
    assert study_claims.claim_line(claim, undone, None) == ""
