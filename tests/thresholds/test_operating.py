"""What thresholds do to stored results, and the thresholds halfway between two levels of confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvt_tf.exit_rule import NEVER, route
from dvt_tf.thresholds import operate
from dvt_tf.thresholds.operating import Levels
from tests.thresholds.random_results import GMACS, random_costs, some_results

UNIT = st.floats(0, 1, width=32)


def test_operating_by_hand() -> None:
    confidences = np.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.5, 0.7, 0.4], [0.2, 0.3, 0.9]], np.float32)
    correct = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]], bool)
    found = operate(confidences, correct, GMACS, np.array([0.9, 0.7]))
    assert found.shares.tolist() == [0.25, 0.5, 0.25]
    assert found.accuracy == 0.75  # right at exit 1, right at 2, wrong at 2, right at 3
    assert found.gmacs == pytest.approx(0.25 * 1 + 0.5 * 3 + 0.25 * 8)
    assert found.thresholds.dtype == np.float32


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), exits=st.integers(1, 4), tied=st.booleans())
def test_operating_is_routing_and_counting(seed: int, count: int, exits: int, tied: bool) -> None:
    confidences, correct = some_results(count, exits, seed, tied)
    thresholds = np.random.default_rng(seed).choice([0.0, 0.3, 0.6, 1.0, NEVER], exits - 1)
    gmacs = random_costs(exits, seed)
    found = operate(confidences, correct, gmacs, thresholds)
    left = route(confidences, thresholds) - 1
    assert found.shares.sum() == pytest.approx(1.0)
    assert found.gmacs == pytest.approx(np.mean([gmacs[k] for k in left]))
    assert found.accuracy == pytest.approx(np.mean([correct[i, k] for i, k in enumerate(left)]))


def test_levels_by_hand() -> None:
    levels = Levels.of(np.array([0.5, 1.0, 0.25, 1.0, 0.5, 1.0], np.float32))
    assert levels.values.tolist() == [1.0, 0.5, 0.25]
    assert levels.of_image.tolist() == [1, 0, 2, 0, 1, 0]
    assert [float(levels.threshold(leaving)) for leaving in range(4)] == [NEVER, 0.75, 0.375, 0.0]


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.one_of(UNIT, st.sampled_from([0.0, 0.5, 1.0]))))
def test_a_threshold_lets_go_the_levels_above_it_and_no_other(confidences: np.ndarray) -> None:
    levels = Levels.of(confidences)
    assert np.all(np.diff(levels.values) < 0)
    np.testing.assert_array_equal(levels.values[levels.of_image], confidences)
    for leaving in range(len(levels.values) + 1):
        threshold = levels.threshold(leaving)
        assert threshold.dtype == np.float32
        # By the very rule that lets images go.
        leaves = route(np.stack([confidences, confidences], 1), [threshold]) == 1
        np.testing.assert_array_equal(leaves, levels.of_image < leaving)


@pytest.mark.parametrize("value", [1e-45, 0.1, 0.5, 1.0])
def test_neighbours_among_float32_numbers_have_a_threshold_between_them(value: float) -> None:
    upper = np.float32(value)
    lower = np.nextafter(upper, np.float32(0.0))
    threshold = Levels.of(np.array([lower, upper])).threshold(1)
    assert lower < threshold <= upper
