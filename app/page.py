"""The layout of the page and its wiring; what happens is in `handlers`, what is drawn in `views`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app import routing, widgets
from app.handlers import Handlers, Source
from app.inference import Predictor

TITLE = "Dynamic Vision Transformer"
MAX_FILE_SIZE = "50mb"
CACHE_CHECK, CACHE_AGE = 600, 3600  # seconds: uploads are gone from the disk about an hour after they came
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
# Listeners of the page itself: those that run the model, and those that only route, which must not wait for those.
RUNS: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last", **ONE_AT_A_TIME}
ROUTES: dict[str, Any] = {
    "api_visibility": "private",
    "trigger_mode": "always_last",
    "queue": False,
    "show_progress": "hidden",
}

HEADER = """
<header class="dvt-header"><h1>Dynamic Vision Transformer</h1>
<p>An easy image needs few tokens, a hard one needs many. This cascade looks through ever finer grids of tokens and
stops at the first exit that is sure enough.</p></header>
"""
SLIDER_ENDS = (
    '<div class="dvt-ends" aria-hidden="true"><span>0: always the first exit</span><span>never early</span></div>'
)
FOOTNOTE = """
<p class="dvt-small dvt-footnote">To let the slider answer at once, this page computes every exit, once for each image,
and then only routes. Run for real (<code>dvt predict</code>), the cascade never computes the exits marked
“never run”.</p>
"""


def build_page(predictors: Sequence[Predictor]) -> gr.Blocks:
    """The page for these models, of which the first is shown first. Launches nothing; `launch` does."""
    handlers = Handlers(predictors)
    first = handlers.first
    opening = handlers.opening_source(first.name)
    said, seen = handlers.analyse(opening, first.name)
    own, position, reading_html, budget_html, *outcome_html = handlers.own_thresholds(first.name, said)
    range_of_budgets = handlers.budget_slider(first.name)

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CACHE_CHECK, CACHE_AGE)) as page:
        source, analysis, thresholds = gr.State(opening), gr.State(said), gr.State(own)
        gr.HTML(HEADER)
        with gr.Row(visible=len(predictors) > 1):
            model = gr.Radio(list(handlers.predictors), value=first.name, label="Model", elem_id="model")
        about = gr.HTML(handlers.describe(first.name), elem_id="about")
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=3, min_width=300, elem_id="inputs"):
                with gr.Column(visible=first.knows_digits, elem_classes="dvt-panel") as example_panel:
                    gr.HTML("<h2>Choose an image</h2>")
                    examples = gr.HTML(
                        widgets.examples_html(handlers.examples()), js_on_load=widgets.EXAMPLES_JS, elem_id="examples"
                    )
                with gr.Tabs(selected="upload") as tabs:
                    with gr.Tab("Upload", id="upload"):
                        upload = gr.Image(
                            type="filepath",
                            image_mode=None,
                            sources=["upload", "clipboard"],
                            label="Upload or paste an image",
                            show_label=False,
                            buttons=[],
                            height=210,
                            elem_id="upload",
                        )
                    with gr.Tab(
                        "Draw", id="draw", elem_id="draw"
                    ):  # style.css hides it where the model knows no digits
                        pad = gr.HTML(
                            "", html_template=widgets.PAD_HTML, js_on_load=widgets.PAD_JS, elem_id="pad", label="Draw"
                        )
            with gr.Column(scale=7, min_width=320):
                with gr.Row(equal_height=False, elem_id="result"):
                    with gr.Column(scale=2, min_width=220, elem_id="seen"):
                        pixels = gr.HTML(seen, elem_id="seen-pixels")
                        grid = gr.HTML(outcome_html[2], elem_id="seen-grid")
                    with gr.Column(scale=5, min_width=280):
                        answer = gr.HTML(outcome_html[0], elem_id="answer")
                with gr.Column(elem_classes="dvt-panel", elem_id="slider-panel", visible=first.num_exits > 1) as panel:
                    with gr.Row(elem_classes="dvt-slider-head"):
                        reading = gr.HTML(reading_html, elem_id="reading")
                        reset = gr.Button("Use the model's own", size="sm", min_width=150, scale=0, elem_id="own")
                    slider = gr.Slider(
                        0,
                        routing.SLIDER_END,
                        value=position,
                        step=routing.SLIDER_STEP,
                        label="Confidence needed to stop early",
                        show_label=False,
                        container=False,
                        buttons=[],
                        elem_id="threshold",
                    )
                    gr.HTML(SLIDER_ENDS)
                    with gr.Accordion(
                        "Or choose by budget", open=False, visible=first.knows_budgets, elem_id="budget-panel"
                    ) as budget_panel:
                        budget_reading = gr.HTML(budget_html, elem_id="budget-reading")
                        budget = gr.Slider(
                            **(range_of_budgets or {}),
                            label="GFLOPs an image may cost on average",
                            show_label=False,
                            container=False,
                            buttons=[],
                            elem_id="budget",
                        )
                        budget_source = gr.HTML(handlers.describe_budgets(first.name))
                path = gr.HTML(outcome_html[1], elem_id="path")
                gr.HTML(FOOTNOTE)

        outcome, readings = [answer, path, grid], [reading, budget_reading]
        waiting = {**RUNS, "show_progress": "minimal", "show_progress_on": answer}
        keep_original(upload)

        def try_file(path: str | None, model_name: str) -> tuple[Any, ...]:
            given: Source | None = ("file", path) if path else None
            said, seen = handlers.analyse(given, model_name)
            # What the browser cannot show must not stay in the box as a broken picture.
            shown = path is not None and said is not None and "error" not in said and is_shown_by_browsers(path)
            return given, said, seen, path if shown else None

        def try_drawing(data_url: str | None, model_name: str) -> tuple[Any, ...]:
            given: Source | None = ("drawing", data_url) if data_url else None
            return given, *handlers.analyse(given, model_name)

        def try_example(model_name: str, event: gr.EventData) -> tuple[Any, ...]:
            given: Source = ("example", int(event.index))
            return given, *handlers.analyse(given, model_name), None

        def switch(model_name: str, given: Source | None) -> tuple[Any, ...]:
            predictor = handlers.predictors[model_name]
            given = given or handlers.opening_source(model_name)
            new_analysis, new_pixels = handlers.analyse(given, model_name)
            digits = gr.update(visible=predictor.knows_digits)
            tab = gr.skip() if predictor.knows_digits else gr.update(selected="upload")
            several = gr.update(visible=predictor.num_exits > 1)
            limits = handlers.budget_slider(model_name)
            by_budget = (
                gr.update(visible=predictor.knows_budgets),
                gr.skip() if limits is None else gr.update(**limits),
                handlers.describe_budgets(model_name),
            )
            shown = handlers.own_thresholds(model_name, new_analysis)
            about_it = handlers.describe(model_name)
            return (given, new_analysis, new_pixels, about_it, digits, tab, several, *by_budget, *shown)

        # The slider may move while the model runs, so the outcome is made in a second step, from where it stands then.
        tries = [
            upload.upload(
                try_file,
                [upload, model],
                [source, analysis, pixels, upload],
                api_name="upload",
                **waiting,
            ),
            pad.input(
                try_drawing,
                [pad, model],
                [source, analysis, pixels],
                api_name="draw",
                **waiting,
            ),
            examples.click(
                try_example,
                [model],
                [source, analysis, pixels, upload],
                api_name="example",
                **waiting,
            ),
        ]
        for number, tried in enumerate(tries):
            tried.then(handlers.outcome, [analysis, thresholds], outcome, api_name=f"outcome_{number}", **ROUTES)
        slider.input(
            handlers.move,
            [slider, model, analysis],
            [thresholds, *readings, *outcome],
            api_name="move",
            **ROUTES,
        )
        budget.input(
            handlers.spend,
            [budget, model, analysis],
            [thresholds, slider, *readings, *outcome],
            api_name="spend",
            **ROUTES,
        )
        reset.click(
            handlers.own_thresholds,
            [model, analysis],
            [thresholds, slider, *readings, *outcome],
            api_name="own_thresholds",
            **ROUTES,
        )
        model.input(
            switch,
            [model, source],
            [
                *(source, analysis, pixels, about, example_panel, tabs, panel),
                *(budget_panel, budget, budget_source),
                *(thresholds, slider, *readings, *outcome),
            ],
            api_name="switch_model",
            **waiting,
        )
        _add_api(handlers)
    return page


def _add_api(handlers: Handlers) -> None:
    """The endpoint for programs; its components are never shown."""

    def predict(
        image: str, threshold: float | None = None, model: str | None = None, budget: float | None = None
    ) -> dict[str, Any]:
        try:
            return handlers.predict(image, threshold, model, budget)
        except ValueError as error:  # ImageError is one
            raise gr.Error(str(error)) from error

    with gr.Row(visible=False):
        image = keep_original(gr.Image(type="filepath", image_mode=None, label="image"))
        threshold = gr.Number(None, label="threshold")
        model = gr.Textbox(None, label="model")
        budget = gr.Number(None, label="budget")
        answer = gr.JSON(label="answer")
        gr.Button("Predict").click(
            predict,
            [image, threshold, model, budget],
            answer,
            api_name="predict",
            api_description=Handlers.predict.__doc__,
            **ONE_AT_A_TIME,
        )


def is_shown_by_browsers(path: str) -> bool:
    """Whether browsers show files with this ending."""
    return Path(path).suffix.lower() in {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"}


def keep_original(image: gr.Image) -> gr.Image:
    """Makes an image component hand over the uploaded file itself.

    Gradio would open it with Pillow first: what is no image would fail there, without a word on which file it was, and
    a very large picture would be judged by another limit than ours. That the path is an upload was checked before.
    (Not a subclass: Gradio writes a .pyi file beside every one. An update of the component's properties, `gr.update` or
    `gr.skip`, makes Gradio build it anew for the session and lose this: give it values alone.)
    """

    def preprocess(payload: Any) -> str | None:
        return None if payload is None else payload.path

    image.preprocess = preprocess  # type: ignore[method-assign]
    return image


def launch(page: gr.Blocks, host: str, port: int, **more: Any) -> str:
    """Starts the page in the background and returns its address.

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
        css_paths=[Path(__file__).with_name("style.css")],
        **more,
    )
    return address
