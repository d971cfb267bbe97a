"""Paired differences: what they are, and how sure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.paired import Difference, paired_difference, show

pytestmark = pytest.mark.one_stack


def runs(random: np.random.Generator, seeds: int, images: int, share: float) -> list[np.ndarray]:
    return [random.random(images) < share for _ in range(seeds)]


@given(seeds=st.integers(1, 5), images=st.integers(1, 60), seed=st.integers(0, 999), grouped=st.booleans())
@settings(max_examples=40)
def test_the_mean_is_that_of_the_runs_and_lies_in_its_intervals(
    seeds: int, images: int, seed: int, grouped: bool
) -> None:
    random = np.random.default_rng(seed)
    more, less = runs(random, seeds, images, 0.7), runs(random, seeds, images, 0.5)
    groups = random.integers(0, 5, images) if grouped else None
    found = paired_difference(more, less, groups, draws=500)
    by_seed = [a.mean() - b.mean() for a, b in zip(more, less, strict=True)]
    np.testing.assert_allclose(found.by_seed, by_seed)
    assert found.mean == pytest.approx(np.mean(by_seed))
    assert found.low <= found.mean + 1e-9
    assert found.high >= found.mean - 1e-9
    assert found.t_low <= found.mean <= found.t_high
    assert math.isinf(found.t_high) == (seeds == 1)


def test_a_difference_to_itself_is_none() -> None:
    own = runs(np.random.default_rng(1), 3, 50, 0.6)
    assert paired_difference(own, own)[:4] == (0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


@pytest.mark.parametrize(("of_seeds", "of_groups"), [(0.08, 0.0), (0.0, 0.2)])
def test_intervals_hold_the_truth_as_often_as_they_say(of_seeds: float, of_groups: float) -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    covered = np.zeros(2)
    for _ in range(200):
        effects = random.normal(0, of_seeds, (8, 1)) + random.normal(0, of_groups, 40)[groups]  # (S, N)
        more, less = random.random(effects.shape) < 0.55 + effects, random.random(effects.shape) < 0.5
        found = paired_difference(list(more), list(less), groups, draws=400)
        covered += [found.low <= 0.05 <= found.high, found.t_low <= 0.05 <= found.t_high]
    bootstrap, students_t = covered / 200
    assert 0.89 < bootstrap < 0.99
    if of_groups:  # other images would say otherwise, and seeds do not know
        assert students_t < 0.7
    else:
        assert 0.89 < students_t < 0.99


@pytest.mark.parametrize(("of_seeds", "of_groups"), [(0.08, 0.0), (0.08, 0.2), (0.0, 0.2)])
def test_both_intervals_together_hold_the_truth_about_as_often_with_three_seeds(
    of_seeds: float, of_groups: float
) -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    covered = apart = 0
    for _ in range(300):
        effects = random.normal(0, of_seeds, (3, 1)) + random.normal(0, of_groups, 40)[groups]  # (S, N)
        more, less = random.random(effects.shape) < 0.5 + effects, random.random(effects.shape) < 0.5
        found = paired_difference(list(more), list(less), groups, draws=400)
        low, high = min(found.low, found.t_low), max(found.high, found.t_high)
        covered += low <= 0 <= high
        apart += found.low <= 0 <= found.high and found.t_low <= 0 <= found.t_high
    assert covered / 300 > 0.93
    assert apart < covered  # now and then one of them alone does not


@pytest.mark.parametrize(
    ("by_seed", "told"),
    [
        ((0.02,), "+2.00 (1.00 to 3.00) [1 seed]"),
        ((0.01, 0.03), "+2.00 (1.00 to 3.00) [2 seeds]"),
        ((0.01, 0.02, 0.03), "+2.00 (1.00 to 3.00) [-0.48 to 4.48; 3 seeds]"),
    ],
)
def test_a_difference_is_told_with_students_t_from_three_seeds_on(by_seed: tuple[float, ...], told: str) -> None:
    assert show(Difference(0.02, 0.01, 0.03, by_seed, -0.0048, 0.0448)) == told


def test_images_made_of_one_thing_count_as_one() -> None:
    random = np.random.default_rng(2)
    made_of = np.repeat(np.arange(20), 50)
    right = np.repeat(random.random((1, 20)) < 0.5, 50, 1)
    less = [np.zeros(1000, bool)]
    together, apart = (paired_difference(list(right), less, groups) for groups in (made_of, None))
    assert together.high - together.low > 4 * (apart.high - apart.low)


def test_by_students_t() -> None:
    # Three seeds of 2, 4 and 6 points: 4 +- 4.303 * 2 / sqrt(3).
    more = [np.arange(100) < count for count in (2, 4, 6)]
    found = paired_difference(more, [np.zeros(100, bool)] * 3)
    assert (100 * found.t_low, 100 * found.t_high) == pytest.approx((-0.968, 8.968), abs=1e-3)
