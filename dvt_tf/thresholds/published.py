"""The published rule: 59 settings from geometric exit shares (Wang et al., 2021, and its reference code)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dvt_tf.exit_rule import NEVER
from dvt_tf.thresholds.operating import TOLERANCE, operate

SETTINGS = 59


def published_settings(confidences: np.ndarray) -> list[np.ndarray]:
    """The rule's 59 settings: exit shares proportional to q, q^2, ... for q = 1/20 ... 59/20. Small q leaves early.

    Each threshold is the confidence at which that share of all images has left, taken among those that have not left
    before.

    Args:
        confidences: (N, K) at every exit, on held-out images.

    Returns:
        59 arrays (K - 1,) float32.
    """
    count, exits = confidences.shape
    settings = []
    for step in range(1, SETTINGS + 1):
        shares = (step / 20.0) ** np.arange(1, exits + 1)
        shares /= shares.sum()
        here = np.ones(count, bool)
        values = np.full(exits - 1, NEVER, np.float32)
        for k in range(exits - 1):
            wanted = int(np.floor(count * shares[k]))
            left = np.sort(confidences[here, k])[::-1]
            if wanted and len(left):
                values[k] = left[min(wanted, len(left)) - 1]
                here &= confidences[:, k] < values[k]
        settings.append(values)
    return settings


def published_thresholds(
    confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, budgets: Sequence[float]
) -> list[np.ndarray]:
    """The most accurate of the 59 settings within each budget, of equals the cheapest.

    A budget below the cheapest of them is met by leaving at the first exit, always.

    Args, returns: as `exact_thresholds`, for any number of exits.
    """
    settings = [np.zeros(confidences.shape[1] - 1, np.float32), *published_settings(confidences)]
    points = [operate(confidences, correct, gmacs, values) for values in settings]
    chosen = []
    for budget in budgets:
        within = [point for point in points if point.gmacs <= budget * (1 + TOLERANCE)]
        chosen.append(max(within, key=lambda point: (point.accuracy, -point.gmacs)).thresholds)
    return chosen
