"""The slider's readings and the routing they lead to."""

import pytest

from app import routing
from app.routing import SLIDER_END, decide
from dvt_tf.exit_rule import NEVER

SURE_LATER = [[0.5, 0.3, 0.2], [0.1, 0.75, 0.15], [0.0, 0.02, 0.98]]
GMACS = [0.1, 0.3, 1.0]


def at(position: float, probabilities: list[list[float]] = SURE_LATER, gmacs: list[float] = GMACS) -> routing.Decision:
    return decide(probabilities, routing.thresholds_at(position, len(gmacs)), gmacs)


@pytest.mark.parametrize(("position", "exit_number", "label"), [(0.0, 1, 0), (0.5, 1, 0), (0.6, 2, 1), (0.8, 3, 2)])
def test_leaves_at_the_first_exit_that_is_sure_enough(position: float, exit_number: int, label: int) -> None:
    decision = at(position)
    assert (decision.exit, decision.label) == (exit_number, label)
    assert decision.gmacs == GMACS[exit_number - 1]
    assert decision.share == pytest.approx(GMACS[exit_number - 1] / 1.0)
    assert decision.confidence == pytest.approx(max(SURE_LATER[exit_number - 1]))


def test_the_end_of_the_slider_never_leaves_early_even_when_certain() -> None:
    certain = [[1.0, 0.0], [1.0, 0.0], [0.4, 0.6]]
    assert at(1.0, certain).exit == 1
    assert at(SLIDER_END, certain).exit == 3
    assert routing.thresholds_at(SLIDER_END, 3) == [NEVER, NEVER]


def test_a_higher_threshold_never_leaves_earlier() -> None:
    exits = [at(step * routing.SLIDER_STEP).exit for step in range(102)]
    assert exits == sorted(exits)
    assert set(exits) == {1, 2, 3}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_exits(count: int) -> None:
    probabilities = [[0.5 + 0.1 * k, 0.5 - 0.1 * k] for k in range(count)]
    gmacs = [float(k + 1) for k in range(count)]
    assert at(0.0, probabilities, gmacs).exit == 1
    assert at(SLIDER_END, probabilities, gmacs).exit == count
    assert at(0.0, probabilities, gmacs).full_gmacs == count


def test_every_exit_can_have_a_threshold_of_its_own() -> None:
    assert decide(SURE_LATER, [0.9, 0.7], GMACS).exit == 2
    assert decide(SURE_LATER, [0.4, 0.9], GMACS).exit == 1


def test_the_noise_of_a_browsers_numbers_does_not_matter() -> None:
    assert routing.thresholds_at(0.7000000000000001, 2) == [0.7]
    assert routing.thresholds_at(0.29000000000000004, 3) == [0.29, 0.29]


@pytest.mark.parametrize(
    ("thresholds", "position", "text"),
    [
        ([0.72, 0.72], 0.72, "0.72"),
        ([NEVER, NEVER], SLIDER_END, "never early"),
        ([0.9, 0.5], 0.9, "0.90, then 0.50"),
        ([0.9, NEVER], 0.9, "0.90, then never early"),
        ([], SLIDER_END, "never early"),
    ],
)
def test_where_the_slider_stands_and_what_it_reads(thresholds: list[float], position: float, text: str) -> None:
    assert routing.position_of(thresholds) == position
    if thresholds:
        assert routing.thresholds_text(thresholds) == text


def test_the_cards_thresholds_are_known_again_in_float32() -> None:
    assert routing.same([0.7], [0.699999988079071])
    assert not routing.same([0.7], [0.71])
