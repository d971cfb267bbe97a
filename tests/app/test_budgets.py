"""From a mean cost to thresholds, by a card's own table or a published curve."""

import numpy as np
import pytest

from app import budgets
from dvt_tf.calibration import budget_table
from dvt_tf.exit_rule import NEVER
from dvt_tf.results import ExitResults

GMACS = [0.1, 0.3, 1.0]
TABLE = {
    "measure": "top1",
    "points": [
        {"gmacs": 0.1, "top1": 0.6, "thresholds": [0.0, 0.0]},
        {"gmacs": 0.25, "top1": 0.8, "thresholds": [0.7, 0.5]},
        {"gmacs": 0.8, "top1": 0.9, "thresholds": [NEVER, 0.9]},
    ],
}
PUBLISHED = {"curve": [[0.3, 70.0], [0.9, 80.0]], "thresholds": [[0.5, 0.4], [0.9, 0.8]]}


@pytest.mark.parametrize(
    ("wanted", "thresholds", "expected"),
    [(0.1, [0.0, 0.0], 0.6), (0.2499, [0.0, 0.0], 0.6), (0.25, [0.7, 0.5], 0.8), (1.0, [NEVER, 0.9], 0.9)],
)
def test_the_best_that_the_card_knows_within_a_budget(wanted: float, thresholds: list[float], expected: float) -> None:
    choice = budgets.choose({"budgets": TABLE}, GMACS, wanted)
    assert (choice.thresholds, choice.expected, choice.measure, choice.note) == (thresholds, expected, "top1", "")
    assert choice.gmacs == wanted
    assert choice.share == pytest.approx(wanted / GMACS[-1])


def test_just_outside_what_the_cascade_can_cost_is_brought_inside_without_a_word() -> None:
    for wanted, budget in ((0.09, 0.1), (1.01, 1.0)):
        choice = budgets.choose({"budgets": TABLE}, GMACS, wanted)
        assert (choice.gmacs, choice.note) == (budget, "")


def test_a_published_curve_and_what_lies_below_it() -> None:
    card = {"published": PUBLISHED}
    choice = budgets.choose(card, GMACS, 0.5)
    assert (choice.thresholds, choice.expected, choice.measure) == ([0.5, 0.4], 0.7, "top1")
    below = budgets.choose(card, GMACS, 0.2)
    assert (below.thresholds, below.expected) == ([0.0, 0.0], None)
    assert "every image leaves at exit 1" in below.note


@pytest.mark.parametrize("labelled", [True, False])
def test_a_table_of_stored_results(labelled: bool) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300).astype(np.int32)
    wrong = random.random((300, 3)) > [0.6, 0.75, 0.9]
    results = ExitResults(
        confidences=(0.5 + 0.4 * random.random((300, 3)) - 0.2 * wrong).astype(np.float32),
        predictions=np.where(wrong, (labels[:, None] + 1) % 4, labels[:, None]).astype(np.int32),
        gmacs=np.asarray(GMACS),
        top_logits=np.zeros((300, 3, 4), np.float32),
        rest=np.full((300, 3), -np.inf, np.float32),
        num_classes=4,
        labels=labels if labelled else None,
    )
    card = {"budgets": budget_table(results)}
    assert budgets.knows_budgets(card, GMACS)
    choices = [budgets.choose(card, GMACS, wanted) for wanted in np.linspace(0.1, 1.0, 50)]
    assert {choice.measure for choice in choices} == {"top1" if labelled else "agreement"}
    reached = [choice.expected for choice in choices if choice.expected is not None]
    assert len(reached) == len(choices)
    assert reached == sorted(reached)
    assert all(type(value) is float for choice in choices for value in choice.thresholds)


def test_which_models_know_budgets() -> None:
    assert budgets.knows_budgets({"budgets": TABLE}, GMACS)
    assert budgets.knows_budgets({"published": PUBLISHED}, GMACS)
    assert not budgets.knows_budgets({"published": {"top1": [70.0]}}, GMACS)
    assert not budgets.knows_budgets({}, GMACS)
    assert not budgets.knows_budgets({"budgets": TABLE}, GMACS[:1])


@pytest.mark.parametrize(
    ("gmacs", "limits"),
    [
        ([0.024181632, 0.080794592, 0.204439648], (0.024, 0.205, 0.001)),
        ([0.651, 1.7, 4.3], (0.64, 4.3, 0.02)),
        ([0.1, 1.1], (0.1, 1.1, 0.01)),
        ([0.00005, 0.0009], (0.00005, 0.0009, 0.000005)),
        ([11.0, 5000.0], (0.0, 5000.0, 20.0)),
    ],
)
def test_the_sliders_steps_are_round_numbers(gmacs: list[float], limits: tuple[float, float, float]) -> None:
    assert budgets.slider_range(gmacs) == limits
    least, greatest, step = limits
    assert 0 <= gmacs[0] - least < step
    assert 0 <= greatest - gmacs[-1] < step
    assert (greatest - least) / step >= budgets.LEAST_STEPS - 1e-6
    assert (greatest - least) / step == pytest.approx(round((greatest - least) / step))
