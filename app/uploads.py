"""Uploaded images as they came: Gradio's own reading of them is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

_MARK = "dvt-original"
_read_by_gradio = gr.Image.preprocess


def original_image(**properties: Any) -> gr.Image:
    """An image component that hands over the uploaded file itself, as its path.

    Gradio would open it with Pillow first: what is no image would fail there, without a word on which file it was, and
    a very large picture would be judged by another limit than ours. That the path is an upload was checked before.
    """
    return gr.Image(type="filepath", image_mode=None, elem_classes=[_MARK], **properties)


def _preprocess(image: gr.Image, payload: Any) -> Any:
    if _MARK not in (image.elem_classes or ()):
        return _read_by_gradio(image, payload)
    return None if payload is None else payload.path


# In the class and by a mark: Gradio writes a .pyi file beside every subclass, and builds a component anew, from what it
# was first made with, whenever one of its properties is updated.
gr.Image.preprocess = _preprocess  # type: ignore[method-assign]


def is_shown_by_browsers(path: str) -> bool:
    """Whether browsers show files with this ending."""
    return Path(path).suffix.lower() in {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"}
