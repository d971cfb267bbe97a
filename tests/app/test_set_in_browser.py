"""The tab "See a test set" in a real browser: images, numbers and plot follow the slider, and no server is asked."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app import set_tab, set_widget
from app.inference import Predictor
from app.page import launch
from app.screenshots import free_port
from app.test_set import TestSets
from dvt_tf.checkpoints import weights_digest
from dvt_tf.digits import digit_scenes
from dvt_tf.exit_rule import NEVER, route
from dvt_tf.results import ExitResults, save_results
from dvt_tf.thresholds import Operating, operate
from tests.app.models import DIGITS, PETS, page_model, with_budgets
from tests.exit_results import made_up

pytestmark = [pytest.mark.browser, pytest.mark.one_stack]

PATIENCE = 60_000  # milliseconds
COUNT = 1000


class Page(NamedTuple):
    """A page with this tab, and what it must show of the first model."""

    address: str
    results: ExitResults
    sets: TestSets


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("sets")
    random = np.random.default_rng(1)
    for label in PETS:
        (folder / "pets" / "test" / label).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / "test" / label / f"{number:02}.png")
    digits = Predictor(with_budgets(page_model((2, 3, 4), DIGITS, (0.8, 0.6), image_size=112)), "digits")
    pets = Predictor(page_model((1, 2, 3, 4, 5, 6), PETS), "pets")
    foxes = Predictor(page_model((2, 4), ["fox", "owl"]), "foxes")
    single = Predictor(page_model((3,), PETS), "single")
    results = results_of(digits)
    save_results(results, folder / "results.safetensors")
    beside = {"alone": {"exits": [{"gmacs": digits.gmacs[1], "top1": 0.4}]}}
    data = [f"folder:{folder / 'pets'}"]
    sets = TestSets([digits, pets, foxes, single], data, [folder / "results.safetensors"], beside)
    with gr.Blocks(analytics_enabled=False) as blocks:
        model = gr.Radio(list(sets.predictors), value="digits", label="Model")
        with gr.Tabs():
            with gr.Tab("Another"):
                gr.HTML("Nothing here")
            with gr.Tab("See a test set"):
                widget = set_tab.build(sets, model)
        clicked = gr.Textbox(label="Clicked", elem_id="clicked")

        def index_of(event: gr.EventData) -> str:
            return f"{event.index} at {event.thresholds}"

        widget.click(index_of, None, clicked)
    yield Page(launch(blocks, "127.0.0.1", free_port()), results, sets)
    blocks.close(verbose=False)


def results_of(predictor: Predictor) -> ExitResults:
    """Made-up results of the first scenes; many confidences are exactly where the slider can stand."""
    labels, random = digit_scenes("test", COUNT).labels, np.random.default_rng(2)
    found = made_up(COUNT, labels=labels, gmacs=np.array(predictor.gmacs))
    on_steps = random.random(found.confidences.shape) < 0.4
    confidences = np.where(on_steps, np.round(found.confidences, 2), found.confidences).astype(np.float32)
    right = random.random(confidences.shape) < confidences
    predictions = np.where(right, labels[:, None], (labels[:, None] + 1) % 10).astype(np.int32)
    about = {"model": "digits", "weights": weights_digest(predictor.model), "data": "digits", "split": "test"}
    return dataclasses.replace(found, confidences=confidences, predictions=predictions, about=about)


@pytest.fixture
def tab(browser: Any, page: Page) -> Iterator[Any]:
    """The tab, open on the first model; fails afterwards if the console had errors or another machine was asked."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    tab = browser.new_page(viewport={"width": 1440, "height": 1200})
    tab.set_default_timeout(PATIENCE)
    errors: list[str] = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    elsewhere: list[str] = []
    ours = (page.address, "data:", "blob:")
    tab.on("request", lambda request: None if request.url.startswith(ours) else elsewhere.append(request.url))
    tab.goto(page.address)
    tab.get_by_role("tab", name="See a test set").click()
    expect(slider(tab)).to_be_visible()
    yield tab
    tab.close()
    assert errors == []
    assert elsewhere == []


def slider(tab: Any) -> Any:
    return tab.get_by_test_id("set-slider")


def at(page: Page, thresholds: list[float]) -> Operating:
    found = page.results
    return operate(found.confidences, found.correct, found.gmacs, np.asarray(thresholds, np.float32))


def percent(share: float) -> str:
    """As the widget writes it."""
    if 0.9995 <= share < 1:
        return ">99.9%"
    return "<0.1%" if 0 < share < 0.0005 else f"{share * 100:.1f}%"


def expect_shown(tab: Any, page: Page, thresholds: list[float]) -> None:
    """Numbers, point of the plot, and the exit of every image that is shown."""
    from playwright.sync_api import expect

    point = at(page, thresholds)
    for k, share in enumerate(point.shares):
        expect(tab.get_by_test_id(f"set-share-{k + 1}")).to_have_text(re.compile(near(share, percent)))
    expect(tab.get_by_test_id("set-top1")).to_have_text(re.compile(near(point.accuracy, percent)))
    share = point.gmacs / page.results.gmacs[-1]
    expect(tab.get_by_test_id("set-share")).to_have_text(re.compile(near(share, lambda value: f"{value * 100:.0f}%")))
    exits = route(page.results.confidences, np.asarray(thresholds, np.float32))
    seen = tab.evaluate(
        "[...document.querySelectorAll('.dvt-set-thumb:not([hidden])')].map((thumb) => "
        "[Number(thumb.dataset.index), Number(thumb.dataset.exit), thumb.classList.contains('dvt-set-is-wrong')])"
    )
    assert len(seen) >= 250
    for index, number, is_wrong in seen:
        assert number == exits[index], f"image {index} at {thresholds}"
        assert is_wrong != page.results.correct[index, number - 1]


def near(share: float, text: Any) -> str:
    """A pattern of the text of a share, whichever way a half is rounded."""
    return "^(" + "|".join(sorted({re.escape(text(share + off)) for off in (-1e-9, 0.0, 1e-9)})) + ")$"


def expect_apart(tab: Any) -> None:
    """Every shown image is inside the column of its exit, and none lies on another."""
    tab.wait_for_timeout(700)  # they move for less than half a second
    places = tab.evaluate(
        "[...document.querySelectorAll('.dvt-set-thumb:not([hidden])')].map((thumb) => {"
        " const box = thumb.getBoundingClientRect();"
        " const bin = document.querySelectorAll('.dvt-set-bin')[thumb.dataset.exit - 1].getBoundingClientRect();"
        " const inside = box.left >= bin.left - 1 && box.right <= bin.right + 1"
        "   && box.top >= bin.top - 1 && box.bottom <= bin.bottom + 1;"
        " return [inside, Math.round(box.left), Math.round(box.top), box.width]; })"
    )
    assert all(inside for inside, *_ in places)
    assert len({(left, top) for _, left, top, _ in places}) == len(places)
    assert min(width for *_, width in places) >= 21.9


def test_by_keyboard_and_pointer_without_a_request(tab: Any, page: Page) -> None:
    from playwright.sync_api import expect

    requests: list[str] = []
    expect_shown(tab, page, [0.8, 0.6])
    tab.wait_for_timeout(500)
    tab.on("request", lambda request: requests.append(request.url))
    reading = tab.get_by_test_id("set-reading")
    expect(reading).to_have_text("0.80, then 0.60")
    expect(tab.get_by_label("Confidence needed to stop early")).to_have_value("0.8")

    slider(tab).focus()
    slider(tab).press("Home")
    expect(reading).to_have_text("0.00")
    expect_shown(tab, page, [0.0, 0.0])
    expect_apart(tab)
    slider(tab).press("End")
    expect(reading).to_have_text("never early")
    expect_shown(tab, page, [NEVER, NEVER])
    expect_apart(tab)
    for _ in range(6):
        slider(tab).press("ArrowLeft")
    expect(reading).to_have_text("0.95")
    expect_shown(tab, page, [0.95, 0.95])
    expect(slider(tab)).to_have_attribute("aria-valuetext", "0.95")

    box = slider(tab).bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] * 0.93, middle)
    tab.mouse.down()
    for share in np.linspace(0.9, 0.45, 20):
        tab.mouse.move(box["x"] + box["width"] * share, middle)
    tab.mouse.up()
    position = float(slider(tab).input_value())
    assert 0.4 < position < 0.5
    expect(reading).to_have_text(f"{position:.2f}")
    expect_shown(tab, page, [position, position])
    expect_apart(tab)
    expect(tab.get_by_test_id("set-summary")).to_contain_text(f"Confidence needed: {position:.2f}. Of 1,000 images")
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == []


def test_every_step_of_the_slider(tab: Any, page: Page) -> None:
    shown, steps = tab.evaluate(
        "() => { const slider = document.querySelector('[data-testid=set-slider]'); const seen = [];"
        " const thumbs = [...document.querySelectorAll('.dvt-set-thumb:not([hidden])')];"
        " for (let i = 0; i <= 101; i += 1) { slider.value = String(i / 100);"
        "  slider.dispatchEvent(new Event('input', { bubbles: true }));"
        "  seen.push(thumbs.map((thumb) => Number(thumb.dataset.exit))); }"
        " return [thumbs.map((thumb) => Number(thumb.dataset.index)), seen]; }"
    )
    assert set(shown) <= set(page.sets.of("digits").shown.tolist())  # type: ignore[union-attr]
    for i, exits in enumerate(steps):
        threshold = i / 100 if i <= 100 else NEVER
        assert exits == route(page.results.confidences[shown], [threshold] * 2).tolist(), f"at {threshold}"


@given(st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rule_is_the_library_s(tab: Any, data: st.DataObject) -> None:
    exits = data.draw(st.integers(1, 6), label="exits")
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    threshold = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.0000001, 1.01, 2.0]))
    thresholds = data.draw(st.lists(threshold, min_size=exits - 1, max_size=exits - 1), label="thresholds")
    confidences = random.random((2000, exits)).astype(np.float32)
    ties = random.random((2000, exits - 1)) < 0.3
    around = np.asarray(thresholds, np.float32)
    neighbours = np.stack([around, np.nextafter(around, np.float32(-1)), np.nextafter(around, np.float32(3))])
    chosen = neighbours[random.integers(0, 3, (2000, exits - 1)), np.arange(exits - 1)] if exits > 1 else around[None]
    confidences[:, :-1] = np.where(
        ties, np.clip(chosen, 0, np.nextafter(np.float32(1), np.float32(2))), confidences[:, :-1]
    )
    rule = set_widget.JS[set_widget.JS.index("const asFloat32") : set_widget.JS.index("// The states without")]
    seen = tab.evaluate(
        f"([values, exits, thresholds]) => {{ {rule}"
        " const confidences = Float32Array.from(values); const rule = asFloat32(thresholds);"
        " return Array.from({ length: values.length / exits }, (_, i) => exitOf(confidences, i * exits, rule) + 1); }",
        [confidences.astype(float).ravel().tolist(), exits, thresholds],
    )
    assert seen == route(confidences, thresholds).tolist()


def test_presets(tab: Any, page: Page) -> None:
    from playwright.sync_api import expect

    buttons = tab.get_by_role("group", name="Calibrated settings").get_by_role("button")
    presets = page.sets.of("digits").presets  # type: ignore[union-attr]
    expect(buttons).to_have_count(len(presets))
    assert len(presets) >= 3
    for preset, button in zip(presets, buttons.all(), strict=True):
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(tab.locator("[aria-pressed=true]")).to_have_count(1)
        expect(button).to_contain_text(preset.detail)
        expect(button).to_have_attribute("title", preset.title)
        expect_shown(tab, page, preset.thresholds)
    slider(tab).press("Home")
    slider(tab).press("ArrowRight")
    expect(tab.locator("[aria-pressed=true]")).to_have_count(0)
    expect(tab.locator(".dvt-set-panel")).to_contain_text("set here")


def test_an_image_is_opened_by_click_and_by_keys(tab: Any) -> None:
    from playwright.sync_api import expect

    clicked = tab.locator("#clicked textarea")
    thumb = tab.locator(".dvt-set-thumb[data-exit='2']:visible").nth(4)
    index = thumb.get_attribute("data-index")
    thumb.click()
    expect(clicked).to_have_value(f"{index} at [0.8, 0.6]")
    expect(tab.locator(".dvt-set-thumb[tabindex='0']")).to_have_count(1)  # one stop for the Tab key

    tab.keyboard.press("Home")
    start = tab.evaluate("document.activeElement.dataset.index")
    assert tab.evaluate("document.activeElement.dataset.exit") == "1"
    for key in ("ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
    moved = tab.evaluate("document.activeElement.dataset.index")
    assert moved != start
    label = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.match(rf"Test image {moved}, truly \d\. Leaves at exit 1, (right|wrong)\. exit 1 says \d, [\d.]+%", label)
    expect(tab.locator(".dvt-set-tip")).to_be_visible()
    tab.keyboard.press("Enter")
    expect(clicked).to_have_value(re.compile(rf"^{moved} at "))
    for key in ("ArrowUp", "ArrowLeft"):
        tab.keyboard.press(key)
    assert tab.evaluate("document.activeElement.dataset.index") == start
    tab.keyboard.press("End")
    assert tab.evaluate("document.activeElement.dataset.exit") == "3"
    tab.keyboard.press("Escape")
    expect(tab.locator(".dvt-set-tip")).to_be_hidden()


def test_the_plot_and_its_table(tab: Any, page: Page) -> None:
    from playwright.sync_api import expect

    expect(tab.locator(".dvt-set-curve")).to_have_count(1)
    expect(tab.locator(".dvt-set-number")).to_have_text(["1", "2", "3"])
    expect(tab.locator(".dvt-set-legend")).to_contain_text("▲")
    point = tab.get_by_test_id("set-point")

    def place() -> tuple[float, float]:
        found = re.findall(r"[\d.]+", point.get_attribute("transform"))
        return float(found[0]), float(found[1])

    slider(tab).press("Home")
    first = place()
    slider(tab).press("End")
    last = place()
    assert last[0] > first[0]
    rows = tab.locator(".dvt-set-table tbody tr")
    expect(rows).to_have_count(1 + 3 + 1 + 4)
    tab.get_by_text("As a table").click()
    expect(rows.first).to_contain_text("Now: never early")
    expect(rows.nth(3)).to_contain_text(f"Exit 3 for every image{page.results.gmacs[-1]:.6f}"[:22])
    expect(rows.nth(4)).to_contain_text("alone")


@pytest.mark.long
def test_other_models_have_their_own_sets(tab: Any) -> None:
    from playwright.sync_api import expect

    tab.get_by_role("radio", name="pets").check()
    expect(tab.locator(".dvt-set-column")).to_have_count(6)
    expect(tab.locator(".dvt-set-thumb")).to_have_count(40)
    expect_apart(tab)
    slider(tab).press("Home")
    expect(tab.get_by_test_id("set-share-1")).to_have_text("100.0%")
    expect_apart(tab)
    tab.get_by_role("radio", name="foxes").check()
    expect(tab.get_by_role("alert")).to_contain_text("fox")
    expect(tab.get_by_role("button", name="Try again")).to_be_enabled()
    tab.get_by_role("radio", name="single").check()
    expect(tab.locator(".dvt-set-column")).to_have_count(1)
    expect(tab.get_by_test_id("set-share")).to_have_text("100%")
    expect(slider(tab)).to_have_count(0)
    expect_apart(tab)
    tab.get_by_role("radio", name="digits").check()
    expect(tab.locator(".dvt-set-column")).to_have_count(3)


def test_the_slider_stays_where_it_is_while_another_tab_is_open(tab: Any) -> None:
    from playwright.sync_api import expect

    slider(tab).press("Home")
    tab.get_by_role("tab", name="Another").click()
    expect(slider(tab)).to_be_hidden()
    tab.get_by_role("tab", name="See a test set").click()
    expect(slider(tab)).to_have_value("0")
    expect_apart(tab)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(tab: Any, scheme: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": 375, "height": 812})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    for key in ("Home", "End"):
        slider(tab).press(key)
        expect_apart(tab)
    assert tab.locator(".dvt-set-thumb:visible").count() >= 60
    tab.locator(".dvt-set-key").scroll_into_view_if_needed()
    assert slider(tab).bounding_box()["y"] >= 0  # it stays in sight


@pytest.mark.parametrize("width", [640, 768, 1024, 1440])
def test_nothing_jumps(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    heights = set()
    for key in ("Home", "End", "PageDown", "ArrowLeft"):
        slider(tab).press(key)
        heights.add(tab.evaluate("Math.round(document.querySelector('.dvt-set-layout').offsetHeight)"))
    for button in tab.get_by_role("group", name="Calibrated settings").get_by_role("button").all():
        button.click()
        heights.add(tab.evaluate("Math.round(document.querySelector('.dvt-set-layout').offsetHeight)"))
    assert len(heights) == 1
    expect_apart(tab)
