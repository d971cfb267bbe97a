"""What the page draws: complete, escaped, and told in words."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from app import views
from app.budgets import BudgetChoice
from app.routing import decide
from dvt_tf.exit_rule import NEVER
from dvt_tf.presets import CascadeConfig

CONFIG = CascadeConfig(image_size=28, token_grids=(2, 4), num_classes=2)
HOSTILE = '<img src=x onerror="alert(1)">&\'{{7*7}}${alert(1)}`'


class Tags(HTMLParser):
    """Collects the elements and the text of a page, as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def path(count: int, thresholds: list[float], classes: int = 3) -> str:
    rows = np.random.default_rng(count).dirichlet(np.ones(classes), count).tolist()
    gmacs = [0.1 * 2**k for k in range(count)]
    names = [f"class {c}" for c in range(classes)]
    config = CascadeConfig(image_size=28, token_grids=tuple(2 + k for k in range(count)), num_classes=classes)
    return views.path_html(rows, decide(rows, thresholds, gmacs), names, config, gmacs)


def test_class_names_and_messages_are_escaped() -> None:
    rows = [[0.1, 0.9], [0.2, 0.8]]
    names, gmacs = ["fine", HOSTILE], [1.0, 2.0]
    decision = decide(rows, [0.5], gmacs)
    card = {"class_names": names, "description": HOSTILE}
    chosen = {"values": [0.5], "method": HOSTILE, "data": HOSTILE, "images": 10}
    table = {"points": [], "measure": "top1", "data": HOSTILE}
    for text in (
        views.answer_html(decision, names, [7, 14], [1.0, 2.0]),
        views.path_html(rows, decision, names, CONFIG, gmacs),
        views.model_line(card, CONFIG, 1000, HOSTILE),
        views.thresholds_line(chosen),
        views.warning_html(HOSTILE),
        views.budget_source_html({"budgets": table}, gmacs, False),
        views.budget_reading_html(BudgetChoice(1.0, 0.5, [0.0], None, "top1", HOSTILE)),
        views.message_html(HOSTILE),
    ):
        parsed = Tags(text)
        assert "img" not in parsed.tags
        assert HOSTILE in parsed.text


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_one_station_for_each_exit(count: int) -> None:
    never = path(count, [NEVER] * (count - 1))
    assert re.findall(r'data-state="(\w+)"', never) == ["passed"] * (count - 1) + ["fired"]
    at_once = path(count, [0.0] * (count - 1))
    assert re.findall(r'data-state="(\w+)"', at_once) == ["fired"] + ["skipped"] * (count - 1)
    assert f"--exits:{count}" in never
    assert Tags(never).tags.count("ol") == 1


def test_states_are_told_in_words() -> None:
    text = Tags(path(3, [0.0, 0.0])).text
    assert text.count("never run") == 2
    assert text.count("would be") == 2
    assert "sure, answers" in text
    last = Tags(path(3, [NEVER, NEVER])).text
    assert last.count("not sure, goes on") == 2
    assert last.count("never early") == 2
    assert "last exit, answers" in last


def test_few_classes_are_all_listed_and_of_many_the_five_largest() -> None:
    assert Tags(views.bars_html([0.2, 0.5, 0.3], ["a", "b", "c"])).text == "a20.0%b50.0%c30.0%"
    row = np.linspace(1, 2, 1000)
    drawn = views.bars_html((row / row.sum()).tolist(), [f"n{c}" for c in range(1000)])
    assert re.findall(r'dvt-name" title="\w+">(\w+)<', drawn) == ["n999", "n998", "n997", "n996", "n995"]
    many = Tags(drawn)
    assert "995 more classes" in many.text
    assert many.tags.count("li") == 5


def test_the_cost_is_shown_beside_the_full_cascade() -> None:
    rows = [[0.9, 0.1], [0.8, 0.2]]
    text = Tags(views.answer_html(decide(rows, [0.5], [0.25, 1.0]), ["a", "b"], [7, 14], [4.23, 21.4])).text
    assert "0.250 GFLOPs spent of 1.00 for the full cascade" in text
    assert "25% of the full cost, 75% saved" in text
    assert "Multiply-adds, as the paper counts" in text
    assert "exit 1 of 2" in text
    full = Tags(views.answer_html(decide(rows, [NEVER], [0.25, 1.0]), ["a", "b"], [7, 14], [4.23, 21.4])).text
    assert "100% of the full cost" in full
    assert "nothing saved" in full


def test_the_time_is_that_of_the_exit() -> None:
    rows = [[0.9, 0.1], [0.8, 0.2]]
    early = Tags(views.answer_html(decide(rows, [0.5], [0.25, 1.0]), ["a", "b"], [7, 14], [4.23, 21.4])).text
    assert "4.2 ms measured for this image on this machine, of 21 ms for the full cascade" in early
    full = Tags(views.answer_html(decide(rows, [NEVER], [0.25, 1.0]), ["a", "b"], [7, 14], [4.23, 21.4])).text
    assert "21 ms measured" in full


def test_the_model_is_told_in_a_line_with_how_well_it_does() -> None:
    card = {"class_names": ["a", "b"], "description": "two letters"}
    line = Tags(views.model_line(card, CONFIG, 1_430_000, "x")).text
    assert line == "x — two letters. Recognises 2 classes (a, b); tokens 2×2 → 4×4; 1.43 M parameters."
    figures = {"data": "digits@test", "images": 4000, "exits": [{"top1": 0.7}, {"top1": 0.899}]}
    told = Tags(views.model_line({**card, "figures": figures}, CONFIG, 1, "x")).text
    assert "right on 89.9% at the last exit on digits@test, 4,000 images" in told
    published = {"curve": [[1.1, 73.5], [3.4, 79.7]], "thresholds": []}
    assert "79.7% top-1 as published" in Tags(views.model_line({**card, "published": published}, CONFIG, 1, "x")).text


def test_every_station_shows_its_own_grid() -> None:
    drawn = path(3, [0.5, 0.5])
    assert re.findall(r'aria-label="The image in (\d)×\d tokens"', drawn) == ["2", "3", "4"]
    lines = [cell.count("M0 ") for cell in re.findall(r'dvt-grid-over" d="([^"]*)"', drawn)]
    assert lines == [1, 2, 3]


def test_the_budgets_reading_is_one_sentence() -> None:
    choice = BudgetChoice(0.1, 0.489, [0.9, 0.84], 0.885, "top1", "")
    assert Tags(views.budget_reading_html(choice)).text == (
        "Budget 0.100 GFLOPs per image on average (49% of the full cascade): "
        "expected 88.5% top-1, thresholds 0.90, then 0.84"
    )
    without_labels = dataclasses.replace(choice, expected=0.9712, measure="agreement")
    assert "answers as the full cascade for 97.1%, thresholds" in Tags(views.budget_reading_html(without_labels)).text
    unknown = dataclasses.replace(choice, expected=None, note="the card knows none")
    assert Tags(views.budget_reading_html(unknown)).text.endswith("full cascade): the card knows none")


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [
        ([0.9, 0.84], "thresholds 0.90, then 0.84"),
        ([0.9, 0.9], "threshold 0.90"),
        ([0.7], "threshold 0.70"),
        ([0.0, 0.5], "every image leaves at exit 1"),
        ([NEVER, 0.5], "thresholds never early, then 0.50"),
        ([NEVER, NEVER], "every image runs the full cascade"),
    ],
)
def test_a_budgets_thresholds_in_words(thresholds: list[float], words: str) -> None:
    assert views.budget_thresholds_text(thresholds) == words


def test_where_a_budgets_thresholds_come_from() -> None:
    table = {"points": [], "measure": "top1", "data": "digits@val", "images": 2000}
    text = Tags(views.budget_source_html({"budgets": table}, [0.0242, 0.204], False)).text
    assert text.startswith("0.0242: first exit0.204: full cascade")
    assert "are from digits@val, 2,000 images. One image may cost more" in text
    stale = Tags(views.budget_source_html({"budgets": table}, [0.0242, 0.204], True)).text
    assert "2,000 images, with other weights than the model has now." in stale
    published = Tags(views.budget_source_html({"published": {}}, [0.0242, 0.204], False)).text
    assert "the checkpoint's published curve" in published


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            {"values": [0.9, 0.84], "method": "cheapest of all", "data": "digits@val", "images": 2000},
            "Thresholds 0.90, then 0.84: cheapest of all. Data: digits@val, 2,000 images.",
        ),
        ({"values": [0.7], "method": "by eye", "data": ""}, "Thresholds 0.70: by eye."),
        ({"values": [2.0, 2.0], "method": "none", "data": ""}, "Thresholds never early: none were chosen."),
        ({"values": [0.7]}, "Thresholds 0.70: the card does not say how they were chosen."),
        ({"values": [], "method": "none", "data": ""}, ""),
    ],
)
def test_how_the_thresholds_were_chosen(entry: dict, text: str) -> None:
    assert Tags(views.thresholds_line(entry)).text == text


@pytest.mark.parametrize(
    ("risk", "about", "promise"),
    [
        ("disagreement", "new images", "new images drawn as these were get another answer than the full cascade's"),
        ("accuracy_drop", "new sources", "images of new sources are answered wrongly where the full cascade is right"),
    ],
)
def test_a_guarantee_is_told_in_words(risk: str, about: str, promise: str) -> None:
    guarantee = {"risk": risk, "level": 0.05, "confidence": 0.95, "images": 1000, "losses": 3, "about": about}
    entry = {"values": [0.9], "method": "Learn-then-Test", "data": "digits@val", "images": 2000}
    text = Tags(views.thresholds_line({**entry, "guarantee": guarantee})).text
    assert f"promised with 95% confidence that at most 5% of {promise}" in text


def test_a_warning_stands_there_only_with_a_note() -> None:
    assert views.warning_html("") == ""
    assert Tags(views.warning_html("of other weights")).text == "Warning: of other weights."


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.0%"), (0.9999, "&gt;99.9%"), (0.5, "50.0%"), (0.0001, "&lt;0.1%"), (0.0, "0.0%")],
)
def test_percent_is_never_rounded_to_certainty(share: float, text: str) -> None:
    assert views.percent(share) == text


@pytest.mark.parametrize(
    ("gmacs", "text"), [(0.0213, "0.0213"), (0.00043, "0.000430"), (1.147, "1.15"), (12.14, "12.1"), (345.6, "346")]
)
def test_gflops_keep_three_digits(gmacs: float, text: str) -> None:
    assert views.gflops(gmacs) == text


@pytest.mark.parametrize(
    ("size", "grid", "edges"),
    [
        (112, 7, [16, 32, 48, 64, 80, 96]),
        (112, 10, [8, 20, 32, 44, 56, 68, 80, 92, 104]),  # kernels of 12, of which 4 pixels lie outside on either side
        (224, 14, [16 * i for i in range(1, 14)]),
        (224, 10, [23 * i - 3 for i in range(1, 10)]),
    ],
)
def test_the_grid_is_drawn_where_the_kernels_meet(size: int, grid: int, edges: list[float]) -> None:
    config = CascadeConfig(image_size=size, token_grids=(grid, grid + 1))
    assert views.grid_edges(config, grid) == edges
    drawn = views.grid_html(config, 1)
    assert f'viewBox="0 0 {size} {size}"' in drawn
    assert f"{grid}×{grid} = {grid * grid} tokens" in drawn
    assert all(f"M{edge} 0V{size}" in drawn for edge in edges)


def test_the_pixels_are_drawn_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    match = re.search(r'src="data:image/png;base64,([^"]+)"', views.pixels_html(pixels))
    assert match is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1])))), pixels)
