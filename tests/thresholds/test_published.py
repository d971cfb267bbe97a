"""The published rule: its 59 settings by hand and by their shares, and the best of them within a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt_tf.exit_rule import NEVER
from dvt_tf.thresholds import choose, operate, published_settings
from tests.thresholds.random_results import GMACS, distinct_results, many_budgets, random_costs, some_results


def test_the_published_rule_by_hand() -> None:
    # Ten images, q = 1 (setting 20): a third each, rounded down to 3 leave at exit 1, 3 of the others at exit 2.
    first = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05], np.float32)
    second = np.array([1.0, 0.99, 0.98, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], np.float32)
    found = published_settings(np.stack([first, second, np.ones(10, np.float32)], 1))
    assert len(found) == 59
    np.testing.assert_allclose(found[19], [0.7, 0.5])
    # q = 2: 1/7 and 2/7 of ten, 1 and 2 images.
    np.testing.assert_allclose(found[39], [0.9, 0.98])
    # q = 1/20: 0.952 and 0.048, so 9 leave at once and none at exit 2.
    np.testing.assert_allclose(found[0], [0.1, NEVER])


@given(seed=st.integers(0, 10_000), count=st.integers(1, 300), exits=st.integers(2, 4))
@settings(max_examples=30)
def test_the_published_rule_gives_the_shares_it_was_asked_for(seed: int, count: int, exits: int) -> None:
    confidences, correct = distinct_results(count, exits, seed)
    chosen = published_settings(confidences)
    assert len(chosen) == 59
    gmacs = np.cumsum(np.arange(1, exits + 1.0))
    costs = []
    for step, thresholds in enumerate(chosen, 1):
        assert (thresholds.shape, thresholds.dtype) == ((exits - 1,), np.float32)
        asked = (step / 20) ** np.arange(1, exits + 1)
        asked /= asked.sum()
        found = operate(confidences, correct, gmacs, thresholds)
        # Distinct confidences: exactly the share rounded down to whole images, the last exit taking the rest.
        np.testing.assert_allclose(found.shares[:-1] * count, np.floor(asked[:-1] * count + 1e-9), atol=1 + 1e-6)
        assert abs(found.shares[-1] - asked[-1]) <= exits / count + 1e-9
        costs.append(found.gmacs)
    # Small q leaves early: the first setting is among the cheapest, the last among the dearest.
    assert costs[0] <= costs[29] + exits * gmacs[-1] / count
    assert costs[29] <= costs[58] + exits * gmacs[-1] / count


def test_the_published_rule_with_ties_still_gives_thresholds_in_range() -> None:
    confidences = np.array(np.random.default_rng(0).choice([0.25, 0.5, 1.0], (50, 3)), np.float32)
    for thresholds in published_settings(confidences):
        assert all(value in (np.float32(0.25), 0.5, 1.0, NEVER) for value in thresholds)


def test_one_exit_has_settings_without_a_threshold() -> None:
    confidences, _ = distinct_results(20, 1, seed=4)
    assert [values.shape for values in published_settings(confidences)] == [(0,)] * 59


@given(seed=st.integers(0, 10_000), count=st.integers(1, 100), exits=st.integers(2, 4), tied=st.booleans())
@settings(max_examples=30)
def test_the_best_of_the_settings_within_each_budget(seed: int, count: int, exits: int, tied: bool) -> None:
    confidences, correct = some_results(count, exits, seed, tied)
    gmacs = random_costs(exits, seed)
    budgets = many_budgets(gmacs, count)
    known = [operate(confidences, correct, gmacs, thresholds) for thresholds in published_settings(confidences)]
    for budget, found in zip(budgets, choose(confidences, correct, gmacs, budgets, "published"), strict=True):
        assert found.gmacs <= budget * (1 + 1e-9)
        within = [point for point in known if point.gmacs <= budget]
        assert found.accuracy >= max((point.accuracy for point in within), default=0.0)
        dearer = [point for point in within if point.accuracy == found.accuracy and point.gmacs < found.gmacs]
        assert not dearer
        is_setting = any(np.array_equal(found.thresholds, point.thresholds) for point in known)
        assert is_setting or found.shares[0] == 1.0


def test_below_the_cheapest_setting_all_leave_at_the_first_exit() -> None:
    confidences, correct = distinct_results(100, 3, seed=0)
    cheapest = min(operate(confidences, correct, GMACS, values).gmacs for values in published_settings(confidences))
    assert cheapest > GMACS[0]
    [found] = choose(confidences, correct, GMACS, (GMACS[0] + cheapest) / 2, "published")
    assert found.shares.tolist() == [1.0, 0.0, 0.0]
    assert found.gmacs == pytest.approx(GMACS[0])
