"""The rule by which an image leaves the cascade, outside the graph: what a valid threshold is, and who leaves where.

An image leaves at the first exit whose confidence (largest softmax probability) is at least that exit's threshold; the
last exit takes whatever is left (Wang et al., 2021, section 3.1). Float32 softmax does reach exactly 1, so a threshold
of 1 can be met and only one above it means never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NEVER = 2.0


def check_thresholds(values: Any, num_exits: int, name: str = "thresholds") -> np.ndarray:
    """Thresholds as float32, with everything above 1 stored as `NEVER`.

    Args:
        values: (num_exits - 1,) for all images, or (B, num_exits - 1), one row per image.

    Raises:
        ValueError: a wrong count, a negative value, NaN or infinity.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, not {values!r}") from error
    if array.ndim not in (1, 2) or array.shape[-1] != num_exits - 1:
        raise ValueError(
            f"{name} must be ({num_exits - 1},) or (batch, {num_exits - 1}) for {num_exits} exits, not {array.shape}"
        )
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(f"{name} must be finite and at least 0 (above 1 means never), not {array.tolist()}")
    return np.where(array > 1.0, NEVER, array).astype(np.float32)


def parse_threshold(text: str) -> float:
    """A threshold as a person writes it: a number from 0 to 1, or the word never.

    Raises:
        ValueError: anything else.
    """
    if text.strip().lower() == "never":
        return NEVER
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"threshold {text!r} must be a number from 0 to 1, or the word never")
    return value


def route(confidences: Any, thresholds: Any) -> np.ndarray:
    """Where each image leaves, from the confidences of all exits.

    Args:
        confidences: (N, K) at every exit.
        thresholds: (K - 1,), or (N, K - 1) one row per image.

    Returns:
        (N,) int32, 1-based exits.
    """
    confidences = np.asarray(confidences, np.float32)
    if confidences.ndim != 2:
        raise ValueError(f"confidences must be (images, exits), not {confidences.shape}")
    thresholds = check_thresholds(thresholds, confidences.shape[1])
    leaves = confidences[:, :-1] >= thresholds  # (N, K - 1)
    last = np.ones((len(confidences), 1), bool)
    return np.argmax(np.concatenate([leaves, last], 1), 1).astype(np.int32) + 1


def format_threshold(value: float) -> str:
    """A threshold as a person reads it."""
    if value > 1.0:
        return "never"
    # As short as it can be without becoming 1, which is another threshold.
    texts = (f"{value:.{digits}g}" for digits in (3, 5, 8))
    return next((text for text in texts if value == 1.0 or float(text) < 1.0), f"{value:.17g}")


def format_thresholds(values: Sequence[float]) -> str:
    """Thresholds as a person reads them, in exit order."""
    return ", ".join(format_threshold(value) for value in values)
