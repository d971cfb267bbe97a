"""The page: its tabs under one header, for one model or several, and how it is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app import api, batch_tab, set_tab, widgets
from app.handlers import Handlers, Source
from app.inference import Predictor
from app.test_set import TestSets
from app.try_tab import ROUTES, TryTab

TITLE = "Dynamic Vision Transformer"
MAX_FILE_SIZE = "50mb"
MAX_WAITING = 200  # requests in the queue; further ones are told to come again
CACHE_CHECK, CACHE_AGE = 600, 3600  # seconds: uploads are gone from the disk about an hour after they came
STYLES = [Path(__file__).with_name(f"{name}.css") for name in ("style", "looking", "test_set", "batch")]

HEADER = """
<header class="dvt-header"><h1>Dynamic Vision Transformer</h1>
<p>An easy image needs few tokens, a hard one needs many. This cascade looks through ever finer grids of tokens and
stops at the first exit that is sure enough.</p></header>
"""


def build_page(predictors: Sequence[Predictor], sets: TestSets | None = None) -> gr.Blocks:
    """The page for these models, of which the first is shown first. Launches nothing; `launch` does."""
    handlers = Handlers(predictors, sets or TestSets(predictors))
    first = handlers.first
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CACHE_CHECK, CACHE_AGE)) as page:
        gr.HTML(HEADER)
        with gr.Row(visible=len(predictors) > 1):
            model = gr.Radio(list(handlers.predictors), value=first.name, label="Model", elem_id="model")
        about = gr.HTML(handlers.describe(first.name), elem_id="about")
        with gr.Tabs(selected="try", elem_id="tabs") as tabs:
            with gr.Tab("Try an image", id="try"):
                one = TryTab(handlers, model, about)
            with gr.Tab("See a test set", id="set"):
                gallery = set_tab.build(handlers.sets, model)
            with gr.Tab("Many images", id="many"):
                batch_tab.build(handlers, model, one.thresholds)

        def test_image(name: str, event: gr.EventData) -> tuple[Source, list[float]]:
            return ("test", (name, int(event.index))), [float(value) for value in event.thresholds]

        one.opens(gallery.click, test_image, "test_image")
        shown = gallery.click(lambda: gr.Tabs(selected="try"), None, tabs, api_name="show_first_tab", **ROUTES)
        shown.then(None, js=widgets.SHOW_FIRST_TAB_JS, api_name="to_the_result", api_visibility="private")
        api.add_api(handlers)
    page.queue(max_size=MAX_WAITING)
    return page


def launch(page: gr.Blocks, host: str, port: int, **more: Any) -> str:
    """Starts the page in the background and returns its address; never through a tunnel to the outside.

    Args:
        more: of Gradio's `launch`, such as `auth`.

    Raises:
        OSError: the port is taken or the host is not of this machine.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        run_history=False,
        max_file_size=MAX_FILE_SIZE,
        footer_links=["api", "settings"],
        theme=gr.themes.Default(
            primary_hue="slate",
            neutral_hue="slate",
            font=("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif"),
            font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
        ),
        css_paths=STYLES,
        **more,
    )
    return address
