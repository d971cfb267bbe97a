"""Choosing thresholds by any method: what is refused, the order of budgets, and the cheapest within a drop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt_tf.thresholds import METHODS, cheapest_within, choose, clamp_budget, describe_method, operate
from tests.thresholds.random_results import (
    GMACS,
    all_outcomes,
    distinct_results,
    random_costs,
    some_results,
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exits", [2, 3, 4])
def test_one_answer_for_each_budget_in_their_order(method: str, exits: int) -> None:
    confidences, correct = distinct_results(30, exits, seed=exits)
    gmacs = random_costs(exits, seed=exits)
    low, middle, high = float(gmacs[0]), float(gmacs[:2].mean()), float(gmacs[-1])
    budgets = [middle, high, low, middle, 2 * high]
    found = choose(confidences, correct, gmacs, budgets, method)
    assert len(found) == len(budgets)
    for budget, point in zip(budgets, found):
        assert point.gmacs <= budget * (1 + 1e-9)
        again = operate(confidences, correct, gmacs, point.thresholds)
        assert (point.accuracy, point.gmacs) == (again.accuracy, again.gmacs)
        assert (point.thresholds.shape, point.thresholds.dtype) == ((exits - 1,), np.float32)
    np.testing.assert_array_equal(found[0].thresholds, found[3].thresholds)
    assert found[2].gmacs < found[0].gmacs < found[1].gmacs  # not all the same, and not in rising order


@pytest.mark.parametrize("method", METHODS)
def test_costs_may_be_a_list_and_correctness_numbers_and_the_budget_alone(method: str) -> None:
    confidences, correct = distinct_results(20, 3, seed=1)
    [ours] = choose(confidences.astype(np.float64), correct.astype(np.int64), [1, 3, 8], 4, method)
    [theirs] = choose(confidences, correct, GMACS, [4.0], method)
    np.testing.assert_array_equal(ours.thresholds, theirs.thresholds)
    assert (ours.accuracy, ours.gmacs) == (theirs.accuracy, theirs.gmacs)


@pytest.mark.parametrize("method", METHODS)
def test_one_exit_has_nothing_to_choose(method: str) -> None:
    confidences, correct = distinct_results(20, 1, seed=4)
    found = choose(confidences, correct, GMACS[:1], [1.0, 2.0], method)
    assert [(point.thresholds.shape, point.gmacs) for point in found] == [((0,), 1.0)] * 2
    assert found[0].accuracy == correct.mean()
    with pytest.raises(ValueError, match=r"no thresholds meet a budget of 0\.9"):
        choose(confidences, correct, GMACS[:1], 0.9, method)


@pytest.mark.parametrize("method", METHODS)
def test_confidences_a_rounding_error_above_one_do_not_break_the_budget(method: str) -> None:
    """They are accepted, as float32 probabilities are not exact; a threshold above 1, though, means never."""
    above = np.nextafter(np.float32(1.0), np.float32(2.0))
    confidences = np.array([[above, 1, 1], [1, 1, 1], [1, above, 1], [0.5, 1, 1]], np.float32)
    correct = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], bool)
    budgets = [3.0, 6.0]
    for budget, found in zip(budgets, choose(confidences, correct, GMACS, budgets, method), strict=True):
        assert found.gmacs <= budget * (1 + 1e-9)


Change = Callable[[np.ndarray], None]


def set_to(image: int, k: int, value: float) -> Change:
    def change(confidences: np.ndarray) -> None:
        confidences[image, k] = value

    return change


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to(7, 1, np.nan), r"image 7 has nan at exit 2 \(1 such values\)"),
        (set_to(0, 2, np.nan), "image 0 has nan at exit 3"),
        (set_to(3, 0, 1.5), "image 3 has 1.5 at exit 1"),
        (set_to(3, 0, np.inf), "image 3 has inf at exit 1"),
        (set_to(19, 2, -0.25), "image 19 has -0.25 at exit 3"),
    ],
)
def test_a_confidence_that_is_none_is_refused_by_image_and_exit(change: Change, message: str, method: str) -> None:
    confidences, correct = distinct_results(20, 3, seed=0)
    change(confidences)
    with pytest.raises(ValueError, match=f"confidences must be from 0 to 1: {message}"):
        choose(confidences, correct, GMACS, 3.0, method)


def test_all_such_confidences_are_counted() -> None:
    confidences, correct = distinct_results(20, 3, seed=0)
    confidences[4:9, 1] = np.nan
    with pytest.raises(ValueError, match=r"image 4 has nan at exit 2 \(5 such values\)"):
        choose(confidences, correct, GMACS, 3.0)


@pytest.mark.parametrize(
    ("shape", "correct_shape", "exits"),
    [((5, 3), (5, 2), 3), ((5, 3), (4, 3), 3), ((5, 3), (5, 3), 2), ((5,), (5,), 1)],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], correct_shape: tuple[int, ...], exits: int) -> None:
    with pytest.raises(ValueError, match=r"must be \(images, exits\) and gmacs \(exits,\), not") as caught:
        choose(np.full(shape, 0.5), np.ones(correct_shape, bool), GMACS[:exits], 3.0)
    assert str(shape) in str(caught.value)
    assert str(correct_shape) in str(caught.value)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no image to choose thresholds on"):
        choose(np.zeros((0, 3)), np.zeros((0, 3), bool), GMACS, 3.0)


@pytest.mark.parametrize("gmacs", [[1.0, 1.0, 8.0], [1.0, 9.0, 8.0], [0.0, 3.0, 8.0], [1.0, np.nan, 8.0]])
def test_costs_that_do_not_rise_are_refused(gmacs: list[float]) -> None:
    confidences, correct = distinct_results(5, 3, seed=0)
    with pytest.raises(ValueError, match="gmacs must rise from exit to exit"):
        choose(confidences, correct, gmacs, 3.0)


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    confidences, correct = distinct_results(5, 3, seed=0)
    with pytest.raises(ValueError, match="unknown method 'best'; it can be exact, evolutionary, published"):
        choose(confidences, correct, GMACS, 3.0, "best")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [0.99, 0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_nothing_meets_is_refused(budget: float, method: str) -> None:
    confidences, correct = distinct_results(5, 3, seed=0)
    with pytest.raises(ValueError, match=f"no thresholds meet a budget of {budget:g}: leaving at exit 1 costs 1"):
        choose(confidences, correct, GMACS, [3.0, budget], method)


def test_every_method_is_described_by_its_own_words() -> None:
    words = {describe_method(method, 3) for method in METHODS}
    assert len(words) == len(METHODS)
    assert "59 settings" in describe_method("published", 3)


def test_a_budget_is_brought_into_what_can_be_spent_and_a_note_says_so() -> None:
    assert clamp_budget(1.0, GMACS) == (1.0, "")
    assert clamp_budget(3, GMACS) == (3.0, "")
    assert clamp_budget(8.0, GMACS) == (8.0, "")
    assert clamp_budget(0.25, GMACS) == (
        1.0,
        "a budget of 0.25 is below what exit 1 costs; taken as 1, leaving there always",
    )
    assert clamp_budget(40, GMACS) == (8.0, "a budget of 40 is above what the full cascade costs; taken as 8")


@pytest.mark.parametrize("budget", [0.0, -3.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_number_above_0_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match=f"the budget is {budget:g}; it must be a number of GFLOPs above 0"):
        clamp_budget(budget, GMACS)


def least_cost(outcomes: list[tuple[int, float]], count: int, floor: float) -> float:
    """The least mean cost of any thresholds whose accuracy is not below a floor."""
    return min(cost for right, cost in outcomes if right / count >= floor - 1e-12)


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 7),
    exits=st.integers(2, 3),
    tied=st.booleans(),
    max_drop=st.sampled_from([0.0, 0.01, 0.2, 0.35, 1.0]),
)
@settings(max_examples=40)
def test_nothing_within_the_drop_is_cheaper(seed: int, count: int, exits: int, tied: bool, max_drop: float) -> None:
    confidences, correct = some_results(count, exits, seed, tied)
    gmacs = random_costs(exits, seed)
    floor = correct[:, -1].mean() - max_drop
    found = cheapest_within(confidences, correct, gmacs, max_drop)
    assert found.gmacs == pytest.approx(least_cost(all_outcomes(confidences, correct, gmacs), count, floor))
    assert found.accuracy >= floor - 1e-12
    again = operate(confidences, correct, gmacs, found.thresholds)
    assert (again.gmacs, again.accuracy) == (found.gmacs, found.accuracy)


def test_nothing_is_cheaper_where_two_costs_are_closer_than_one_image_s_step() -> None:
    """Two images at the last exit cost a little more than four at the second, and get one more right."""
    confidences = np.full((6, 3), 0.5, np.float32)
    confidences[:, 0] = [0.1, 0.1, 0.2, 0.2, 0.9, 0.9]
    correct = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
    gmacs = np.array([1.0, 2.0, 3.01])
    # Three may be wrong at exit 1, and one of the three must be put right.
    max_drop = 2 / 6
    floor = correct[:, -1].mean() - max_drop
    cheapest = least_cost(all_outcomes(confidences, correct, gmacs), 6, floor)
    assert cheapest * 6 == pytest.approx(6 + 4 * 1.0)
    assert cheapest_within(confidences, correct, gmacs, max_drop).gmacs == pytest.approx(cheapest, rel=1e-9)


@pytest.mark.parametrize("max_drop", [0.0, 0.003, 0.02])
@pytest.mark.parametrize("tied", [False, True])
def test_accuracy_is_never_below_the_floor_on_many_images(max_drop: float, tied: bool) -> None:
    confidences, correct = some_results(2000, 3, seed=1, tied=tied)
    found = cheapest_within(confidences, correct, GMACS, max_drop)
    assert found.accuracy >= correct[:, -1].mean() - max_drop - 1e-12
    assert GMACS[0] <= found.gmacs <= GMACS[-1]
    # A budget that is a little smaller does not reach the floor.
    [below] = choose(confidences, correct, GMACS, max(found.gmacs * (1 - 1e-6), GMACS[0]))
    assert below.accuracy < correct[:, -1].mean() - max_drop


def test_a_larger_drop_is_never_dearer() -> None:
    confidences, correct = distinct_results(500, 3, seed=2)
    costs = [cheapest_within(confidences, correct, GMACS, drop).gmacs for drop in (0.0, 0.05, 0.2, 1.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1] == GMACS[0]


def test_where_leaving_early_is_always_wrong_nobody_does() -> None:
    confidences, _ = distinct_results(50, 3, seed=3)
    correct = np.tile([False, False, True], (50, 1))
    found = cheapest_within(confidences, correct, GMACS, 0.0)
    assert found.shares.tolist() == [0.0, 0.0, 1.0]


def test_the_cheapest_of_one_exit_is_that_exit() -> None:
    confidences, correct = distinct_results(20, 1, seed=4)
    found = cheapest_within(confidences, correct, GMACS[:1], 0.0)
    assert (found.gmacs, found.thresholds.shape) == (1.0, (0,))
