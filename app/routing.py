"""From the slider to the exit that answers: pure NumPy, so that moving the slider never runs the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dvt_tf.exit_rule import NEVER, route

SLIDER_STEP = 0.01
SLIDER_END = 1.01  # one step past 1: the reading "never early"


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the cascade does with one image.

    exit: 1-based. label: index of the class it answers. confidences: largest probability at each of the K exits.
    thresholds: K-1, above 1 where that exit never answers early. gmacs, full_gmacs: spent, and of the whole cascade.
    """

    exit: int
    label: int
    confidences: tuple[float, ...]
    thresholds: tuple[float, ...]
    gmacs: float
    full_gmacs: float

    @property
    def confidence(self) -> float:
        """Of the exit that answers."""
        return self.confidences[self.exit - 1]

    @property
    def share(self) -> float:
        """What was spent, as a share of the full cascade, 0 to 1."""
        return self.gmacs / self.full_gmacs


def decide(probabilities: Sequence[Sequence[float]], thresholds: Sequence[float], gmacs: Sequence[float]) -> Decision:
    """Routes one image.

    Args:
        probabilities: (K, C), of every exit.
        thresholds: (K-1,).
        gmacs: (K,) cumulative cost.
    """
    table = np.asarray(probabilities, np.float32)
    confidences = table.max(axis=-1)
    leaves_at = int(route(confidences[None], thresholds)[0])
    return Decision(
        exit=leaves_at,
        label=int(table[leaves_at - 1].argmax()),
        confidences=tuple(float(value) for value in confidences),
        thresholds=tuple(float(value) for value in thresholds),
        gmacs=float(gmacs[leaves_at - 1]),
        full_gmacs=float(gmacs[-1]),
    )


def thresholds_at(position: float, num_exits: int) -> list[float]:
    """The slider's position as K-1 thresholds, one for all exits; past 1 is never."""
    return [threshold_at(position)] * (num_exits - 1)


def threshold_at(position: float) -> float:
    """A slider's position as one threshold."""
    # Rounded to the slider's own steps: 0.7 arrives from a browser as 0.7000000000000001.
    return NEVER if position > 1 else round(float(position), 4)


def position_of(thresholds: Sequence[float]) -> float:
    """Where the slider stands for these thresholds: at the first of them, which is all of them in most cards."""
    if not thresholds or thresholds[0] > 1:
        return SLIDER_END
    return round(float(thresholds[0]), 2)


def threshold_text(threshold: float) -> str:
    """`0.70`, or `never early`."""
    return "never early" if threshold > 1 else f"{threshold:.2f}"


def thresholds_text(thresholds: Sequence[float]) -> str:
    """What the reading beside the slider says: one threshold where all are the same, else one for each exit."""
    texts = [threshold_text(value) for value in thresholds]
    return texts[0] if len(set(texts)) == 1 else ", then ".join(texts)


def same(thresholds: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two lists of thresholds are the same, as far as a float32 can tell."""
    return np.array_equal(np.asarray(thresholds, np.float32), np.asarray(others, np.float32))
