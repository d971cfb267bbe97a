"""The first tab, "Try an image": its layout and wiring; what happens is in `handlers`, what is drawn in `views`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from app import routing, widgets
from app.handlers import Handlers, Shown, Source
from app.queues import ONE_AT_A_TIME
from app.uploads import is_shown_by_browsers, original_image

# Listeners of the page itself: those that run the model, and those that only route, which must not wait for those.
RUNS: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last", **ONE_AT_A_TIME}
ROUTES: dict[str, Any] = {
    "api_visibility": "private",
    "trigger_mode": "always_last",
    "queue": False,
    "show_progress": "hidden",
}
LOOKS: dict[str, Any] = {**RUNS, "show_progress": "minimal"}
SLIDER: dict[str, Any] = {"show_label": False, "container": False, "buttons": []}
SLIDER_ENDS = (
    '<div class="dvt-ends" aria-hidden="true"><span>0: always the first exit</span><span>never early</span></div>'
)
FOOTNOTE = """
<p class="dvt-small dvt-footnote">To let the slider answer at once, this page computes every exit, once for each image,
and then only routes. Run for real (<code>dvt predict</code>, or the tab <i>Many images</i>), the cascade never computes
the exits marked “never run”.</p>
"""


class TryTab:
    """The components of the tab, laid out where it is made, and what listens to them.

    Args:
        handlers: of the page.
        model: the selector of the model, by name.
        about: the lines about it.
    """

    def __init__(self, handlers: Handlers, model: gr.Radio, about: gr.HTML) -> None:
        self.handlers, self.model, self.about = handlers, model, about
        self._first = handlers.first
        opening = handlers.opening_source(self._first.name)
        said, seen = handlers.analyse(opening, self._first.name)
        shown = handlers.own_thresholds(self._first.name, said)
        self.source, self.analysis, self.thresholds = gr.State(opening), gr.State(said), gr.State(shown.thresholds)
        self._is_looking = gr.State(False)
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=3, min_width=300, elem_id="inputs"):
                self._lay_out_inputs()
            with gr.Column(scale=7, min_width=320):
                self._lay_out_outcome(shown, seen)
        self._listen()

    def _lay_out_inputs(self) -> None:
        with gr.Column(visible=self._first.knows_digits, elem_classes="dvt-panel") as self._example_panel:
            gr.HTML("<h2>Choose an image</h2>")
            self._examples = gr.HTML(
                widgets.examples_html(self.handlers.examples()), js_on_load=widgets.EXAMPLES_JS, elem_id="examples"
            )
        with gr.Tabs(selected="upload", elem_id="own-image") as self._inputs:
            with gr.Tab("Upload", id="upload"):
                self._upload = original_image(
                    sources=["upload", "webcam", "clipboard"],
                    webcam_options=gr.WebcamOptions(mirror=False),  # a mirrored 2 is none
                    label="Upload, paste or photograph an image",
                    show_label=False,
                    buttons=[],
                    height=270,  # less, and the question for the camera covers the way back
                    elem_id="upload",
                )
            # style.css hides it where the model knows no digits
            with gr.Tab("Draw", id="draw", elem_id="draw"):
                self._pad = gr.HTML(
                    "", html_template=widgets.PAD_HTML, js_on_load=widgets.PAD_JS, elem_id="pad", label="Draw"
                )

    def _lay_out_outcome(self, shown: Shown, seen: str) -> None:
        with gr.Row(equal_height=False, elem_id="result"):
            with gr.Column(scale=2, min_width=220, elem_id="seen"):
                self._pixels = gr.HTML(seen, elem_id="seen-pixels")
                self._grid = gr.HTML(shown.grid, elem_id="seen-grid")
            with gr.Column(scale=5, min_width=280):
                self._answer = gr.HTML(shown.answer, elem_id="answer", js_on_load=widgets.LIVE_JS)
        several = self._first.num_exits > 1
        with gr.Column(elem_classes="dvt-panel", elem_id="slider-panel", visible=several) as self._panel:
            self._lay_out_sliders(shown)
        self._path = gr.HTML(shown.path, elem_id="path")
        with gr.Accordion("Where each exit looked, and what the next one reused", open=False, elem_id="looking") as (
            self._looking
        ):
            self._maps = gr.HTML("", elem_id="maps", min_height=40)
        gr.HTML(FOOTNOTE)

    def _lay_out_sliders(self, shown: Shown) -> None:
        with gr.Row(elem_classes="dvt-slider-head"):
            self._reading = gr.HTML(shown.reading, elem_id="reading")
            self._reset = gr.Button("Use the model's own", size="sm", min_width=150, scale=0, elem_id="own")
        self._slider = gr.Slider(
            0,
            routing.SLIDER_END,
            value=shown.position,
            step=routing.SLIDER_STEP,
            label="Confidence needed to stop early",
            elem_id="threshold",
            **SLIDER,
        )
        gr.HTML(SLIDER_ENDS, js_on_load=widgets.SLIDER_WORDS_JS)
        with gr.Accordion(
            "Or a threshold for each exit", open=False, visible=self._first.num_exits > 2, elem_id="each-panel"
        ) as self._each_panel:
            self._each, self._each_rows = [], []
            for k, position in enumerate(shown.each, 1):
                with gr.Row(visible=k < self._first.num_exits, elem_classes=["dvt-each", f"dvt-exit-{k}"]) as row:
                    gr.HTML(f'<span class="dvt-each-name"><b>{k}</b>Exit {k}</span>', elem_classes="dvt-each-label")
                    slider = gr.Slider(
                        0,
                        routing.SLIDER_END,
                        value=position,
                        step=routing.SLIDER_STEP,
                        label=f"Confidence needed to stop at exit {k}",
                        elem_id=f"threshold-{k}",
                        elem_classes="dvt-range",
                        **SLIDER,
                    )
                self._each.append(slider)
                self._each_rows.append(row)
        limits = self.handlers.budget_slider(self._first.name)
        with gr.Accordion(
            "Or choose by budget", open=False, visible=self._first.knows_budgets, elem_id="budget-panel"
        ) as self._budget_panel:
            self._budget_reading = gr.HTML(shown.budget_reading, elem_id="budget-reading")
            self._budget = gr.Slider(
                **(limits or {}), label="GFLOPs an image may cost on average", elem_id="budget", **SLIDER
            )
            self._budget_source = gr.HTML(self.handlers.describe_budgets(self._first.name))

    def _targets(self, without: str = "") -> list[Any]:
        """The components of `Shown`, in its order; `without` is the one that a visitor is just moving."""
        parts = {
            "thresholds": [self.thresholds],
            "position": [self._slider],
            "each": self._each,
            "reading": [self._reading],
            "budget_reading": [self._budget_reading],
            "answer": [self._answer],
            "path": [self._path],
            "grid": [self._grid],
        }
        return [component for field in Shown._fields if field != without for component in parts[field]]

    @staticmethod
    def _values(shown: Shown, without: str = "") -> list[Any]:
        values: list[Any] = []
        for field, value in zip(Shown._fields, shown, strict=True):
            if field != without:
                values += shown.each if field == "each" else [value]
        return values

    def _listen(self) -> None:
        handlers, model, analysis = self.handlers, self.model, self.analysis

        def move(position: float, name: str, said: Any) -> list[Any]:
            return self._values(handlers.move(position, name, said), "position")

        def move_each(name: str, said: Any, thresholds: list[float], *positions: float) -> list[Any]:
            return self._values(handlers.move_each(positions, thresholds, name, said), "each")

        def spend(budget: float, name: str, said: Any) -> list[Any]:
            return self._values(handlers.spend(budget, name, said))

        def own(name: str, said: Any) -> list[Any]:
            return self._values(handlers.own_thresholds(name, said))

        self._slider.input(move, [self._slider, model, analysis], self._targets("position"), api_name="move", **ROUTES)
        for k, slider in enumerate(self._each, 1):
            inputs = [model, analysis, self.thresholds, *self._each]
            slider.input(move_each, inputs, self._targets("each"), api_name=f"move_{k}", **ROUTES)
        self._budget.input(spend, [self._budget, model, analysis], self._targets(), api_name="spend", **ROUTES)
        self._reset.click(own, [model, analysis], self._targets(), api_name="own_thresholds", **ROUTES)
        self._listen_to_images()
        self._listen_to_looking()

    def _listen_to_images(self) -> None:
        def try_file(path: str | None, name: str) -> tuple[Any, ...]:
            if path is None:  # the box was emptied, often only because something else is just coming into it
                return gr.skip(), gr.skip(), gr.skip(), gr.skip()
            said, seen = self.handlers.analyse(("file", path), name)
            # What the browser cannot show must not stay in the box as a broken picture.
            shown = said is not None and "error" not in said and is_shown_by_browsers(path)
            return ("file", path), said, seen, gr.skip() if shown else None

        def try_drawing(data_url: str | None, name: str) -> tuple[Any, ...]:
            given: Source | None = ("drawing", data_url) if data_url else None
            return given, *self.handlers.analyse(given, name), None

        def try_example(name: str, event: gr.EventData) -> tuple[Any, ...]:
            given: Source = ("example", int(event.index))
            return given, *self.handlers.analyse(given, name), None

        self.tries(self._upload.input, try_file, [self._upload, self.model], "upload")
        self.tries(self._pad.input, try_drawing, [self._pad, self.model], "draw")
        tried = self.tries(self._examples.click, try_example, [self.model], "example")
        tried.then(None, js=widgets.SHOW_RESULT_JS, api_name="show_result", api_visibility="private")

        def switch(name: str, given: Source | None, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
            if not self.handlers.predictors[name].is_loaded:
                progress(0.3, desc=f"Loading {name}")
            given = self.handlers.kept_source(given, name)
            said, seen = self.handlers.analyse(given, name)
            shown = self.handlers.own_thresholds(name, said)
            return [given, said, seen, *self._fit(name), *self._values(shown)]

        switched = self.model.input(
            switch,
            [self.model, self.source],
            [self.source, self.analysis, self._pixels, *self._fitted(), *self._targets()],
            api_name="switch_model",
            show_progress="full",
            show_progress_on=self._answer,
            **RUNS,
        )
        self._look_after(switched, "switch_model")

    def tries(self, event: Callable[..., Any], try_it: Callable[..., Any], inputs: Sequence[Any], name: str) -> Any:
        """Lets an event bring a new image: `try_it` -> source, analysis, HTML of the pixels, what the box shows."""
        targets = [self.source, self.analysis, self._pixels, self._upload]
        # Of the last of several clicks Gradio would keep the first one's data, so each is answered in turn.
        waiting = {**RUNS, "trigger_mode": "multiple", "show_progress": "minimal", "show_progress_on": self._answer}
        tried = event(try_it, list(inputs), targets, api_name=name, **waiting)
        # The slider may move while the model runs, so the outcome is made in a second step, from where it stands then.
        routed = tried.then(
            self.handlers.outcome,
            [self.analysis, self.thresholds],
            [self._answer, self._path, self._grid],
            api_name=f"outcome_{name}",
            **ROUTES,
        )
        self._look_after(routed, name)
        return routed

    def opens(self, event: Callable[..., Any], source_of: Callable[..., tuple[Source, list[float]]], name: str) -> Any:
        """Lets an event elsewhere on the page open an image at its thresholds: `source_of(model, event) -> both`."""

        def open_it(model: str, event: gr.EventData) -> list[Any]:
            given, thresholds = source_of(model, event)
            said, seen = self.handlers.analyse(given, model)
            return [given, said, seen, None, *self._values(self.handlers.set_to(thresholds, model, said))]

        targets = [self.source, self.analysis, self._pixels, self._upload, *self._targets()]
        waiting = {**RUNS, "trigger_mode": "multiple", "show_progress": "minimal", "show_progress_on": self._answer}
        opened = event(open_it, [self.model], targets, api_name=name, **waiting)
        self._look_after(opened, name)
        return opened

    def _listen_to_looking(self) -> None:
        """The maps are computed when their panel is opened, and anew for a new image while it is open."""

        def look(given: Source | None, name: str) -> tuple[bool, str]:
            return True, self.handlers.look(given, name)

        self._looking.expand(look, [self.source, self.model], [self._is_looking, self._maps], api_name="look", **LOOKS)
        self._looking.collapse(
            lambda: (False, ""), None, [self._is_looking, self._maps], api_name="look_away", **ROUTES
        )

    def _look_after(self, event: Any, name: str) -> None:
        def look_again(is_open: bool, given: Source | None, model: str) -> str:
            return self.handlers.look(given, model) if is_open else ""

        inputs = [self._is_looking, self.source, self.model]
        event.then(look_again, inputs, self._maps, api_name=f"look_{name}", **LOOKS)

    def _fitted(self) -> list[Any]:
        """What a switch of the model shows, hides or sets anew, in the order of `_fit`."""
        return [
            *(self.about, self._example_panel, self._inputs, self._panel, self._each_panel, *self._each_rows),
            *(self._budget_panel, self._budget, self._budget_source),
        ]

    def _fit(self, name: str) -> list[Any]:
        predictor, limits = self.handlers.predictors[name], self.handlers.budget_slider(name)
        return [
            self.handlers.describe(name),
            gr.update(visible=predictor.knows_digits),
            gr.skip() if predictor.knows_digits else gr.update(selected="upload"),
            gr.update(visible=predictor.num_exits > 1),
            gr.update(visible=predictor.num_exits > 2),
            *(gr.update(visible=k < predictor.num_exits) for k in range(1, len(self._each) + 1)),
            gr.update(visible=predictor.knows_budgets),
            gr.skip() if limits is None else gr.update(**limits),
            self.handlers.describe_budgets(name),
        ]
