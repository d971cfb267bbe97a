"""The tab "Many images": files go in, a table and a CSV come out; what happens is in `batch`, what is drawn in
`batch_views`.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app import batch, batch_views, views
from app.file_lists import Upload, keep_files
from app.handlers import Handlers
from app.queues import BATCHES

CSS = Path(__file__).with_name("batch.css")
CSV_NAME = "many_images.csv"
PROGRESS = gr.Progress()  # Gradio gives a function that has it as a default a bar of its own


@dataclasses.dataclass(frozen=True)
class BatchTab:
    """The components of the tab."""

    files: gr.File
    classify: gr.Button
    note: gr.HTML
    results: gr.HTML
    download: gr.DownloadButton


def build(handlers: Handlers, model: gr.Radio, thresholds: gr.State) -> BatchTab:
    """Lays the tab out in the `gr.Tab` where it is called, and wires it.

    Args:
        handlers: of the page.
        model: the selector of the model, by name.
        thresholds: K-1 of them, as the first tab has set them.
    """
    with gr.Row(equal_height=False, elem_id="batch-columns") as columns:
        with gr.Column(scale=3, min_width=300, elem_classes="dvt-panel"):
            gr.HTML("<h2>Choose images</h2>")
            files = keep_files(
                gr.File(file_count="multiple", label="Images", show_label=False, height=230, elem_id="batch-files")
            )
            first = handlers.first
            note = gr.HTML(batch_views.thresholds_html(first.name, first.thresholds), elem_id="batch-note")
            classify = gr.Button("Classify", elem_id="batch-classify")
        with gr.Column(scale=7, min_width=300, elem_id="batch-outcome"):
            results = gr.HTML(batch_views.invitation_html(), elem_id="batch-results")
            download = gr.DownloadButton("Download as CSV", visible=False, size="sm", elem_id="batch-download")

    def run(
        given: list[Upload], name: str, values: list[float], progress: gr.Progress = PROGRESS
    ) -> tuple[str, dict[str, Any], str]:
        def on_done(done: int, total: int) -> None:
            progress((done, total), desc="Classifying", unit="files")

        shown, csv = classified(handlers, given, name, values, on_done)
        path = None if csv is None else write_csv(csv, Path(download.GRADIO_CACHE))
        return shown, gr.update(visible=path is not None, value=path), tell(name, values)

    def tell(name: str, values: list[float]) -> str:
        return batch_views.thresholds_html(name, values if fits(handlers, name, values) else None)

    def forget() -> tuple[str, dict[str, Any]]:
        return batch_views.invitation_html(), gr.update(visible=False, value=None)

    quiet: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    classify.click(
        run,
        [files, model, thresholds],
        [results, download, note],
        api_name="batch_classify",
        api_visibility="private",
        show_progress_on=results,
        **BATCHES,
    )
    files.clear(forget, None, [results, download], api_name="batch_clear", **quiet)
    # The page is not told that a state has changed by a listener outside the queue, as the sliders' are; so the note is
    # also made anew whenever the tab is turned to.
    tab = _tab_around(columns)
    gr.on(
        [thresholds.change, model.change, *([tab.select] if tab else [])],
        tell,
        [model, thresholds],
        note,
        api_name="batch_thresholds",
        trigger_mode="always_last",
        **quiet,
    )
    return BatchTab(files, classify, note, results, download)


def _tab_around(block: Any) -> gr.Tab | None:
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    return block


def fits(handlers: Handlers, model: str, thresholds: Sequence[float]) -> bool:
    """Whether there are as many thresholds as the model takes; not so for a moment while another model comes."""
    return len(thresholds) == handlers.predictors[model].num_exits - 1


def classified(
    handlers: Handlers, files: Sequence[Upload], model: str, thresholds: Sequence[float], on_done: Any
) -> tuple[str, str | None]:
    """The files through the model: HTML of what became of them, and a CSV, None where nothing did."""
    predictor = handlers.predictors[model]
    if not files:
        return batch_views.invitation_html(), None
    if not fits(handlers, model, thresholds):
        return views.message_html("The model is just being changed: press Classify again in a moment."), None
    try:
        batch.check_count(len(files))
        on_done(0, len(files))
        predictor.load()
        paths, names = [file.path for file in files], [file.name for file in files]
        rows = batch.classify_files(predictor, paths, thresholds, on_done, names)
    except (ValueError, FileNotFoundError) as error:  # too many files, or a model whose files are gone
        return views.message_html(f"{str(error)[:1].upper()}{str(error)[1:]}."), None
    found = batch.summary(rows, predictor.num_exits)
    return batch_views.results_html(rows, found, model, thresholds), batch.to_csv(rows)


def write_csv(text: str, cache: Path) -> str:
    """Writes a CSV into a folder of its own in Gradio's cache, which is cleared of old files; returns its path.

    With a byte order mark, by which spreadsheets know UTF-8.
    """
    path = cache / uuid.uuid4().hex / CSV_NAME
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8-sig", errors="replace", newline="")
    return str(path)
