"""Choosing thresholds: the published rule, and the cheapest within a drop of accuracy against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt_tf.exit_rule import NEVER, route
from dvt_tf.thresholds import cheapest_within, operate, published_thresholds

GMACS = np.array([1.0, 3.0, 8.0])


def random_results(count: int, exits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct confidences (N, K), and correctness that grows with them and with the exit."""
    random = np.random.default_rng(seed)
    confidences = np.stack([random.permutation(count) for _ in range(exits)], 1)
    confidences = ((confidences + 0.5) / count).astype(np.float32)
    correct = random.random((count, exits)) < 0.3 + 0.5 * confidences + 0.1 * np.arange(exits)
    return confidences, correct


def test_operating_by_hand() -> None:
    confidences = np.float32([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.5, 0.7, 0.4], [0.2, 0.3, 0.9]])
    correct = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]], bool)
    found = operate(confidences, correct, GMACS, np.array([0.9, 0.7]))
    assert found.shares.tolist() == [0.25, 0.5, 0.25]
    assert found.accuracy == 0.75  # right at exit 1, right at 2, wrong at 2, right at 3
    assert found.gmacs == pytest.approx(0.25 * 1 + 0.5 * 3 + 0.25 * 8)
    assert found.thresholds.dtype == np.float32


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), exits=st.integers(1, 4))
def test_operating_is_routing_and_counting(seed: int, count: int, exits: int) -> None:
    confidences, correct = random_results(count, exits, seed)
    thresholds = np.random.default_rng(seed).choice([0.0, 0.3, 0.6, 1.0, NEVER], exits - 1)
    gmacs = np.cumsum(np.arange(1, exits + 1.0))
    found = operate(confidences, correct, gmacs, thresholds)
    left = route(confidences, thresholds) - 1
    assert found.shares.sum() == pytest.approx(1.0)
    assert found.gmacs == pytest.approx(np.mean([gmacs[k] for k in left]))
    assert found.accuracy == pytest.approx(np.mean([correct[i, k] for i, k in enumerate(left)]))


def test_the_published_rule_by_hand() -> None:
    # Ten images, q = 1 (setting 20): a third each, rounded down to 3 leave at exit 1, 3 of the others at exit 2.
    first = np.float32([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    second = np.float32([1.0, 0.99, 0.98, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    settings_ = published_thresholds(np.stack([first, second, np.ones(10, np.float32)], 1))
    assert len(settings_) == 59
    np.testing.assert_allclose(settings_[19], [0.7, 0.5])
    # q = 2: 1/7 and 2/7 of ten, 1 and 2 images.
    np.testing.assert_allclose(settings_[39], [0.9, 0.98])
    # q = 1/20: 0.952 and 0.048, so 9 leave at once and none at exit 2.
    np.testing.assert_allclose(settings_[0], [0.1, NEVER])


@given(seed=st.integers(0, 10_000), count=st.integers(1, 300), exits=st.integers(2, 4))
@settings(max_examples=30)
def test_the_published_rule_gives_the_shares_it_was_asked_for(seed: int, count: int, exits: int) -> None:
    confidences, correct = random_results(count, exits, seed)
    chosen = published_thresholds(confidences)
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
    confidences = np.float32(np.random.default_rng(0).choice([0.25, 0.5, 1.0], (50, 3)))
    for thresholds in published_thresholds(confidences):
        assert all(value in (np.float32(0.25), 0.5, 1.0, NEVER) for value in thresholds)


def brute_force(confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, max_drop: float) -> float:
    """The least mean cost of any thresholds at all, image by image: only the confidences themselves can matter."""
    floor = correct[:, -1].mean() - max_drop
    costs = []
    for thresholds in itertools.product(*[[*set(column.tolist()), NEVER] for column in confidences.T[:-1]]):
        left = [
            next((k for k, threshold in enumerate(thresholds) if row[k] >= threshold), len(thresholds))
            for row in confidences
        ]
        if np.mean([correct[i, k] for i, k in enumerate(left)]) >= floor:
            costs.append(float(np.mean([gmacs[k] for k in left])))
    return min(costs)


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 7),
    exits=st.integers(2, 3),
    max_drop=st.sampled_from([0.0, 0.01, 0.2, 0.35, 1.0]),
)
@settings(max_examples=12)
def test_nothing_within_the_drop_is_cheaper(seed: int, count: int, exits: int, max_drop: float) -> None:
    confidences, correct = random_results(count, exits, seed)
    found = cheapest_within(confidences, correct, GMACS[:exits], max_drop)
    assert found.gmacs == pytest.approx(brute_force(confidences, correct, GMACS[:exits], max_drop))
    assert found.accuracy >= correct[:, -1].mean() - max_drop - 1e-12
    again = operate(confidences, correct, GMACS[:exits], found.thresholds)
    assert (again.gmacs, again.accuracy) == (found.gmacs, found.accuracy)


@pytest.mark.parametrize("max_drop", [0.0, 0.003, 0.02])
def test_accuracy_is_never_below_the_floor_on_many_images(max_drop: float) -> None:
    confidences, correct = random_results(2000, 3, seed=1)
    found = cheapest_within(confidences, correct, GMACS, max_drop)
    assert found.accuracy >= correct[:, -1].mean() - max_drop
    assert GMACS[0] <= found.gmacs <= GMACS[-1]


def test_a_larger_drop_is_never_dearer() -> None:
    confidences, correct = random_results(500, 3, seed=2)
    costs = [cheapest_within(confidences, correct, GMACS, drop).gmacs for drop in (0.0, 0.05, 0.2, 1.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == GMACS[0]


def test_where_leaving_early_is_always_wrong_nobody_does() -> None:
    confidences, _ = random_results(50, 3, seed=3)
    correct = np.tile([False, False, True], (50, 1))
    found = cheapest_within(confidences, correct, GMACS, 0.0)
    assert found.shares.tolist() == [0.0, 0.0, 1.0]


def test_one_exit_has_nothing_to_choose() -> None:
    confidences, correct = random_results(20, 1, seed=4)
    found = cheapest_within(confidences, correct, GMACS[:1], 0.0)
    assert (found.gmacs, found.thresholds.shape) == (1.0, (0,))
    assert [values.shape for values in published_thresholds(confidences)] == [(0,)] * 59
