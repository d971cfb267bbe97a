"""What a caller of the page's endpoints asks for, checked: which model, and the thresholds that it runs with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from app.inference import Predictor
from dvt_tf.calibration import thresholds_for_budget
from dvt_tf.exit_rule import NEVER

if TYPE_CHECKING:
    from app.handlers import Handlers


@dataclasses.dataclass(frozen=True)
class Choice:
    """predictor: the model. thresholds: K-1. note: what there is to say of the budget, or ""."""

    predictor: Predictor
    thresholds: list[float]
    note: str


def is_number(value: Any) -> bool:
    """Whether it is a number of at least 0, finite; JSON's true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def chosen_model(handlers: Handlers, model: str | None) -> Predictor:
    """The model of that name; without one, the page's first.

    Raises:
        ValueError: the page has no such model.
    """
    predictor = handlers.predictors.get(model) if model else handlers.first
    if predictor is None:
        raise ValueError(f"unknown model {model!r}; this page has {', '.join(handlers.predictors)}")
    return predictor


def chosen_thresholds(handlers: Handlers, threshold: float | None, model: str | None, budget: float | None) -> Choice:
    """The model, and its thresholds: one for every exit, or those within a budget, or the model's own.

    Raises:
        ValueError: an unknown model, a threshold that is no number or below 0, a threshold and a budget, a budget that
            is no number or not above 0, or one for a model whose card knows none.
    """
    predictor = chosen_model(handlers, model)
    if threshold is not None and not is_number(threshold):
        raise ValueError(f"threshold {threshold!r}: must be a number from 0 to 1, or above 1 for never early")
    if threshold is not None and budget is not None:
        raise ValueError("give either threshold or budget: a budget chooses the thresholds")
    if budget is not None:
        if not isinstance(budget, int | float):
            raise ValueError(f"budget {budget!r}: must be a number of GFLOPs above 0")
        values, note = thresholds_for_budget(predictor.card, np.asarray(predictor.gmacs), budget)
        return Choice(predictor, [float(value) for value in values], note)
    if threshold is not None:
        return Choice(predictor, [NEVER if threshold > 1 else float(threshold)] * (predictor.num_exits - 1), "")
    return Choice(predictor, list(predictor.thresholds), "")
