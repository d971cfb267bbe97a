"""A cascade at any mean cost, by thresholds of the calibration split."""

from __future__ import annotations

import numpy as np
import pytest

from dvt_tf.evaluation import budgets_between
from dvt_tf.exit_rule import route
from dvt_tf.thresholds import choose, operate
from tests.training.outcomes import IMAGES, MADE_BY, all_found, outcome
from training import study_curves
from training.cells import Cell, Outcome

pytestmark = pytest.mark.one_stack


def test_thresholds_of_a_curve_come_from_the_calibration_split_alone() -> None:
    generator = np.random.default_rng(0)
    right = generator.random((400, 2)) < (0.5, 0.8)
    sure = np.where(right, 0.9, 0.1) * generator.random((400, 2))
    gmacs = np.array([0.1, 0.3])
    # On the calibration split those that are sure are right, on the test split those that are not.
    told = Outcome(
        gmacs, {"calibration": sure, "test": 1 - sure}, {"calibration": right, "test": right}, 1, 1.0, MADE_BY
    )
    curve = study_curves.budgeted(told)
    costs, shares = curve.gmacs.tolist(), curve.right.mean(1).tolist()
    budgets = budgets_between(gmacs, len(costs)).tolist()
    for split, same in (("calibration", True), ("test", False)):
        chosen = choose(told.confidences[split], right, gmacs, budgets)
        points = [operate(told.confidences["test"], right, gmacs, one.thresholds) for one in chosen]
        points.sort(key=lambda point: point.gmacs)
        assert ([p.gmacs for p in points] == pytest.approx(costs)) == same
        assert ([p.accuracy for p in points] == pytest.approx(shares)) == same
    assert np.mean(shares) < np.mean([p.accuracy for p in points])  # than those chosen on the test split


RIGHT = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1]], bool)
CURVE = study_curves.Curve(np.array([1.0, 2.0, 4.0]), np.zeros((3, 1)), np.array([1.0, 2.0, 4.0]), RIGHT)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (0.5, [1, 0, 0, 0]),
        (1.0, [1, 0, 0, 0]),
        (1.25, [1, 0.25, 0, 0]),
        (2.0, [1, 1, 0, 0]),
        (3.0, [0.5, 1, 0.5, 0.5]),
        (4.0, [0, 1, 1, 1]),
        (9.0, [0, 1, 1, 1]),
    ],
)
def test_between_two_budgets_images_take_either_by_lot(cost: float, expected: list[float]) -> None:
    assert study_curves.right_at(CURVE, cost).tolist() == expected


def test_thresholds_that_several_budgets_have_are_one_point() -> None:
    again = study_curves.Curve(*(np.repeat(part, 2, axis=0) for part in CURVE))
    for cost in (1.0, 1.25, 2.0, 3.0, 4.0):
        assert study_curves.right_at(again, cost).tolist() == study_curves.right_at(CURVE, cost).tolist()


def test_the_mean_over_seeds_is_of_the_same_cost() -> None:
    cheap = CURVE._replace(gmacs=np.array([1.0, 1.5, 2.0]))  # it ends before the other does
    mean, least, most = study_curves.mean_and_band([CURVE, cheap], np.array([1.0, 2.0, 4.0]))
    assert (mean.tolist(), least.tolist(), most.tolist()) == (
        [0.25, 0.625, 0.75],
        [0.25, 0.5, 0.75],
        [0.25, 0.75, 0.75],
    )


def test_the_first_and_the_dearest_point_of_a_cascade() -> None:
    one = outcome((0.4, 0.6, 0.8), 0)
    curve = study_curves.budgeted(one)
    assert curve.gmacs[0] == pytest.approx(one.gmacs[0])  # nobody goes on
    np.testing.assert_array_equal(curve.right[0], one.correct["test"][:, 0])
    assert (np.diff(curve.gmacs) >= 0).all()
    for point in (7, -1):
        exits = route(one.confidences["test"], curve.thresholds[point]) - 1
        assert curve.gmacs[point] == pytest.approx(one.gmacs[exits].mean())
        np.testing.assert_array_equal(curve.right[point], one.correct["test"][np.arange(IMAGES), exits])
    best = choose(one.confidences["calibration"], one.correct["calibration"], one.gmacs, [one.gmacs[-1]])[0]
    np.testing.assert_array_equal(curve.thresholds[-1], best.thresholds)


def test_every_point_is_kept_with_its_budget_and_thresholds() -> None:
    found = all_found(1)
    curves = {Cell(row, 0): study_curves.budgeted(found[Cell(row, 0)]) for row in ("two_none", "three_both")}
    headings, lines = study_curves.points(curves, {Cell("alone_3", 0): found[Cell("alone_3", 0)]})
    assert headings == ["configuration", "seed", "budget", "gmacs", "top1", "threshold_1", "threshold_2"]
    assert {len(line) for line in lines} == {len(headings)}
    assert [line[0] for line in lines] == ["two_none"] * 25 + ["three_both"] * 25 + ["alone_3"]
    curve = curves[Cell("three_both", 0)]
    told = [float(value) for value in lines[25 + 9][2:]]
    assert told[:3] == pytest.approx([curve.budgets[9], curve.gmacs[9], curve.right[9].mean()], rel=1e-5)
    np.testing.assert_array_equal(np.array(told[3:], np.float32), curve.thresholds[9])
    assert (lines[0][-1], lines[-1][2], lines[-1][5:]) == ("", "", ["", ""])
