"""How far confidences can be believed: histogram, reliability and ECE of an exit, and its temperature.

The expected calibration error is the mean distance of accuracy from confidence, over bins of equal width weighted by
their images; a temperature divides the logits, and is fitted to the likelihood of the labels (Guo et al., 2017, arXiv
1706.04599).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from dvt_tf.results import ExitResults

BINS = 15
_COOLEST, _HOTTEST = 0.05, 20.0


class Reliability(NamedTuple):
    """Confidence against accuracy of one exit, in bins of equal width.

    edges: (B + 1,). counts: (B,) images. right: (B,) of them right. confidence: (B,) mean; 0 in an empty bin.
    error: the expected calibration error, a share.
    """

    edges: np.ndarray
    counts: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    error: float


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability of (N,) confidences, given which answers were right, (N,) bool."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.ceil(np.asarray(confidences, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    right = np.bincount(place, weights=correct, minlength=bins)
    total = np.bincount(place, weights=confidences, minlength=bins)
    error = float(np.abs(right - total).sum() / len(confidences))
    return Reliability(edges, counts, right.astype(int), total / np.maximum(counts, 1), error)


def fit_temperature(results: ExitResults, exit_number: int) -> float:
    """The temperature, from 0.05 to 20, at which an exit (1-based) finds the labels of these images likeliest.

    Raises:
        ValueError: the images have no labels.
    """
    if results.label_logits is None:
        raise ValueError(f"{results.where} has no labels, and a temperature is fitted to them")
    own = results.label_logits[:, exit_number - 1].astype(np.float64)

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float(np.mean(_log_sum(results, exit_number, temperature) - own / temperature))

    from scipy.optimize import minimize_scalar  # slow to import, and seldom needed

    found = minimize_scalar(loss, bounds=(np.log(_COOLEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def scaled_confidences(results: ExitResults, exit_number: int, temperature: float) -> np.ndarray:
    """(N,) confidences of an exit (1-based) with its logits divided by a temperature.

    Exact up to 16 classes, and at a temperature of 1; elsewhere the logits that were not kept count as equal.
    """
    largest = results.top_logits[:, exit_number - 1, 0].astype(np.float64)
    return np.exp(largest / temperature - _log_sum(results, exit_number, temperature))


def _log_sum(results: ExitResults, exit_number: int, temperature: float) -> np.ndarray:
    """(N,) log-sum-exp of all logits, divided by a temperature."""
    top = results.top_logits[:, exit_number - 1].astype(np.float64)  # (N, M)
    kept = logsumexp(top / temperature, axis=-1)
    others = results.num_classes - top.shape[-1]
    if not others:
        return kept
    each = results.rest[:, exit_number - 1].astype(np.float64) - np.log(others)
    return np.logaddexp(kept, each / temperature + np.log(others))
