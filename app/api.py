"""The page's endpoints for programs: one image, stored probabilities, many images; nothing is kept between calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from app import batch, routing
from app.choices import chosen_model, chosen_thresholds, is_number
from app.file_lists import Upload, keep_files
from app.handlers import Handlers
from app.inference import Predictor
from app.queues import BATCHES, ONE_AT_A_TIME
from app.uploads import original_image
from dvt_tf.exit_rule import NEVER

MOST_FILES = 64  # a call


def add_api(handlers: Handlers) -> None:
    """Adds the endpoints to the page that is being laid out; their components are never shown."""
    with gr.Row(visible=False):
        _add_predict(handlers)
        _add_route(handlers)
        _add_predict_batch(handlers)


def _add_predict(handlers: Handlers) -> None:
    def predict(
        image: str, threshold: float | None = None, model: str | None = None, budget: float | None = None
    ) -> dict[str, Any]:
        with _told():
            return handlers.predict(image, threshold, model, budget)

    gr.Button("Predict").click(
        predict,
        [
            original_image(label="image"),
            gr.Number(None, label="threshold"),
            gr.Textbox(None, label="model"),
            gr.Number(None, label="budget"),
        ],
        gr.JSON(label="answer"),
        api_name="predict",
        api_description=Handlers.predict.__doc__,
        **ONE_AT_A_TIME,
    )


def _add_route(handlers: Handlers) -> None:
    def route_(probabilities: Any, thresholds: Any, model: str | None = None) -> dict[str, Any]:
        with _told():
            return route(handlers, probabilities, thresholds, model)

    gr.Button("Route").click(
        route_,
        [gr.JSON(label="probabilities"), gr.JSON(label="thresholds"), gr.Textbox(None, label="model")],
        gr.JSON(label="answer"),
        api_name="route",
        api_description=route.__doc__,
        queue=False,
    )


def _add_predict_batch(handlers: Handlers) -> None:
    def predict_batch_(
        images: list[Upload], threshold: float | None = None, model: str | None = None, budget: float | None = None
    ) -> list[dict[str, Any]]:
        with _told():
            return predict_batch(handlers, images, threshold, model, budget)

    gr.Button("Predict many").click(
        predict_batch_,
        [
            keep_files(gr.File(file_count="multiple", label="images")),
            gr.Number(None, label="threshold"),
            gr.Textbox(None, label="model"),
            gr.Number(None, label="budget"),
        ],
        gr.JSON(label="answers"),
        api_name="predict_batch",
        api_description=predict_batch.__doc__,
        **BATCHES,
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What is wrong with a call, told to the caller alone: no traceback in the server's output."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:  # ImageError is a ValueError; a model's files may be gone
        raise gr.Error(str(error), print_exception=False) from error


def route(handlers: Handlers, probabilities: Any, thresholds: Any, model: str | None = None) -> dict[str, Any]:
    """Where an image leaves at other thresholds, from its probabilities; runs no model, so it answers at once.

    Args:
        probabilities: K lists of numbers from 0 to 1, one for each exit, as `/predict` returns them.
        thresholds: confidence needed to stop early, at least 0: one number for every exit, or a list of K-1; above 1 is
            never.
        model: the name of one of the page's models; without it, the first.

    Returns:
        `label`, `confidence`, `exit` (1-based), `gmacs` and `full_gmacs` (10^9 multiply-accumulates), `thresholds`
        (K-1).

    Raises:
        ValueError: an unknown model, or probabilities or thresholds that do not fit it.
    """
    predictor = chosen_model(handlers, model)
    _check_probabilities(probabilities, predictor)
    values = _checked_thresholds(thresholds, predictor)
    decision = routing.decide(probabilities, values, predictor.gmacs)
    return {
        "label": predictor.class_names[decision.label],
        "confidence": decision.confidence,
        "exit": decision.exit,
        "gmacs": decision.gmacs,
        "full_gmacs": decision.full_gmacs,
        "thresholds": values,
    }


def predict_batch(
    handlers: Handlers,
    images: Sequence[Upload],
    threshold: float | None = None,
    model: str | None = None,
    budget: float | None = None,
) -> list[dict[str, Any]]:
    """Many images through the cascade, each by as much of it as it needs: the exits after its own are never run.

    Args:
        images: the image files, 64 at most.
        threshold: confidence needed to stop early, at least 0, the same for every exit; above 1 is never. Without it
            and a budget, the model's own thresholds.
        model: the name of one of the page's models; without it, the first.
        budget: in place of a threshold, GFLOPs that an image may cost on average: the best thresholds within it that
            the model's card knows.

    Returns:
        For each file, in order: `file` (its name), `label`, `confidence`, `exit` (1-based), `gmacs` (10^9
        multiply-accumulates), `error` (null; for what is no image a sentence that says so, and the others are null).

    Raises:
        ValueError: no files or too many, an unknown model, a threshold below 0, a threshold and a budget, a budget that
            is not above 0, or one for a model whose card knows none.
    """
    choice = chosen_thresholds(handlers, threshold, model, budget)
    if not images:
        raise ValueError("no images were given")
    batch.check_count(len(images), MOST_FILES)
    paths, names = [image.path for image in images], [image.name for image in images]
    rows = batch.classify_files(choice.predictor, paths, choice.thresholds, lambda done, total: None, names)
    return [
        {
            "file": row.file,
            "label": None if row.error else row.label,
            "confidence": row.confidence,
            "exit": row.exit,
            "gmacs": row.gmacs,
            "error": row.error or None,
        }
        for row in rows
    ]


def _check_probabilities(table: Any, predictor: Predictor) -> None:
    exits, classes = predictor.num_exits, len(predictor.class_names)
    fault = ""
    if not isinstance(table, list):
        fault = "it is no list"
    elif len(table) != exits:
        fault = f"there are {len(table)}"
    else:
        for number, row in enumerate(table, 1):
            if not isinstance(row, list) or len(row) != classes:
                fault = f"number {number} is {f'of {len(row)}' if isinstance(row, list) else 'no list'}"
            elif not all(is_number(value) and value <= 1 for value in row):
                fault = f"number {number} has something else in it"
            if fault:
                break
    if fault:
        raise ValueError(
            f"probabilities must be {exits} lists, one for each exit of {predictor.name}, of {classes} numbers from 0 "
            f"to 1, as /predict returns them; {fault}"
        )


def _checked_thresholds(given: Any, predictor: Predictor) -> list[float]:
    """K-1 thresholds from one or from all of them."""
    wanted = predictor.num_exits - 1
    values = given if isinstance(given, list) else [given]
    if not all(is_number(value) for value in values):
        raise ValueError("thresholds must be numbers from 0 to 1, or above 1 for never early: one, or a list of them")
    if not isinstance(given, list) or (len(given) == 1 and wanted > 0):
        values = values * wanted
    if len(values) != wanted:
        raise ValueError(
            f"{len(values)} thresholds were given: {predictor.name} has {predictor.num_exits} exits, so give one for "
            f"all, or {wanted}, one for each exit but the last"
        )
    return [NEVER if value > 1 else float(value) for value in values]
