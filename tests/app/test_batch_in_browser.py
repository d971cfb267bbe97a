"""The tab "Many images" in a real browser: files in, a table and a CSV out; by keyboard; on a phone."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app import batch_tab
from app.handlers import Handlers
from app.inference import Predictor
from app.page import launch
from app.screenshots import free_port
from tests.app.models import PETS, page_model

pytestmark = [pytest.mark.browser, pytest.mark.one_stack]

PATIENCE = 60_000  # milliseconds, for machines that do much else at the same time


@pytest.fixture(scope="module")
def address(digits_predictor: Predictor) -> Iterator[str]:
    """The tab beside another, where two buttons set thresholds, outside the queue as the page's sliders do."""
    pets = Predictor(page_model((2, 4), PETS, [0.7]), "pets")
    handlers = Handlers([digits_predictor, pets])
    with gr.Blocks(analytics_enabled=False) as page:
        thresholds = gr.State(list(digits_predictor.thresholds))
        model = gr.Radio(list(handlers.predictors), value=digits_predictor.name, label="Model")
        with gr.Tabs():
            with gr.Tab("First"):
                at_once, never = gr.Button("At once"), gr.Button("Never")
            with gr.Tab("Many images"):
                batch_tab.build(handlers, model, thresholds)

        def set_to(value: float) -> Any:
            return lambda name: [value] * (handlers.predictors[name].num_exits - 1)

        at_once.click(set_to(0.0), model, thresholds, queue=False)
        never.click(set_to(2.0), model, thresholds, queue=False)
        model.input(lambda name: list(handlers.predictors[name].thresholds), model, thresholds)
    yield launch(page, "127.0.0.1", free_port())
    page.close(verbose=False)


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    """The page, open; fails afterwards if the console had errors or anything was asked of another machine."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(PATIENCE)
    errors: list[str] = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    elsewhere: list[str] = []
    tab.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:", "blob:")) else elsewhere.append(request.url),
    )
    tab.goto(address)
    turn_to(tab, "Many images")
    expect(tab.locator("#batch-classify")).to_be_visible()
    yield tab
    tab.close()
    assert errors == []
    assert elsewhere == []


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Some pictures, one of a name that Gradio stores otherwise, one of a kind that browsers' lists leave out, and
    words that call themselves a picture.
    """
    names = ["=1.png", "what?.png", "b.tiff", "c.webp", "words.png", *(f"more {number}.png" for number in range(20))]
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "words.png").write_text("no image")
    return [tmp_path / name for name in names]


def turn_to(tab: Any, name: str) -> None:
    tab.get_by_role("tab", name=name).click()


def set_thresholds(tab: Any, button: str, reading: str) -> None:
    """In the other tab, and back."""
    from playwright.sync_api import expect

    turn_to(tab, "First")
    with tab.expect_response(lambda response: "/run/predict" in response.url):
        tab.get_by_role("button", name=button).click()
    turn_to(tab, "Many images")
    expect(tab.get_by_test_id("batch-thresholds")).to_have_text(reading)


def upload(tab: Any, files: list[Path]) -> None:
    from playwright.sync_api import expect

    tab.locator("#batch-files input[type=file]").set_input_files(files)
    expect(tab.locator("#batch-files .file-preview tr")).to_have_count(len(files))


def classify(tab: Any) -> None:
    tab.get_by_role("button", name="Classify").click()


def expect_caption(tab: Any, text: str) -> None:
    from playwright.sync_api import expect

    expect(tab.get_by_test_id("batch-table").locator("caption")).to_have_text(text)


def test_files_in_a_table_and_a_csv_out(tab: Any, digits_predictor: Predictor, files: list[Path]) -> None:
    from playwright.sync_api import expect

    expect(tab.locator("#batch-results")).to_contain_text("No results yet")
    expect(tab.locator("#batch-download")).to_be_hidden()
    set_thresholds(tab, "At once", "0.00")
    upload(tab, files)
    classify(tab)
    expect_caption(tab, f"25 files through {digits_predictor.name}, stopping at 0.00")
    expect(tab.get_by_test_id("batch-summary")).to_contain_text("24 files classified")
    expect(tab.get_by_test_id("batch-summary")).to_contain_text("1 file could not be read.")
    counts = [tab.get_by_test_id(f"batch-exit-{number}").inner_text().split()[-2:] for number in (1, 2, 3)]
    assert counts == [["24", "files"], ["0", "files"], ["0", "files"]]
    rows = tab.locator("[data-testid=batch-table] tbody tr")
    assert rows.locator("th[scope=row]").all_inner_texts() == [path.name for path in files]
    expect(rows.nth(4)).to_contain_text("This file is not an image")
    badge = rows.nth(0).locator(".dvt-exit-1")
    expect(badge).to_have_text("exit 1")
    colour = badge.evaluate("e => getComputedStyle(e).backgroundColor")
    assert colour == "rgb(15, 118, 110)"

    with tab.expect_download() as download:
        tab.locator("#batch-download").click()
    assert download.value.suggested_filename == batch_tab.CSV_NAME
    with open(download.value.path(), encoding="utf-8-sig", newline="") as text:
        lines = list(csv.DictReader(text))
    assert [line["file"] for line in lines] == ["'=1.png", *(path.name for path in files[1:])]
    assert [line["exit"] for line in lines] == ["1"] * 4 + [""] + ["1"] * 20
    assert lines[4]["error"] == "This file is not an image, or a damaged or truncated one."
    assert float(lines[0]["gflops"]) == pytest.approx(digits_predictor.gmacs[0])

    set_thresholds(tab, "Never", "never early")
    expect_caption(tab, f"25 files through {digits_predictor.name}, stopping at 0.00")  # as these were classified
    classify(tab)
    expect_caption(tab, f"25 files through {digits_predictor.name}, stopping at never early")
    expect(rows.nth(0).locator(".dvt-exit-3")).to_have_text("exit 3")
    expect(tab.get_by_test_id("batch-summary")).to_contain_text("100% of the full cascade")

    tab.locator("#batch-files").get_by_label("Clear").click()
    expect(tab.locator("#batch-results")).to_contain_text("No results yet")
    expect(tab.locator("#batch-download")).to_be_hidden()


def test_another_model_has_its_own_thresholds(tab: Any, files: list[Path]) -> None:
    from playwright.sync_api import expect

    tab.get_by_role("radio", name="pets").check()
    expect(tab.locator("#batch-note")).to_have_text(
        "Files go through pets with the threshold set in the first tab: 0.70."
    )
    upload(tab, files[:3])
    classify(tab)
    expect_caption(tab, "3 files through pets, stopping at 0.70")
    expect(tab.get_by_test_id("batch-exit-2")).to_be_visible()
    expect(tab.get_by_test_id("batch-exit-3")).to_have_count(0)


def test_without_files_and_with_nothing_but_bad_ones(tab: Any, files: list[Path]) -> None:
    from playwright.sync_api import expect

    with tab.expect_response(lambda response: "/queue/join" in response.url):
        classify(tab)
    expect(tab.locator("#batch-results")).to_contain_text("No results yet")
    upload(tab, files[4:5])
    classify(tab)
    expect(tab.get_by_test_id("batch-summary")).to_have_text("1 file could not be read.")
    expect(tab.locator("#batch-download")).to_be_visible()


def test_by_keyboard(tab: Any, files: list[Path]) -> None:
    from playwright.sync_api import expect

    choosers: list[Any] = []
    # Long before Enter: a chooser that opens earlier than it is listened for is lost.
    tab.on("filechooser", lambda chooser: choosers.append(chooser))
    drop = tab.locator("#batch-files button").first
    expect(drop).to_be_visible()
    tab.get_by_role("tab", name="Many images").focus()
    tab.keyboard.press("Tab")
    expect(drop).to_be_focused()
    tab.wait_for_timeout(500)  # a person's pause: the page may still be taking the drop area into use
    tab.keyboard.press("Enter")
    for _ in range(200):
        if choosers:
            break
        tab.wait_for_timeout(100)
    choosers[0].set_files(files)
    expect(tab.locator("#batch-files .file-preview tr")).to_have_count(len(files))
    tab.locator("#batch-classify").focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_test_id("batch-summary")).to_be_visible()
    tab.keyboard.press("Tab")
    box = tab.get_by_role("region", name="Results of every file")
    expect(box).to_be_focused()
    tab.keyboard.press("End")
    tab.wait_for_function("document.querySelector('.dvt-batch-scroll').scrollTop > 100")
    tab.keyboard.press("Tab")
    expect(tab.locator("#batch-download")).to_be_focused()
    with tab.expect_download():
        tab.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_sideways_scrolling_on_a_phone(tab: Any, files: list[Path], scheme: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": 375, "height": 800})
    long = files[0].with_name(f"{'a_long_name_' * 12}.png")
    long.write_bytes(files[0].read_bytes())
    upload(tab, [long, *files[:6]])
    classify(tab)
    table = tab.get_by_test_id("batch-table")
    table.wait_for()
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert table.bounding_box()["x"] + table.bounding_box()["width"] <= 375
