"""How far confidences can be believed: the calibration error by hand, and temperatures that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from dvt_tf.reliability import fit_temperature, reliability, scaled_confidences
from dvt_tf.results import TOP_LOGITS, ExitResults


def test_the_calibration_error_by_hand() -> None:
    confidences = np.array([0.25, 0.5, 0.625, 0.75, 1.0, 1.0], np.float32)
    correct = np.array([False, True, False, True, True, False])
    found = reliability(confidences, correct, bins=2)
    np.testing.assert_allclose(found.edges, [0.0, 0.5, 1.0])
    assert found.counts.tolist() == [2, 4]  # a bin has its upper edge
    assert found.right.tolist() == [1, 2]
    np.testing.assert_allclose(found.confidence, [0.375, 0.84375])
    # Weighted by their images: 2/6 * |1/2 - 0.375| + 4/6 * |2/4 - 0.84375|
    assert found.error == pytest.approx(2 / 6 * 0.125 + 4 / 6 * 0.34375)


def test_empty_bins_count_for_nothing() -> None:
    found = reliability(np.array([1.0, 1.0, 0.0, 0.0], np.float32), np.array([True, False, False, False]), bins=10)
    assert found.counts.tolist() == [2, *[0] * 8, 2]
    assert found.right.tolist() == [0, *[0] * 8, 1]
    assert found.confidence.tolist() == [0.0, *[0.0] * 8, 1.0]
    assert found.error == pytest.approx(0.25)  # half of the images are sure, and half of those wrong


def test_there_are_fifteen_bins_unless_others_are_asked_for() -> None:
    found = reliability(np.array([0.5], np.float32), np.array([True]))
    assert (len(found.edges), len(found.counts)) == (16, 15)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 200), bins=st.integers(1, 20))
def test_the_calibration_error_is_that_of_its_definition(seed: int, count: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    confidences = np.where(random.random(count) < 0.3, 1.0, random.random(count)).astype(np.float32)
    correct = random.random(count) < 0.6
    found = reliability(confidences, correct, bins)
    error = 0.0
    for b in range(bins):
        within = [i for i in range(count) if found.edges[b] < confidences[i] <= found.edges[b + 1]]
        assert (found.counts[b], found.right[b]) == (len(within), correct[within].sum())
        if within:
            assert found.confidence[b] == pytest.approx(confidences[within].mean(dtype=np.float64))
            error += len(within) / count * abs(correct[within].mean() - confidences[within].mean(dtype=np.float64))
    assert found.error == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_confidences_that_are_right_as_often_as_they_say_have_a_small_error(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidences = random.uniform(0.1, 1.0, 40_000).astype(np.float32)
    correct = random.random(40_000) < confidences
    assert reliability(confidences, correct).error < 0.01
    # Those that say a tenth too much are off by just that.
    assert reliability(confidences, random.random(40_000) < 0.9 * confidences).error == pytest.approx(0.055, abs=0.01)


def results_of(logits: np.ndarray, labels: np.ndarray | None = None) -> ExitResults:
    """What a run keeps of logits (N, K, C)."""
    logits = logits.astype(np.float32)
    classes = logits.shape[-1]
    kept = min(TOP_LOGITS, classes)
    ordered = -np.sort(-logits, -1)
    rest = logsumexp(ordered[..., kept:], -1) if kept < classes else np.full(logits.shape[:2], -np.inf)
    with_labels: dict[str, np.ndarray] = {}
    if labels is not None:
        own = np.take_along_axis(logits, labels[:, None, None], -1)[..., 0]
        with_labels = {"labels": labels.astype(np.int32), "label_logits": own}
    return ExitResults(
        confidences=softmax(logits, -1).max(-1),
        predictions=logits.argmax(-1).astype(np.int32),
        gmacs=np.arange(1.0, logits.shape[1] + 1),
        top_logits=ordered[..., :kept],
        rest=rest.astype(np.float32),
        num_classes=classes,
        about={"data": "digits", "split": "test"},
        **with_labels,
    )


def random_logits(images: int, exits: int, classes: int, seed: int = 0) -> np.ndarray:
    """Logits (N, K, C) in which one class or a few stand out, as a trained model's do."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, exits, classes))
    rows = np.arange(images)
    logits[rows, :, random.integers(0, classes, images)] += random.gamma(4.0, 1.5, (images, 1))
    logits[rows, :, random.integers(0, classes, images)] += random.gamma(2.0, 1.5, (images, 1))
    return logits


def labels_drawn(logits: np.ndarray, seed: int = 1) -> np.ndarray:
    """Labels (N,) drawn from softmax of logits (N, C)."""
    noise = np.random.default_rng(seed).gumbel(size=logits.shape)
    return np.argmax(logits + noise, -1)


def likeliest_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """By all logits (N, C)."""

    def loss(temperature: float) -> float:
        return -float(log_softmax(logits / temperature, -1)[np.arange(len(labels)), labels].mean())

    return float(minimize_scalar(loss, bounds=(0.05, 20.0), method="bounded", options={"xatol": 1e-6}).x)


@pytest.mark.parametrize("classes", [2, 10, 16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(classes: int, temperature: float) -> None:
    logits = random_logits(8000, 2, classes)
    # Exit 2 says what the labels are drawn from, times the temperature; exit 1 says something else.
    labels = labels_drawn(logits[:, 1])
    logits[:, 1] *= temperature
    results = results_of(logits, labels)
    found = fit_temperature(results, 2)
    assert found == pytest.approx(temperature, rel=0.06)  # the labels are a draw
    # Up to 16 classes all logits are kept, and nothing is lost against a fit to all.
    assert found == pytest.approx(likeliest_temperature(logits[:, 1], labels), rel=1e-3)
    assert abs(fit_temperature(results, 1) - found) > 0.1


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5, 2.0])
def test_of_a_hundred_classes_sixteen_logits_are_nearly_enough(temperature: float) -> None:
    logits = random_logits(4000, 1, 100)
    labels = labels_drawn(logits[:, 0])
    logits *= temperature
    results = results_of(logits, labels)
    assert results.top_logits.shape[-1] == 16
    found, of_all = fit_temperature(results, 1), likeliest_temperature(logits[:, 0], labels)
    assert found == pytest.approx(of_all, rel=0.05)  # the other 84 logits count as equal, and are not
    for other in (0.5, temperature, 2.0):
        ours, exact = scaled_confidences(results, 1, other), softmax(logits[:, 0] / other, -1).max(-1)
        np.testing.assert_allclose(ours, exact, atol=0.04)
        assert np.abs(ours - exact).mean() < 0.02


@pytest.mark.parametrize("classes", [2, 3, 16, 17, 100])
def test_at_a_temperature_of_one_confidences_stay_as_they_are(classes: int) -> None:
    results = results_of(random_logits(200, 3, classes))
    for k in range(3):
        np.testing.assert_allclose(scaled_confidences(results, k + 1, 1.0), results.confidences[:, k], atol=1e-6)


@given(temperature=st.floats(0.05, 20.0), classes=st.sampled_from([2, 10, 16, 40]), seed=st.integers(0, 1000))
def test_a_higher_temperature_makes_every_confidence_lower_and_none_leaves_the_unit(
    temperature: float, classes: int, seed: int
) -> None:
    results = results_of(random_logits(30, 1, classes, seed))
    here, hotter = (scaled_confidences(results, 1, value) for value in (temperature, 1.5 * temperature))
    assert np.all(hotter <= here + 1e-12)
    assert np.all(here <= 1.0)
    assert np.all(hotter >= 1 / classes - 1e-9)
    if classes <= TOP_LOGITS:
        exact = softmax(results.top_logits[:, 0].astype(np.float64) / temperature, -1).max(-1)
        np.testing.assert_allclose(here, exact, rtol=1e-9)


def test_the_fitted_temperature_makes_confidences_believable() -> None:
    logits = random_logits(8000, 1, 10)
    labels = labels_drawn(logits[:, 0])
    results = results_of(3.0 * logits, labels)  # far too sure
    before = reliability(results.confidences[:, 0], results.correct[:, 0]).error
    scaled = scaled_confidences(results, 1, fit_temperature(results, 1))
    after = reliability(scaled, results.correct[:, 0]).error
    assert before > 0.08
    assert after < 0.02


def test_a_temperature_stays_within_its_bounds() -> None:
    logits = random_logits(300, 1, 5)
    always_right = results_of(logits, logits[:, 0].argmax(-1))
    assert 0.05 <= fit_temperature(always_right, 1) < 0.06
    always_wrong = results_of(logits, logits[:, 0].argmin(-1))
    assert 19.0 < fit_temperature(always_wrong, 1) <= 20.0


def test_without_labels_no_temperature_is_fitted() -> None:
    with pytest.raises(ValueError, match="digits@test has no labels, and a temperature is fitted to them"):
        fit_temperature(results_of(random_logits(10, 2, 5)), 1)
