"""What happens when a visitor does something: plain functions from values to values, without a page around them.

The model runs in `analyse` alone, once for each image. What it said is kept as plain lists, and everything that follows
a move of the slider is made from those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app import budgets, routing, views
from app.examples import Example, digit_examples
from app.inference import Predictor, drawn_bytes, uploaded_bytes
from dvt_tf.calibration import thresholds_for_budget
from dvt_tf.exit_rule import NEVER
from dvt_tf.image_files import ImageError

Source = tuple[str, Any]  # ("file", path), ("drawing", data URL) or ("example", index): what the visitor gave last


class Handlers:
    """The handlers of a page for these models, by name; the first is the one that the page opens with."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self.predictors: Mapping[str, Predictor] = {predictor.name: predictor for predictor in predictors}
        self.first = predictors[0]

    def examples(self) -> tuple[Example, ...]:
        """What can be clicked: the digit scenes, where a model knows digits."""
        return digit_examples() if any(p.knows_digits for p in self.predictors.values()) else ()

    def opening_source(self, model: str) -> Source | None:
        """What a fresh page shows: the first example, where the model knows digits."""
        return ("example", 0) if self.predictors[model].knows_digits else None

    def analyse(self, source: Source | None, model: str) -> tuple[dict[str, Any] | None, str]:
        """Runs the model on what the visitor gave: what it said, for `outcome`, and the HTML of the pixels it saw."""
        if source is None:
            return None, ""
        try:
            analysis = self.predictors[model].analyse(self._bytes_of(source))
        except ImageError as error:
            return {"error": str(error)}, ""
        return {"model": model, "probabilities": analysis.probabilities}, views.pixels_html(analysis.pixels)

    def outcome(self, analysis: dict[str, Any] | None, thresholds: Sequence[float]) -> tuple[str, str, str]:
        """The HTML of the answer, the path and the token grid, at these thresholds."""
        if analysis is None:
            return views.invitation_html(), "", ""
        if "error" in analysis:
            return views.message_html(analysis["error"]), "", ""
        predictor = self.predictors[analysis["model"]]
        probabilities, grids = analysis["probabilities"], predictor.config.token_grids
        decision = routing.decide(probabilities, thresholds, predictor.gmacs)
        return (
            views.answer_html(decision, predictor.class_names, grids),
            views.path_html(probabilities, decision, predictor.class_names, grids, predictor.gmacs),
            views.grid_html(predictor.config, decision.exit),
        )

    def move(
        self, position: float, model: str, analysis: dict[str, Any] | None
    ) -> tuple[list[float], str, str, str, str, str]:
        """The confidence slider was moved: thresholds, both readings, and the outcome."""
        model = shown_model(analysis, model)
        thresholds = routing.thresholds_at(position, self.predictors[model].num_exits)
        return thresholds, *self.readings(thresholds, model), *self.outcome(analysis, thresholds)

    def spend(
        self, budget: float, model: str, analysis: dict[str, Any] | None
    ) -> tuple[list[float], float, str, str, str, str, str]:
        """The budget slider was moved: thresholds, confidence slider, both readings, and the outcome."""
        model = shown_model(analysis, model)
        predictor = self.predictors[model]
        if not predictor.knows_budgets:  # the slider is that of a model which is just being left
            return self.own_thresholds(model, analysis)
        choice = budgets.choose(predictor.card, predictor.gmacs, budget)
        return (
            choice.thresholds,
            routing.position_of(choice.thresholds),
            views.reading_html(choice.thresholds, "for the budget below"),
            views.budget_reading_html(choice),
            *self.outcome(analysis, choice.thresholds),
        )

    def own_thresholds(
        self, model: str, analysis: dict[str, Any] | None
    ) -> tuple[list[float], float, str, str, str, str, str]:
        """Back to the thresholds of the model's card: thresholds, confidence slider, both readings, and the outcome."""
        model = shown_model(analysis, model)
        thresholds = list(self.predictors[model].thresholds)
        position = routing.position_of(thresholds)
        return thresholds, position, *self.readings(thresholds, model), *self.outcome(analysis, thresholds)

    def readings(self, thresholds: Sequence[float], model: str) -> tuple[str, str]:
        """The HTML of the readings of both sliders, for thresholds that no budget chose."""
        is_own = routing.same(thresholds, self.predictors[model].thresholds)
        return views.reading_html(thresholds, "the model's own" if is_own else "set here"), views.no_budget_html()

    def budget_slider(self, model: str) -> dict[str, Any] | None:
        """The properties of a model's budget slider, as it stands before it is moved; None if it shall have none."""
        predictor = self.predictors[model]
        if not predictor.knows_budgets:
            return None
        least, greatest, step = budgets.slider_range(predictor.gmacs)
        return {"minimum": least, "maximum": greatest, "step": step, "value": greatest}

    def describe_budgets(self, model: str) -> str:
        """The HTML below a model's budget slider: what its ends are, and where its thresholds come from."""
        predictor = self.predictors[model]
        if not predictor.knows_budgets:
            return ""
        return views.budget_source_html(predictor.card, predictor.gmacs, bool(predictor.stale_note))

    def describe(self, model: str) -> str:
        """The HTML of the lines about the model, with a warning where its thresholds are of other weights."""
        predictor = self.predictors[model]
        line = views.model_line(predictor.card, predictor.config, predictor.parameters, predictor.name)
        line += views.thresholds_line(predictor.card["thresholds"]) + views.warning_html(predictor.stale_note)
        return line if predictor.knows_digits else f'<div class="dvt-no-drawing">{line}</div>'

    def predict(
        self, image: str, threshold: float | None = None, model: str | None = None, budget: float | None = None
    ) -> dict[str, Any]:
        """One image through the cascade, for programs; keeps nothing between calls.

        Args:
            image: the image file.
            threshold: confidence needed to stop early, at least 0, the same for every exit; above 1 is never. Without
                it and a budget, the model's own thresholds.
            model: the name of one of the page's models; without it, the first.
            budget: in place of a threshold, GFLOPs that an image may cost on average: the best thresholds within it
                that the model's card knows.

        Returns:
            `label`, `confidence`, `exit` (1-based), `exits` (K), `gmacs` and `full_gmacs` (10^9 multiply-accumulates),
            `thresholds` (K-1), `probabilities` (K rows, one for each exit, in the order of `class_names`),
            `class_names`, `model`, `budget` (as given), `note` (what there is to say of the budget, or "").

        Raises:
            ValueError: no image, a damaged one, a threshold below 0, an unknown model, a threshold and a budget, a
                budget that is not above 0, or one for a model whose card knows none.
        """
        predictor = self.first if not model else self.predictors.get(model)
        if predictor is None:
            raise ValueError(f"unknown model {model!r}; this page has {', '.join(self.predictors)}")
        if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
            raise ValueError(f"threshold {threshold!r}: must be a number from 0 to 1, or above 1 for never early")
        if threshold is not None and budget is not None:
            raise ValueError("give either threshold or budget: a budget chooses the thresholds")
        if not image:
            raise ValueError("no image was given")
        thresholds, note = list(predictor.thresholds), ""
        if budget is not None:
            thresholds, note = thresholds_for_budget(predictor.card, np.asarray(predictor.gmacs), budget)
        elif threshold is not None:
            thresholds = [NEVER if threshold > 1 else float(threshold)] * (predictor.num_exits - 1)
        probabilities = predictor.analyse(uploaded_bytes(image)).probabilities
        decision = routing.decide(probabilities, thresholds, predictor.gmacs)
        return {
            "label": predictor.class_names[decision.label],
            "confidence": decision.confidence,
            "exit": decision.exit,
            "exits": predictor.num_exits,
            "gmacs": decision.gmacs,
            "full_gmacs": decision.full_gmacs,
            "thresholds": thresholds,
            "probabilities": probabilities,
            "class_names": predictor.class_names,
            "model": predictor.name,
            "budget": budget,
            "note": note,
        }

    def _bytes_of(self, source: Source) -> bytes:
        kind, value = source
        if kind == "file":
            return uploaded_bytes(value)
        if kind == "drawing":
            return drawn_bytes(value)
        return self.examples()[value].png


def shown_model(analysis: dict[str, Any] | None, chosen: str) -> str:
    """The model whose answer stands on the page: the one before, while a newly chosen one still works on its own."""
    return str(analysis["model"]) if analysis and "model" in analysis else chosen
