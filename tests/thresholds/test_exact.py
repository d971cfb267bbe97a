"""The exact solver against every combination of thresholds, and the tree beneath it against a naive one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvt_tf.exit_rule import NEVER
from dvt_tf.thresholds import Operating, choose
from dvt_tf.thresholds.prefix_tree import PrefixTree
from tests.thresholds.random_results import (
    GMACS,
    all_outcomes,
    best_within,
    distinct_results,
    many_budgets,
    random_costs,
    some_results,
    tied_results,
)

Stored = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def few_images(draw: st.DrawFn) -> Stored:
    """Confidences (N, K), correctness and costs: up to 7 images, any float32 numbers, some equal, some exactly 1."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(2, 3)))
    values = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.5, 1.0]))
    confidences = draw(hnp.arrays(np.float32, shape, elements=values))
    correct = draw(hnp.arrays(bool, shape))
    steps = draw(st.lists(st.floats(0.125, 8.0), min_size=shape[1], max_size=shape[1]))
    return confidences, correct, np.cumsum(steps)


def right(found: Operating, count: int) -> int:
    """How many images are right."""
    return round(found.accuracy * count)


@given(few_images())
@settings(max_examples=60)
def test_no_combination_of_thresholds_is_better(stored: Stored) -> None:
    confidences, correct, gmacs = stored
    outcomes = all_outcomes(confidences, correct, gmacs)
    # Budgets that are exactly what some thresholds cost, and many that are not.
    budgets = [*sorted({cost for _, cost in outcomes})[:40], *many_budgets(gmacs, len(confidences))]
    for budget, found in zip(budgets, choose(confidences, correct, gmacs, budgets), strict=True):
        most, least_cost = best_within(outcomes, budget)
        assert right(found, len(confidences)) == most
        assert found.gmacs == pytest.approx(least_cost, rel=1e-9)


def outcomes_of_all_cuts(confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray) -> list[tuple[int, float]]:
    """`all_outcomes` of three exits for some hundred images, by products of matrices over all pairs of cuts."""
    leaves = [
        np.float64(column >= np.append(np.unique(column), np.float32(NEVER))[:, None]) for column in confidences.T[:2]
    ]

    def total(values: np.ndarray) -> np.ndarray:
        stays = 1.0 - leaves[0]
        at_last = (stays @ values[:, 2])[:, None]
        return (leaves[0] @ values[:, 0])[:, None] + at_last + (stays * (values[:, 1] - values[:, 2])) @ leaves[1].T

    hits = np.rint(total(correct.astype(np.float64))).astype(int)
    cost = total(np.broadcast_to(gmacs, confidences.shape)) / len(confidences)
    return list(zip(hits.reshape(-1).tolist(), cost.reshape(-1).tolist(), strict=True))


@given(seed=st.integers(0, 10_000), count=st.integers(50, 150), tied=st.booleans())
@settings(max_examples=8)
def test_no_pair_of_cuts_is_better_on_a_hundred_images(seed: int, count: int, tied: bool) -> None:
    confidences, correct = some_results(count, 3, seed, tied)
    gmacs = random_costs(3, seed)
    outcomes = outcomes_of_all_cuts(confidences, correct, gmacs)
    budgets = many_budgets(gmacs, count)
    for budget, found in zip(budgets, choose(confidences, correct, gmacs, budgets), strict=True):
        most, least_cost = best_within(outcomes, budget)
        assert right(found, count) == most
        assert found.gmacs == pytest.approx(least_cost, rel=1e-9)


def test_all_cuts_by_products_are_all_cuts_image_by_image() -> None:
    confidences, correct = tied_results(9, 3, seed=1)
    ours = outcomes_of_all_cuts(confidences, correct, GMACS)
    theirs = all_outcomes(confidences, correct, GMACS)
    np.testing.assert_allclose(sorted(ours), sorted(theirs))


@given(few_images())
def test_thresholds_lie_halfway_between_neighbouring_confidences(stored: Stored) -> None:
    confidences, correct, gmacs = stored
    for found in choose(confidences, correct, gmacs, many_budgets(gmacs, len(confidences))):
        for k, threshold in enumerate(found.thresholds):
            if threshold in (0.0, np.float32(NEVER)):
                continue
            values = np.unique(confidences[:, k])
            place = int(np.searchsorted(values, threshold))  # the first that meets it
            assert 0 < place < len(values)
            lower, upper = values[place - 1], values[place]
            halfway = np.float32((float(lower) + float(upper)) / 2)
            if np.nextafter(lower, np.float32(1.0)) == upper:
                assert lower < threshold <= upper  # there is no number between them
            else:
                assert threshold == halfway


def test_images_of_equal_confidence_leave_together() -> None:
    # Alone, the first image should leave at exit 1 and the second should not; they cannot be told apart.
    confidences = np.array([[1.0, 0.5], [1.0, 0.5], [0.5, 0.5]], np.float32)
    correct = np.array([[1, 0], [0, 1], [0, 1]], bool)
    gmacs = np.array([1.0, 2.0])
    [tight, wide] = choose(confidences, correct, gmacs, [1.5, 2.0])
    assert tight.shares.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert tight.thresholds.tolist() == [0.75]
    assert right(tight, 3) == 2
    # As many are right with nobody leaving, and that is dearer.
    assert wide.thresholds.tolist() == [0.75]


@pytest.mark.parametrize("exits", [2, 3])
@pytest.mark.parametrize("upper", [0.5, 1.0])
def test_confidences_that_are_neighbours_among_float32_numbers_are_told_apart(exits: int, upper: float) -> None:
    surer = np.float32(upper)
    less_sure = np.nextafter(surer, np.float32(0.0))
    confidences = np.full((2, exits), 0.25, np.float32)
    confidences[:, exits - 2] = [surer, less_sure]
    correct = np.zeros((2, exits), bool)
    correct[0, exits - 2] = correct[1, exits - 1] = True
    [found] = choose(confidences, correct, GMACS[:exits], GMACS[exits - 1])
    assert found.accuracy == 1.0
    assert found.shares[exits - 2 :].tolist() == [0.5, 0.5]


@given(seed=st.integers(0, 10_000), count=st.integers(100, 500), exits=st.integers(2, 3), tied=st.booleans())
@settings(max_examples=20)
def test_never_below_the_published_rule_and_never_above_the_budget(
    seed: int, count: int, exits: int, tied: bool
) -> None:
    confidences, correct = some_results(count, exits, seed, tied)
    gmacs = random_costs(exits, seed)
    budgets = many_budgets(gmacs, count)
    exact = choose(confidences, correct, gmacs, budgets)
    published = choose(confidences, correct, gmacs, budgets, "published")
    assert len(exact) == len(budgets)
    for budget, ours, theirs in zip(budgets, exact, published, strict=True):
        assert ours.gmacs <= budget * (1 + 1e-9)
        assert ours.accuracy >= theirs.accuracy
        assert ours.accuracy > theirs.accuracy or ours.gmacs <= theirs.gmacs * (1 + 1e-9)


@given(seed=st.integers(0, 10_000), exits=st.integers(2, 3), tied=st.booleans())
@settings(max_examples=4)
def test_never_below_the_evolutionary_search(seed: int, exits: int, tied: bool) -> None:
    confidences, correct = some_results(150, exits, seed, tied)
    gmacs = random_costs(exits, seed)
    budgets = np.linspace(gmacs[0], gmacs[-1], 4).tolist()
    exact = choose(confidences, correct, gmacs, budgets)
    searched = choose(confidences, correct, gmacs, budgets, "evolutionary")
    for ours, theirs in zip(exact, searched, strict=True):
        assert ours.accuracy >= theirs.accuracy
        assert ours.accuracy > theirs.accuracy or ours.gmacs <= theirs.gmacs * (1 + 1e-9)


def test_the_search_for_the_best_is_not_idle() -> None:
    """On these images the published rule leaves accuracy lying about, at most budgets."""
    confidences, correct = distinct_results(400, 3, seed=5)
    budgets = np.linspace(1.5, 7.5, 13).tolist()
    exact = choose(confidences, correct, GMACS, budgets)
    published = choose(confidences, correct, GMACS, budgets, "published")
    gains = [ours.accuracy - theirs.accuracy for ours, theirs in zip(exact, published, strict=True)]
    assert sum(gain > 0.005 for gain in gains) >= 7


Blocks = list[list[int]]


def prefix_gains(blocks: Blocks) -> list[int]:
    """Of no leading block, of one, of two ..."""
    return [sum(sum(block) for block in blocks[:leading]) for leading in range(len(blocks) + 1)]


def prefix_counts(blocks: Blocks) -> list[int]:
    return [sum(len(block) for block in blocks[:leading]) for leading in range(len(blocks) + 1)]


def check_tree(tree: PrefixTree, blocks: Blocks) -> None:
    gains, counts = prefix_gains(blocks), prefix_counts(blocks)
    assert tree.count == counts[-1]
    assert tree.best == max(gains)
    for least in range(-1, tree.count + 1):
        best = max(gain for gain, count in zip(gains, counts, strict=True) if count >= least)
        assert tree.best_with(least) == best
        longest = max(leading for leading, gain in enumerate(gains) if gain >= best)
        assert tree.longest(best) == (longest, counts[longest])
    with pytest.raises(ValueError, match=rf"{tree.count + 1} images were asked for and {tree.count} are left"):
        tree.best_with(tree.count + 1)


@given(
    blocks=st.lists(st.lists(st.integers(-2, 2), max_size=4), min_size=1, max_size=9),
    picks=st.lists(st.integers(0, 1000), max_size=40),
)
def test_the_tree_answers_as_a_naive_one_while_images_are_taken_away(blocks: Blocks, picks: list[int]) -> None:
    left = [list(block) for block in blocks]
    tree = PrefixTree([len(block) for block in left], [sum(block) for block in left])
    check_tree(tree, left)
    for pick in picks:
        there = [which for which, block in enumerate(left) if block]
        if not there:
            break
        which = there[pick % len(there)]
        tree.take(which, left[which].pop(pick % len(left[which])))
        check_tree(tree, left)
