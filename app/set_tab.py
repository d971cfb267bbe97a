"""The tab "See a test set": the widget, and when its data is made."""

from __future__ import annotations

import gradio as gr

from app import set_widget
from app.queues import ONE_AT_A_TIME
from app.test_set import TestSets


def build(sets: TestSets, model: gr.Radio, elem_id: str = "test-set") -> gr.HTML:
    """Lays the tab out in the Blocks that are being built.

    A model's test set is made when the widget is first seen, or is in sight when the model changes.

    Args:
        sets: the test sets of the page's models. model: the choice among them, by name.

    Returns:
        The widget. A click on an image triggers its `click`, whose `gr.EventData` has `index`, for `sets.image_bytes`,
        and `thresholds`.
    """
    widget = set_widget.build_widget(str(model.value), elem_id)

    def prepare(name: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008 how Gradio finds it
        return prepared(sets, name, progress)

    widget.prepare(
        prepare,
        [model],
        [widget],
        api_name=f"prepare_{elem_id.replace('-', '_')}",
        api_visibility="private",
        trigger_mode="always_last",
        show_progress="full",
        **ONE_AT_A_TIME,
    )
    model.change(
        set_widget.preparing,
        [model],
        [widget],
        api_name=f"await_{elem_id.replace('-', '_')}",
        api_visibility="private",
        trigger_mode="always_last",
        queue=False,
        show_progress="hidden",
    )
    return widget


def prepared(sets: TestSets, name: str, progress: gr.Progress) -> str:
    """The widget's value for a model: its test set, or what there is to say in its place."""
    done = total = 0

    def start(images: int) -> None:
        nonlocal total
        total = images
        progress((0, total), desc="Running every exit", unit="images")

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress((done, max(done, total)), desc="Running every exit", unit="images")

    try:
        found = sets.of(name, start, advance)
    except (ValueError, FileNotFoundError) as error:
        return set_widget.failed(str(error))
    return set_widget.empty(name) if found is None else set_widget.ready(found)
