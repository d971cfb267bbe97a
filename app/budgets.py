"""From a mean cost to thresholds, by what a model's card keeps of budgets: moving that slider never runs the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dvt_tf.calibration import budget_points, thresholds_for_budget

LEAST_STEPS = 100  # of the slider, from one end to the other


@dataclasses.dataclass(frozen=True)
class BudgetChoice:
    """The thresholds for a budget, and what the card expects of them.

    gmacs: what an image may cost on average, 10^9 multiply-accumulates. share: of the full cascade's cost, 0 to 1.
    thresholds: K-1. expected: a share of images, 0 to 1, None where the card knows of none. measure: what that share
    is, `top1` or `agreement` (answers that are the full cascade's). note: what else there is to say, "" for nothing.
    """

    gmacs: float
    share: float
    thresholds: list[float]
    expected: float | None
    measure: str
    note: str


def choose(card: Mapping[str, Any], gmacs: Sequence[float], wanted: float) -> BudgetChoice:
    """The best thresholds that the card knows within a budget; one outside what the cascade can cost is brought inside.

    Args:
        card: of a model of several exits, one that `knows_budgets`.
        gmacs: (K,) cumulative cost.
        wanted: mean cost, 10^9 multiply-accumulates.
    """
    budget = min(max(float(wanted), gmacs[0]), gmacs[-1])  # the slider's round steps begin and end just outside
    thresholds, note = thresholds_for_budget(card, np.asarray(gmacs), budget)
    known = [reached for cost, reached, values in budget_points(card) if values == thresholds and not note]
    return BudgetChoice(
        gmacs=budget,
        share=budget / gmacs[-1],
        thresholds=[float(value) for value in thresholds],
        expected=max(known, default=None),
        measure=card["budgets"]["measure"] if "budgets" in card else "top1",
        note=note,
    )


def knows_budgets(card: Mapping[str, Any], gmacs: Sequence[float]) -> bool:
    """Whether there is anything to choose: thresholds for budgets in the card, and more than one exit."""
    return len(gmacs) > 1 and bool(budget_points(card))


def slider_range(gmacs: Sequence[float]) -> tuple[float, float, float]:
    """Least, greatest and step of a slider over a cascade's mean costs, all round numbers of GFLOPs.

    Round, because a browser counts steps from the least value: of uneven ones it might never reach the greatest.
    """
    first, full = gmacs[0], gmacs[-1]
    finest = (full - first) / LEAST_STEPS
    power = math.floor(math.log10(finest))
    step = max(n * 10.0**power for n in (1, 2, 5) if n * 10.0**power <= finest * (1 + 1e-9))
    places = max(-power, 0)
    return (
        round(math.floor(first / step) * step, places),
        round(math.ceil(full / step) * step, places),
        round(step, places),
    )
