"""Thresholds with a statistical promise: Learn-then-Test by a fixed sequence (Angelopoulos et al., arXiv 2110.01052).

What leaving early does to answers is a loss of 0 or 1 for every image (Jazbec et al., 2024, arXiv 2405.20915), and the
promise is about its mean, the risk: with the stated confidence over the draw of the images, the risk of the thresholds
is at most the stated level. Two risks are known:

- `disagreement`: the answer differs from the full cascade's. It needs no labels.
- `accuracy_drop`: the full cascade is right and the answer is wrong. It bounds the drop in accuracy from above, since
  images that only leaving early gets right are not set off against it.

A path from the safest thresholds to the cheapest is fixed on images of its own. On other images, one after another, the
hypothesis that a setting's risk exceeds the level is tested by its exact binomial p-value; the first that is not
rejected ends the walk, and the last rejected one is certified. No monotone risk is assumed, and no correction for many
tests is needed, as the order was fixed beforehand. The full cascade, whose risk is 0 by definition, needs no test.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dvt_tf.exit_rule import NEVER, route
from dvt_tf.thresholds.choice import choose
from dvt_tf.thresholds.operating import operate

RISKS = ("disagreement", "accuracy_drop")
_PATH = 64  # budgets at which the path is cut
_SAFER = (0.1, 0.25, 0.5, 0.75)  # shares of what leaves at the path's safest point, for safer points still


class Certificate(NamedTuple):
    """What was certified.

    thresholds: (K - 1,) float32; all never where nothing cheaper than the full cascade could be certified. images: how
    many it was tested on. losses: how many of them counted against it. passed, path: how many settings passed of how
    many there were.
    """

    thresholds: np.ndarray
    images: int
    losses: int
    passed: int
    path: int


def losses_of(predictions: np.ndarray, risk: str, labels: np.ndarray | None = None) -> np.ndarray:
    """The loss of leaving at each exit, for every image: (N, K) bool, False at the last exit.

    Args:
        predictions: (N, K). risk: one of `RISKS`. labels: (N,), for accuracy_drop alone.

    Raises:
        ValueError: an unknown risk, or no labels where they are needed.
    """
    if risk == "disagreement":
        return predictions != predictions[:, -1:]
    if risk != "accuracy_drop":
        raise ValueError(f"unknown risk {risk!r}; it can be {', '.join(RISKS)}")
    if labels is None:
        raise ValueError(
            "a promise about the accuracy drop needs labels, and these images have none; disagreement needs none"
        )
    right = predictions == labels[:, None]
    return right[:, -1:] & ~right


def least_images(level: float, confidence: float) -> int:
    """How many images certify a level where not one of them counts against it: fewer can never.

    Raises:
        ValueError: a level or a confidence that is not between 0 and 1.
    """
    check_share(level, "the level")
    check_share(confidence, "the confidence")
    return math.ceil(math.log1p(-confidence) / math.log1p(-level) - 1e-9)


def check_share(value: float, name: str) -> None:
    """Checks that a value is a share between 0 and 1, neither of them.

    Raises:
        ValueError: it is not; the message begins with `name`.
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value:g}; it must be a share between 0 and 1 (0.01 is one point of a hundred)")


def safest_first(confidences: np.ndarray, losses: np.ndarray, gmacs: np.ndarray) -> list[np.ndarray]:
    """The path to test along: from settings that cost much and lose little to those that cost little and lose much.

    For falling budgets it takes the thresholds that lose the fewest images (`choose`), after some that let only a part
    of those leave that leave at the first of these. The full cascade, which needs no test, is not on it.

    Args:
        confidences: (N, K). losses: (N, K) bool. gmacs: (K,). All of images that are not tested on later.
    """
    gmacs = np.asarray(gmacs, np.float64)
    budgets = np.linspace(gmacs[-1], gmacs[0], _PATH)
    frontier = [point for point in choose(confidences, ~losses, gmacs, budgets) if np.any(point.thresholds <= 1.0)]
    if not frontier:
        return []
    safest = frontier[0]
    parts = [operate(confidences, ~losses, gmacs, _part(confidences, safest.thresholds, share)) for share in _SAFER]
    # An image kept from leaving at one exit may leave at a worse one.
    parts = [part for part in parts if part.accuracy >= safest.accuracy and np.any(part.thresholds <= 1.0)]
    path: list[np.ndarray] = []
    for setting in [*parts, *frontier]:
        if not any(np.array_equal(setting.thresholds, other) for other in path):
            path.append(setting.thresholds)
    return path


def _part(confidences: np.ndarray, thresholds: np.ndarray, share: float) -> np.ndarray:
    """Thresholds at which, of the images that leave at each exit, only the surest share leaves there."""
    exits = route(confidences, thresholds) - 1
    safer = thresholds.copy()
    for k in range(len(thresholds)):
        sure = np.sort(confidences[exits == k, k])[::-1]
        kept = int(len(sure) * share)
        safer[k] = sure[kept - 1] if kept else NEVER
    return safer.astype(np.float32)


def certify(
    path: list[np.ndarray], confidences: np.ndarray, losses: np.ndarray, level: float, confidence: float
) -> Certificate:
    """Walks along a path until a setting fails its test, and returns the last that passed.

    Args:
        path: thresholds (K - 1,), in an order that these images had no part in. confidences: (N, K). losses: (N, K)
            bool, of images drawn independently. level: the risk that is promised. confidence: of the promise.

    Raises:
        ValueError: too few images to certify this level at all; the message says how many would do.
    """
    count, exits = confidences.shape
    least = least_images(level, confidence)
    if count < least:
        raise ValueError(
            f"{count:,} independent images are too few to promise {level:g} with {confidence:g} confidence: "
            f"it takes {least:,}, even if not one of them counts against it"
        )
    full = np.full(exits - 1, NEVER, np.float32)
    last = Certificate(full, count, 0, 0, len(path))
    for passed, thresholds in enumerate(path, 1):
        where = route(confidences, thresholds) - 1
        lost = int(losses[np.arange(count), where].sum())
        if p_value(lost, count, level) > (1.0 - confidence) * (1 + 1e-12):  # equal but for rounding is enough
            break
        last = Certificate(np.asarray(thresholds, np.float32), count, lost, passed, len(path))
    return last


def p_value(lost: int, count: int, level: float) -> float:
    """How likely so few losses or fewer would be, if the risk were the level: exact binomial."""
    from scipy.stats import binom  # half a second, and most who import this module only look thresholds up

    return float(binom.cdf(lost, count, level))
