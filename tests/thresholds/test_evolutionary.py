"""The evolutionary search: the same thresholds every time, within the budget, and near the optimum."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt_tf.thresholds import choose, describe_method
from tests.thresholds.random_results import GMACS, distinct_results, random_costs, some_results


def test_the_same_thresholds_every_time() -> None:
    # Four exits and many images: another seed finds other thresholds.
    confidences, correct = distinct_results(500, 4, seed=0)
    gmacs = random_costs(4, seed=0)
    budgets = [float(gmacs[1]), float(gmacs[2])]
    once = choose(confidences, correct, gmacs, budgets, "evolutionary")
    again = choose(confidences, correct, gmacs, budgets, "evolutionary")
    # Nor does it matter what else is searched for.
    alone = [choose(confidences, correct, gmacs, budget, "evolutionary")[0] for budget in budgets]
    for points in zip(once, again, alone, strict=True):
        for point in points[1:]:
            np.testing.assert_array_equal(point.thresholds, points[0].thresholds)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), exits=st.integers(2, 4), tied=st.booleans())
@settings(max_examples=4)
def test_the_mean_cost_is_within_the_budget(seed: int, count: int, exits: int, tied: bool) -> None:
    confidences, correct = some_results(count, exits, seed, tied)
    gmacs = random_costs(exits, seed)
    just_above = float(gmacs[0]) * (1 + 1e-6)
    budgets = [just_above, float(gmacs[:2].mean()), float(gmacs[-1])]
    for budget, found in zip(budgets, choose(confidences, correct, gmacs, budgets, "evolutionary"), strict=True):
        assert found.gmacs <= budget * (1 + 1e-9)
        assert found.accuracy >= correct[:, 0].mean()  # what leaving at the first exit has, always
        assert np.all(found.thresholds >= 0)


@pytest.mark.parametrize("exits", [2, 3, 4])
def test_at_the_lowest_budget_all_leave_at_the_first_exit(exits: int) -> None:
    gmacs = random_costs(exits, seed=2)
    confidences, correct = distinct_results(200, exits, seed=2)
    # One image of many is less sure than all others: hardly any random threshold lets it go.
    alone = np.ones((5000, exits), np.float32)
    alone[7] = 0.25
    for sure, right in ((confidences, correct), (alone, np.ones(alone.shape, bool))):
        [found] = choose(sure, right, gmacs, float(gmacs[0]), "evolutionary")
        assert found.shares.tolist() == [1.0, *[0.0] * (exits - 1)]
        assert found.thresholds[0] == 0  # less sure images than these leave there too


@pytest.mark.parametrize("tied", [False, True])
def test_near_the_optimum_on_some_hundred_images(tied: bool) -> None:
    confidences, correct = some_results(300, 3, seed=3, tied=tied)
    budgets = np.linspace(1.5, 7.5, 4).tolist()
    exact = choose(confidences, correct, GMACS, budgets)
    searched = choose(confidences, correct, GMACS, budgets, "evolutionary")
    for best, found in zip(exact, searched, strict=True):
        assert best.accuracy - 0.01 <= found.accuracy <= best.accuracy  # at most 3 images of 300
    # And it does search: at none of the budgets is it content with leaving at the first exit.
    assert all(found.accuracy > correct[:, 0].mean() for found in searched)


def test_it_is_described_as_an_approximation() -> None:
    for exits in (2, 3, 4):
        assert "approximation" in describe_method("evolutionary", exits)


def test_who_does_not_search_does_not_wait_for_scipys_optimizers() -> None:
    code = "import sys, dvt_tf.thresholds; sys.exit('scipy.optimize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
