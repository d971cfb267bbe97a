"""The guarantee: its parts by hand, the walk along its path, and how many images it needs."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from dvt_tf.exit_rule import NEVER, route
from dvt_tf.thresholds import RISKS, certify, least_images, losses_of, operate, safest_first
from dvt_tf.thresholds.guarantee import p_value
from tests.thresholds.random_results import (
    GMACS,
    calm_population,
    distinct_results,
    random_costs,
    some_results,
)

PREDICTIONS = np.array([[1, 1, 1], [1, 2, 2], [3, 2, 1], [1, 2, 1], [2, 2, 3]])
LABELS = np.array([1, 2, 1, 2, 2])


def test_losses_by_hand() -> None:
    assert losses_of(PREDICTIONS, "disagreement").tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [False, True, False],
        [True, True, False],
    ]
    assert losses_of(PREDICTIONS, "accuracy_drop", LABELS).tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [False, False, False],  # the last exit is wrong, and nothing is lost that it would have
        [False, False, False],
    ]


def test_disagreement_needs_no_labels_and_takes_no_notice_of_them() -> None:
    with_labels = losses_of(PREDICTIONS, "disagreement", LABELS)
    np.testing.assert_array_equal(with_labels, losses_of(PREDICTIONS, "disagreement"))


def test_a_drop_of_accuracy_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"accuracy drop needs labels, and these images have none; disagreement needs"):
        losses_of(PREDICTIONS, "accuracy_drop")


def test_an_unknown_risk_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown risk 'regret'; it can be disagreement, accuracy_drop"):
        losses_of(PREDICTIONS, "regret", LABELS)


@given(level=st.floats(0.003, 0.7), confidence=st.floats(0.05, 0.999))
def test_the_fewest_images_are_those_of_the_definition(level: float, confidence: float) -> None:
    images = least_images(level, confidence)
    with localcontext() as context:
        context.prec = 60
        stays_right = 1 - Decimal(level)
        doubt = 1 - Decimal(confidence)
        assert stays_right**images <= doubt * (1 + Decimal("1e-8"))
        assert stays_right ** (images - 1) > doubt


@pytest.mark.parametrize(
    ("level", "confidence", "images"),
    [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.01, 0.9, 230), (0.001, 0.95, 2995), (0.5, 0.75, 2), (0.5, 0.5, 1)],
)
def test_the_fewest_images_by_hand(level: float, confidence: float, images: int) -> None:
    assert least_images(level, confidence) == images


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, 95, float("nan")])
def test_a_level_or_a_confidence_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"the level is {value:g}; it must be a share between 0 and 1"):
        least_images(value, 0.95)
    with pytest.raises(ValueError, match=f"the confidence is {value:g}; it must be a share between 0 and 1"):
        least_images(0.01, value)


@given(count=st.integers(1, 120), level=st.floats(0.01, 0.9), data=st.data())
def test_the_p_value_is_the_sum_of_its_definition(count: int, level: float, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, count))
    terms = [math.comb(count, k) * level**k * (1 - level) ** (count - k) for k in range(lost + 1)]
    assert p_value(lost, count, level) == pytest.approx(math.fsum(terms), rel=1e-8, abs=1e-300)


def two_exits(images: int, losing: dict[float, int]) -> tuple[np.ndarray, np.ndarray]:
    """Confidences (N, 2) and losses (N, 2) of images that, of each confidence, so many lose by leaving at exit 1.

    A tenth of the images has each confidence from 0.95 down to 0.05.
    """
    confidences = np.repeat(np.array(np.arange(0.95, 0.0, -0.1), np.float32), images // 10)
    losses = np.zeros((len(confidences), 2), bool)
    for value, lost in losing.items():
        losses[np.flatnonzero(np.isclose(confidences, value))[:lost], 0] = True
    return np.stack([confidences, confidences], 1), losses


def path_of(*thresholds: float) -> list[np.ndarray]:
    return [np.array([threshold], np.float32) for threshold in thresholds]


def test_the_last_setting_that_passed_is_returned_and_not_the_first_that_failed() -> None:
    # Of 1,000 images, 2 more are lost with every step; a level of 1 % is passed with up to 4 (5 have p > 0.05).
    confidences, losses = two_exits(1000, {0.85: 2, 0.75: 2, 0.65: 2, 0.55: 2})
    assert binom.cdf(4, 1000, 0.01) < 0.05 < binom.cdf(5, 1000, 0.01)
    found = certify(path_of(0.9, 0.8, 0.7, 0.6, 0.5), confidences, losses, 0.01, 0.95)
    assert found.thresholds.tolist() == [np.float32(0.7)]
    assert found.thresholds.dtype == np.float32
    assert (found.images, found.losses, found.passed, found.path) == (1000, 4, 3, 5)


def test_one_loss_too_many_fails_and_one_fewer_passes() -> None:
    for lost, passes in ((4, True), (5, False)):
        confidences, losses = two_exits(1000, {0.95: lost})
        found = certify(path_of(0.9), confidences, losses, 0.01, 0.95)
        assert found.passed == passes
        assert found.losses == (lost if passes else 0)


def test_the_walk_ends_at_the_first_failure_even_if_a_later_setting_would_pass() -> None:
    confidences, losses = two_exits(1000, {0.55: 50})
    # The order is the path's: here it goes on to a setting that is as safe as the first, or safer.
    alone = certify(path_of(0.7), confidences, losses, 0.01, 0.95)
    assert (alone.passed, alone.losses) == (1, 0)
    found = certify(path_of(0.8, 0.5, 0.7, 0.6), confidences, losses, 0.01, 0.95)
    assert found.thresholds.tolist() == [np.float32(0.8)]
    assert (found.passed, found.losses, found.path) == (1, 0, 4)


def test_the_whole_path_can_pass() -> None:
    confidences, losses = two_exits(1000, {})
    found = certify(path_of(0.9, 0.5, 0.0), confidences, losses, 0.01, 0.95)
    assert (found.thresholds.tolist(), found.passed, found.path) == ([0.0], 3, 3)


@pytest.mark.parametrize("exits", [2, 3, 4])
def test_where_the_first_setting_fails_every_image_runs_the_whole_cascade(exits: int) -> None:
    confidences = np.full((500, exits), 0.5, np.float32)
    losses = np.zeros((500, exits), bool)
    losses[:, 0] = True
    path = [np.zeros(exits - 1, np.float32), np.array([NEVER, *[0.0] * (exits - 2)], np.float32)]
    found = certify(path, confidences, losses, 0.01, 0.95)
    assert np.all(route(confidences, found.thresholds) == exits)
    assert found.thresholds.tolist() == [NEVER] * (exits - 1)
    assert (found.losses, found.passed, found.path) == (0, 0, 2)


def test_an_empty_path_leaves_the_whole_cascade() -> None:
    found = certify([], np.full((500, 3), 0.5, np.float32), np.zeros((500, 3), bool), 0.01, 0.95)
    assert (found.thresholds.tolist(), found.passed, found.path) == ([NEVER, NEVER], 0, 0)


def test_too_few_images_are_refused_with_how_many_would_do() -> None:
    confidences, losses = np.full((298, 2), 0.5, np.float32), np.zeros((298, 2), bool)
    with pytest.raises(ValueError, match=r"298 independent images are too few to promise 0\.01 .*: it takes 299"):
        certify(path_of(0.0), confidences, losses, 0.01, 0.95)


@pytest.mark.parametrize("level", [0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3])
def test_as_many_images_as_are_asked_for_do_certify(level: float) -> None:
    for percent in range(50, 100):
        images = least_images(level, percent / 100)
        confidences, losses = np.full((images, 2), 0.5, np.float32), np.zeros((images, 2), bool)
        assert certify(path_of(0.0), confidences, losses, level, percent / 100).passed == 1, percent


def random_losses(count: int, exits: int, seed: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    confidences, correct = some_results(count, exits, seed, tied)
    return confidences, correct[:, -1:] & ~correct


@given(seed=st.integers(0, 10_000), count=st.integers(2, 200), exits=st.integers(2, 3), tied=st.booleans())
@settings(max_examples=25)
def test_the_path_goes_from_the_dear_and_safe_to_the_cheap_and_risky(
    seed: int, count: int, exits: int, tied: bool
) -> None:
    confidences, losses = random_losses(count, exits, seed, tied)
    gmacs = random_costs(exits, seed)
    path = safest_first(confidences, losses, gmacs)
    assert len({tuple(thresholds.tolist()) for thresholds in path}) == len(path)
    for thresholds in path:
        assert (thresholds.shape, thresholds.dtype) == ((exits - 1,), np.float32)
        assert np.any(thresholds < NEVER)  # the full cascade is not on it
    points = [operate(confidences, ~losses, gmacs, thresholds) for thresholds in path]
    # At most the first four are such that only a part of the images leave early; from there on it is the frontier.
    frontier = points[4:]
    assert all(before.gmacs > after.gmacs for before, after in itertools.pairwise(frontier))
    assert all(before.accuracy > after.accuracy for before, after in itertools.pairwise(frontier))
    # Its end is the cheapest there is.
    assert points[-1].gmacs == pytest.approx(gmacs[0])


@pytest.mark.parametrize("risk", RISKS)
def test_the_path_starts_safe(risk: str) -> None:
    population = calm_population(2000, seed=3)
    losses = losses_of(population.predictions, risk, population.labels)
    tune, other = slice(0, 400), slice(400, None)
    path = safest_first(population.confidences[tune], losses[tune], GMACS)
    points = [operate(population.confidences[tune], ~losses[tune], GMACS, thresholds) for thresholds in path]
    # Nothing is lost at first on the images of its own, and next to nothing on others, while some leave early.
    assert all(point.accuracy == 1.0 for point in points[:4])
    assert all(before.gmacs > after.gmacs for before, after in itertools.pairwise(points[:5]))
    assert points[0].gmacs < GMACS[-1]
    assert 1 - operate(population.confidences[other], ~losses[other], GMACS, path[0]).accuracy < 0.002
    assert points[-1].accuracy < 0.9


def test_four_exits_have_a_path_too() -> None:
    confidences, losses = random_losses(80, 4, seed=1, tied=False)
    gmacs = random_costs(4, seed=1)
    path = safest_first(confidences, losses, gmacs)
    assert len({tuple(thresholds.tolist()) for thresholds in path}) == len(path) > 10
    assert all(np.any(thresholds < NEVER) for thresholds in path)
    risks = [1 - operate(confidences, ~losses, gmacs, thresholds).accuracy for thresholds in path]
    assert risks[4:] == sorted(risks[4:])


def test_one_exit_has_no_path() -> None:
    confidences, _ = distinct_results(50, 1, seed=0)
    assert safest_first(confidences, np.zeros((50, 1), bool), GMACS[:1]) == []
