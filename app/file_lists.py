"""Uploaded files, many at once: where each is stored, and what it is called where it came from."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pydantic
from gradio.data_classes import ListFiles


@dataclasses.dataclass(frozen=True)
class Upload:
    """path: on the server. name: the file's own, without any folder."""

    path: str
    name: str


def own_name(path: str, given: str | None) -> str:
    """What a file is called: the last part of the name it came with, or of its path where it came with none.

    Gradio leaves characters out of the names that it stores files under; the name that it was `given` is whole, but may
    hold anything.
    """
    return re.split(r"[/\\]", given or "")[-1].strip() or Path(path).name


class _Files(ListFiles):
    # No docstring: Gradio would tell it to the endpoint's callers.
    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> _Files:
        try:
            return super().model_validate([obj] if isinstance(obj, dict) else obj, **options)
        except pydantic.ValidationError as error:
            raise gr.Error("give a list of uploaded files", print_exception=False) from error


def keep_files(files: gr.File) -> gr.File:
    """Makes a component for several files hand over a list of `Upload`.

    Gradio's own reading gives no names, and leaves an empty temporary file behind for each that nothing clears away;
    and of what is no list of files it says much that tells the caller nothing. One file counts as a list of one.
    Give the component values alone, never an update of its properties: Gradio would make it anew, without this.
    """

    def preprocess(payload: Any) -> list[Upload]:
        return [Upload(file.path, own_name(file.path, file.orig_name)) for file in payload or ()]

    files.data_model = _Files
    files.preprocess = preprocess  # type: ignore[method-assign]
    return files
