"""What happens when a visitor does something: plain functions from values to values, without a page around them.

The model runs in `analyse` alone, once for each image. What it said is kept as plain lists, and everything that follows
a move of the slider is made from those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app import budgets, choices, looking, routing, views
from app.examples import Example, digit_examples
from app.inference import Predictor, UnloadableError, drawn_bytes, uploaded_bytes
from app.test_set import TestSets
from dvt_tf.image_files import ImageError, to_graph_bytes

# What the visitor gave last: ("file", path), ("drawing", data URL), ("example", index) or ("test", (model, index)).
Source = tuple[str, Any]


class Outcome(NamedTuple):
    """The HTML of the answer, of the path through the exits, and of the token grid over the image."""

    answer: str
    path: str
    grid: str


class Shown(NamedTuple):
    """All that depends on thresholds: themselves, where the sliders stand for them, both readings, and the outcome.

    thresholds: K-1. position: of the slider for all exits. each: of the sliders for one exit each, as many as the model
    with most exits has. reading, budget_reading, answer, path, grid: HTML.
    """

    thresholds: list[float]
    position: float
    each: list[float]
    reading: str
    budget_reading: str
    answer: str
    path: str
    grid: str


class Handlers:
    """The handlers of a page for these models, by name; the first is the one that the page opens with."""

    def __init__(self, predictors: Sequence[Predictor], sets: TestSets | None = None) -> None:
        self.predictors: Mapping[str, Predictor] = {predictor.name: predictor for predictor in predictors}
        self.first, self.sets = predictors[0], sets or TestSets(predictors)
        self.most_exits = max(predictor.num_exits for predictor in predictors)

    def examples(self) -> tuple[Example, ...]:
        """What can be clicked: the digit scenes, where a model knows digits."""
        return digit_examples() if any(p.knows_digits for p in self.predictors.values()) else ()

    def opening_source(self, model: str) -> Source | None:
        """What a fresh page shows: the first example, where the model knows digits."""
        return ("example", 0) if self.predictors[model].knows_digits else None

    def kept_source(self, source: Source | None, model: str) -> Source | None:
        """What a newly chosen model looks at: what the visitor gave last, or what a fresh page shows."""
        return source or self.opening_source(model)

    def analyse(self, source: Source | None, model: str) -> tuple[dict[str, Any] | None, str]:
        """Runs the model on what the visitor gave: what it said, for `outcome`, and the HTML of the pixels it saw."""
        if source is None:
            return None, ""
        predictor = self.predictors[model]
        try:
            predictor.load()
        except UnloadableError as error:
            return {"error": f"{error}."}, ""
        try:
            image = self._bytes_of(source)
        except (ValueError, FileNotFoundError) as error:  # ImageError is one; a test set may have gone since
            return {"error": str(error)}, ""
        try:
            analysis = predictor.analyse(image)
        except ImageError as error:
            return {"error": str(error)}, ""
        said = {"model": model, "probabilities": analysis.probabilities, "milliseconds": analysis.milliseconds}
        return said, views.pixels_html(analysis.pixels)

    def outcome(self, analysis: dict[str, Any] | None, thresholds: Sequence[float]) -> Outcome:
        """What the cascade does with the image at these thresholds."""
        if analysis is None:
            return Outcome(views.invitation_html(), "", "")
        if "error" in analysis:
            return Outcome(views.message_html(analysis["error"]), "", "")
        predictor = self.predictors[analysis["model"]]
        probabilities, config = analysis["probabilities"], predictor.config
        decision = routing.decide(probabilities, thresholds, predictor.gmacs)
        return Outcome(
            views.answer_html(decision, predictor.class_names, config.token_grids, analysis["milliseconds"]),
            views.path_html(probabilities, decision, predictor.class_names, config, predictor.gmacs),
            views.grid_html(config, decision.exit),
        )

    def look(self, source: Source | None, model: str) -> str:
        """Runs the model once more for the HTML of where each exit looked, and what the next one reused."""
        if source is None:
            return views.invitation_html()
        predictor = self.predictors[model]
        try:
            return looking.panel_html(looking.look(predictor, self._bytes_of(source)), predictor)
        except (ValueError, FileNotFoundError) as error:  # of the image, of the test set, or of the model
            return views.message_html(str(error))

    def move(self, position: float, model: str, analysis: dict[str, Any] | None) -> Shown:
        """The confidence slider was moved: one threshold for all exits."""
        model = shown_model(analysis, model)
        return self._set_here(routing.thresholds_at(position, self.predictors[model].num_exits), model, analysis)

    def move_each(
        self, positions: Sequence[float], thresholds: Sequence[float], model: str, analysis: dict[str, Any] | None
    ) -> Shown:
        """One of the sliders for one exit each was moved; the others stand for the thresholds as they were.

        Those past the model's exits stand for nothing.
        """
        model = shown_model(analysis, model)
        # A slider's steps are coarser than a card's thresholds: only the one that was moved counts.
        moved = [
            before if routing.position_of([before]) == position else routing.threshold_at(position)
            for before, position in zip(thresholds, positions, strict=False)
        ]
        return self._set_here(moved, model, analysis)

    def set_to(self, thresholds: Sequence[float], model: str, analysis: dict[str, Any] | None) -> Shown:
        """Thresholds were chosen elsewhere on the page."""
        return self._set_here(list(thresholds), shown_model(analysis, model), analysis)

    def spend(self, budget: float, model: str, analysis: dict[str, Any] | None) -> Shown:
        """The budget slider was moved."""
        model = shown_model(analysis, model)
        predictor = self.predictors[model]
        if not predictor.knows_budgets:  # the slider is that of a model which is just being left
            return self.own_thresholds(model, analysis)
        choice = budgets.choose(predictor.card, predictor.gmacs, budget)
        reading = views.reading_html(choice.thresholds, "for the budget below")
        return self._shown(choice.thresholds, reading, views.budget_reading_html(choice), analysis)

    def own_thresholds(self, model: str, analysis: dict[str, Any] | None) -> Shown:
        """Back to the thresholds of the model's card."""
        model = shown_model(analysis, model)
        return self._set_here(self.predictors[model].thresholds, model, analysis)

    def _set_here(self, thresholds: Sequence[float], model: str, analysis: dict[str, Any] | None) -> Shown:
        """Thresholds that no budget chose."""
        is_own = routing.same(thresholds, self.predictors[model].thresholds)
        reading = views.reading_html(thresholds, "the model's own" if is_own else "set here")
        return self._shown(thresholds, reading, views.no_budget_html(), analysis)

    def _shown(
        self, thresholds: Sequence[float], reading: str, budget_reading: str, analysis: dict[str, Any] | None
    ) -> Shown:
        thresholds = list(thresholds)
        each = [routing.position_of([value]) for value in thresholds]
        each += [routing.SLIDER_END] * (self.most_exits - 1 - len(each))
        outcome = self.outcome(analysis, thresholds)
        return Shown(thresholds, routing.position_of(thresholds), each, reading, budget_reading, *outcome)

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
        return views.budget_source_html(predictor.card, predictor.gmacs, bool(_stale_note(predictor)))

    def describe(self, model: str) -> str:
        """The HTML of the lines about the model, with a warning where its thresholds are of other weights."""
        predictor = self.predictors[model]
        line = views.model_line(predictor.card, predictor.config, predictor.parameters, predictor.name)
        line += views.thresholds_line(predictor.card["thresholds"]) + views.warning_html(_stale_note(predictor))
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
        choice = choices.chosen_thresholds(self, threshold, model, budget)
        if not image:
            raise ValueError("no image was given")
        predictor, thresholds = choice.predictor, choice.thresholds
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
            "note": choice.note,
        }

    def _bytes_of(self, source: Source) -> bytes:
        kind, value = source
        if kind == "file":
            return uploaded_bytes(value)
        if kind == "drawing":
            return drawn_bytes(value)
        if kind == "test":
            name, index = value
            return to_graph_bytes(self.sets.image_bytes(name, index), f"test image {index}")
        return self.examples()[value].png


def _stale_note(predictor: Predictor) -> str:
    try:
        return predictor.stale_note
    except UnloadableError:  # which is told in place of the answer
        return ""


def shown_model(analysis: dict[str, Any] | None, chosen: str) -> str:
    """The model whose answer stands on the page: the one before, while a newly chosen one still works on its own."""
    return str(analysis["model"]) if analysis and "model" in analysis else chosen
