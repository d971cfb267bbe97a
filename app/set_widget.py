"""The widget that shows a test set: one `gr.HTML` that is given plain values and does the rest in the browser.

Its value is one JSON text with a `state`: `preparing`, `empty`, `error`, or `ready` with a whole test set. While it is
preparing and in sight it triggers `prepare`; when an image is clicked it triggers `click`, whose event data has
`index`, the image's place in the test split, and `thresholds`, the K-1 that are set. Moving the slider triggers
nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app.routing import SLIDER_END, SLIDER_STEP
from app.test_images import SIDE, SPRITE_COLUMNS
from app.test_set import TestSet

CSS_PATH = Path(__file__).with_name("test_set.css")
JS = Path(__file__).with_name("test_set.js").read_text(encoding="utf-8")


def build_widget(model: str, elem_id: str = "test-set") -> gr.HTML:
    """The widget, waiting for the test set of this model."""
    return gr.HTML(
        preparing(model),
        html_template='<div class="dvt-set"></div>',  # the script fills it; it never depends on the value
        js_on_load=JS,
        apply_default_css=False,
        elem_id=elem_id,
        label="Test set",
    )


def preparing(model: str) -> str:
    """The value that asks for a model's test set as soon as the widget is in sight."""
    return _json({"state": "preparing", "model": model})


def empty(model: str) -> str:
    """The value for a model that has no test set here."""
    return _json({"state": "empty", "model": model})


def failed(message: str) -> str:
    """The value where a test set could not be made."""
    return _json({"state": "error", "message": message})


def ready(found: TestSet) -> str:
    """The value with a whole test set.

    Confidences leave as the bytes of little-endian float32, (N, K), so that the browser has the very numbers; which
    exits are right as one byte an image, exit 1 the lowest bit.
    """
    results, shown = found.results, found.shown
    assert results.labels is not None, "no labels"
    told = np.column_stack([results.labels[shown], results.predictions[shown]])  # (G, 1 + K)
    classes, places = np.unique(told, return_inverse=True)
    right = (results.correct << np.arange(results.num_exits)).sum(1).astype(np.uint8)
    return _json(
        {
            "state": "ready",
            "model": found.model,
            "where": results.where,
            "images": len(results),
            "gmacs": results.gmacs.tolist(),
            "grids": list(found.token_grids),
            "confidences": _bytes(results.confidences.astype("<f4")),
            "right": _bytes(right),
            "shown": shown.tolist(),
            "names": [found.class_names[index] for index in classes],  # those that the shown images need
            "told": places.reshape(told.shape).tolist(),  # label, then the answer of every exit
            "sprite": found.sprite,
            "side": SIDE,
            "spriteColumns": SPRITE_COLUMNS,
            "presets": [vars(preset) for preset in found.presets],
            "curve": [[point.gmacs, point.accuracy, _thresholds(point.thresholds)] for point in found.curve],
            "alone": list(found.alone),
            "beside": [{"name": name, "points": list(points)} for name, points in found.beside.items()],
            "slider": {"end": SLIDER_END, "step": SLIDER_STEP},
        }
    )


def _thresholds(values: np.ndarray) -> Sequence[float]:
    return [float(value) for value in values]


def _bytes(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _json(value: dict[str, Any]) -> str:
    # Gradio warns of what looks like a tag of a script, and a class may be called anything.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
