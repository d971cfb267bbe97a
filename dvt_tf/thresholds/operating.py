"""What thresholds do to stored results, and the thresholds that lie between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dvt_tf.exit_rule import NEVER, route

# What a mean cost may exceed a budget by and still count as within it: sums of floats are not exact.
TOLERANCE = 1e-9


class Operating(NamedTuple):
    """What thresholds do on a set of images.

    thresholds: (K - 1,) float32. accuracy: share of right answers. gmacs: mean cost, 10^9 multiply-accumulates.
    shares: (K,) share of images that leave at each exit.
    """

    thresholds: np.ndarray
    accuracy: float
    gmacs: float
    shares: np.ndarray


def operate(confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, thresholds: np.ndarray) -> Operating:
    """Applies thresholds to stored results.

    Args:
        confidences: (N, K). correct: (N, K) bool. gmacs: (K,) cumulative cost. thresholds: (K - 1,).
    """
    exits = route(confidences, thresholds) - 1
    shares = np.bincount(exits, minlength=confidences.shape[1]) / max(len(exits), 1)
    accuracy = float(correct[np.arange(len(exits)), exits].mean())
    return Operating(np.asarray(thresholds, np.float32), accuracy, float(shares @ gmacs), shares)


def check_stored(confidences: np.ndarray, correct: np.ndarray, gmacs: Sequence[float] | np.ndarray) -> None:
    """Checks what every solver relies on.

    Raises:
        ValueError: no image, shapes that do not fit, a confidence that is not between 0 and 1, costs that do not rise.
    """
    if confidences.ndim != 2 or correct.shape != confidences.shape or len(gmacs) != confidences.shape[1]:
        raise ValueError(
            "confidences and correct must be (images, exits) and gmacs (exits,), not "
            f"{confidences.shape}, {correct.shape} and {np.shape(gmacs)}"
        )
    if not len(confidences):
        raise ValueError("there is no image to choose thresholds on")
    bad = np.argwhere(~((confidences >= 0) & (confidences <= 1 + 1e-6)))
    if len(bad):
        image, k = bad[0]
        raise ValueError(
            f"confidences must be from 0 to 1: image {image} has {confidences[image, k]} at exit {k + 1} "
            f"({len(bad)} such values)"
        )
    if not np.all(np.isfinite(gmacs)) or np.any(np.diff([0.0, *gmacs]) <= 0):
        raise ValueError(f"gmacs must rise from exit to exit, not {list(map(float, gmacs))}")


class Levels(NamedTuple):
    """The distinct confidences of one exit, from the surest down: images of the same one can only leave together.

    values: (L,) float32, descending. of_image: (N,) int, the level of each image.
    """

    values: np.ndarray
    of_image: np.ndarray

    @classmethod
    def of(cls, confidences: np.ndarray) -> Levels:
        """The levels of (N,) confidences."""
        ascending, inverse = np.unique(np.asarray(confidences, np.float32), return_inverse=True)
        return cls(ascending[::-1], len(ascending) - 1 - inverse.reshape(-1))

    def threshold(self, leaving: int) -> np.float32:
        """The threshold that the first `leaving` levels meet, and no other: halfway to the next one.

        0 where all leave, and never where none does.
        """
        if leaving == 0:
            return np.float32(NEVER)
        if leaving == len(self.values):
            return np.float32(0.0)
        last, following = self.values[leaving - 1], self.values[leaving]
        middle = np.float32((float(last) + float(following)) / 2)
        return middle if middle > following else last  # neighbours among float32 numbers have no middle
