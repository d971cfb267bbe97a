"""The page in a real browser: upload, examples, drawing and the slider, by pointer and by keyboard."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.inference import Analysis, Predictor
from app.page import build_page, launch
from app.screenshots import free_port
from tests.app.models import DIGITS, PETS, page_model

pytestmark = [pytest.mark.browser, pytest.mark.one_stack]


class Counting(Predictor):
    """A real predictor that counts its runs and says chosen things: sure of a 7, and more so at every exit."""

    runs = 0
    confidences = (0.5, 0.7, 0.9)

    def analyse(self, image_bytes: bytes) -> Analysis:
        self.runs += 1
        said = super().analyse(image_bytes)
        rows = [[c if digit == 7 else (1 - c) / 9 for digit in range(10)] for c in self.confidences]
        return Analysis(rows, said.pixels, said.milliseconds)


@pytest.fixture(scope="module")
def predictor() -> Counting:
    return Counting(page_model((7, 10, 14), DIGITS, (0.6, 0.6), image_size=112), "digits")


@pytest.fixture(scope="module")
def address(predictor: Counting) -> Iterator[str]:
    pets = Predictor(page_model((2, 3, 4, 7), PETS), "pets")
    pets.load()
    page = build_page([predictor, pets])
    yield launch(page, "127.0.0.1", free_port())
    page.close(verbose=False)


@pytest.fixture
def tab(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, open; fails afterwards if the console had other errors than those that a test knows of by its
    parameter, or anything was asked of another machine.
    """
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
    tab.wait_for_selector("[data-testid=station-1]")
    yield tab
    tab.close()
    assert [error for error in errors if not error.startswith(getattr(request, "param", ()))] == []
    assert elsewhere == []


PATIENCE = 60_000  # milliseconds, for machines that do much else at the same time


def expect_exit(tab: Any, number: int) -> None:
    from playwright.sync_api import expect

    expect(tab.get_by_test_id("exit")).to_have_text(f"exit {number} of 3")
    states = ["passed"] * (number - 1) + ["fired"] + ["skipped"] * (3 - number)
    for station, state in enumerate(states, 1):
        expect(tab.get_by_test_id(f"station-{station}")).to_have_attribute("data-state", state)


def spent(tab: Any) -> float:
    return float(tab.get_by_test_id("gflops").inner_text().split()[0])


def expect_runs(predictor: Counting, tab: Any, count: int) -> None:
    tab.wait_for_timeout(300)  # time for a run too many to show itself
    assert predictor.runs == count


def noise(path: Path, seed: int = 0) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 140, 3), np.uint8)).save(path)
    return path


def test_the_slider_by_keyboard_and_pointer(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    expect_exit(tab, 2)  # the first example, at the card's 0.6
    reading = tab.get_by_test_id("reading")
    expect(reading).to_have_text("0.60")
    at_two = spent(tab)

    slider = tab.locator("#threshold input[type=range]")
    slider.focus()
    slider.press("Home")
    expect_exit(tab, 1)
    expect(reading).to_have_text("0.00")
    at_one = spent(tab)
    slider.press("End")
    expect_exit(tab, 3)
    expect(reading).to_have_text("never early")
    expect(tab.get_by_test_id("share")).to_have_text("100%")
    at_three = spent(tab)
    assert at_one < at_two < at_three
    for _ in range(5):
        slider.press("ArrowLeft")
    expect(reading).to_have_text("0.96")

    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] - 4, middle)
    tab.mouse.down()
    for share in np.linspace(0.95, 0.3, 14):
        tab.mouse.move(box["x"] + box["width"] * share, middle)
    tab.mouse.up()
    expect_exit(tab, 1)
    grid = tab.locator("#seen-grid svg")
    expect(grid).to_have_attribute("aria-label", "Token grid of exit 1: 7×7 = 49 tokens")

    tab.get_by_role("button", name="Use the model's own").click()
    expect_exit(tab, 2)
    expect(reading).to_have_text("0.60")
    assert float(slider.input_value()) == 0.6
    assert predictor.runs == before


def test_uploads_good_and_bad(tab: Any, predictor: Counting, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    pixels = tab.locator("#seen-pixels img")
    first_seen = pixels.get_attribute("src")
    file_input = tab.locator("#upload input[type=file]")
    file_input.set_input_files(noise(tmp_path / "noise.png"))
    expect(pixels).not_to_have_attribute("src", first_seen)
    expect_exit(tab, 2)
    expect_runs(predictor, tab, before + 1)

    (tmp_path / "words.png").write_text("not an image")
    tab.get_by_label("Remove Image").click()
    tab.locator("#upload input[type=file]").set_input_files(tmp_path / "words.png")
    expect(tab.get_by_role("alert")).to_contain_text("words.png")
    expect(tab.get_by_test_id("exit")).to_have_count(0)

    tab.locator("#upload input[type=file]").set_input_files(noise(tmp_path / "other.png", seed=1))
    expect_exit(tab, 2)
    expect_runs(predictor, tab, before + 2)


PASTE = """async () => {
  const canvas = document.createElement("canvas");
  canvas.width = 90; canvas.height = 60;
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""


def test_an_image_from_the_clipboard_and_from_the_camera(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    tab.context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
    pixels = tab.locator("#seen-pixels img")
    first_seen = pixels.get_attribute("src")
    tab.evaluate(PASTE)
    tab.get_by_label("Paste from clipboard").click()
    expect(pixels).not_to_have_attribute("src", first_seen)
    expect_runs(predictor, tab, before + 1)
    pasted = pixels.get_attribute("src")
    tab.get_by_label("Remove Image").click()
    tab.get_by_label("Capture from camera").click()
    tab.get_by_text("Click to Access Webcam").click()
    tab.wait_for_function("document.querySelector('#upload video')?.videoWidth > 0")
    tab.get_by_label("capture photo").click()
    expect(pixels).not_to_have_attribute("src", pasted)
    expect_exit(tab, 2)
    expect_runs(predictor, tab, before + 2)


# Gradio asks how far an upload has come that it has just refused.
@pytest.mark.parametrize(
    "tab", [("Failed to load resource: the server responded with a status of 404", "Response")], indirect=True
)
def test_a_file_that_is_too_large_is_refused_in_words(tab: Any, predictor: Counting, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(51 * 1024 * 1024)
    tab.locator("#upload input[type=file]").set_input_files(tmp_path / "huge.png")
    expect(tab.get_by_text("exceed the maximum allowed size of 50.0 Mb").first).to_be_visible()
    expect_exit(tab, 2)
    expect_runs(predictor, tab, before)


def test_examples_by_keyboard(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    buttons = tab.locator("#examples button")
    expect(buttons).to_have_count(6)
    buttons.nth(4).focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#seen-pixels img")).to_have_attribute("src", buttons.nth(4).locator("img").get_attribute("src"))
    expect_exit(tab, 2)
    expect_runs(predictor, tab, before + 1)


def test_of_several_clicks_the_last_one_stays(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    buttons = tab.locator("#examples button")
    for number in (2, 4, 1, 3):
        buttons.nth(number).click()
    expect(tab.locator("#seen-pixels img")).to_have_attribute("src", buttons.nth(3).locator("img").get_attribute("src"))
    expect_runs(predictor, tab, before + 4)
    expect(tab.locator("#seen-pixels img")).to_have_attribute("src", buttons.nth(3).locator("img").get_attribute("src"))


def test_drawing(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    pixels = tab.locator("#seen-pixels img")
    first_seen = pixels.get_attribute("src")
    tab.get_by_role("tab", name="Draw").click()
    box = tab.locator("#pad canvas").bounding_box()
    tab.mouse.move(box["x"] + 60, box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 170, box["y"] + 50, steps=5)
    tab.mouse.move(box["x"] + 100, box["y"] + 200, steps=5)
    tab.mouse.up()
    expect(pixels).not_to_have_attribute("src", first_seen)
    expect(tab.get_by_test_id("label")).to_have_text("7")
    expect_runs(predictor, tab, before + 1)
    tab.get_by_role("button", name="Clear").click()
    expect(tab.locator("#answer")).to_contain_text("Give it an image")


def test_drawing_by_keyboard(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    tab.get_by_role("tab", name="Draw").click()
    pixels = tab.locator("#seen-pixels img")
    first_seen = pixels.get_attribute("src")
    canvas = tab.locator("#pad canvas")
    canvas.focus()
    tab.keyboard.press("Space")
    for _ in range(14):
        tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Space")
    expect(pixels).not_to_have_attribute("src", first_seen)
    expect_runs(predictor, tab, before + 1)
    dark = canvas.evaluate(
        "canvas => canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0]"
    )
    assert dark == 0


def test_a_threshold_for_each_exit(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    tab.get_by_role("button", name="Or a threshold for each exit").click()
    first, second = (tab.locator(f"#threshold-{k} input[type=range]") for k in (1, 2))
    expect(first).to_be_visible()
    tab.wait_for_timeout(500)  # a person's pause: the panel's sliders have only just come to be
    second.focus()
    tab.keyboard.press("End")
    expect_exit(tab, 3)
    expect(tab.get_by_test_id("reading")).to_have_text("0.60, then never early")
    first.focus()
    tab.keyboard.press("Home")
    expect_exit(tab, 1)
    expect(tab.get_by_test_id("reading")).to_have_text("0.00, then never early")
    tab.locator("#threshold input[type=range]").press("End")
    expect(tab.locator("#threshold input[type=range]")).to_have_attribute("aria-valuetext", "never early")
    expect(tab.locator("#answer [aria-live=polite]")).to_have_count(1)
    expect(first).to_have_value("1.01")
    expect_exit(tab, 3)
    expect_runs(predictor, tab, before)


def test_where_it_looked_is_computed_when_it_is_opened(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    maps = tab.locator("#maps img")
    expect(maps).to_have_count(0)
    panel = tab.get_by_role("button", name="Where each exit looked")
    panel.click()
    expect(maps.first).to_be_visible()
    shown = maps.first.get_attribute("src")
    tab.locator("#examples button").nth(2).click()
    expect(maps.first).not_to_have_attribute("src", shown)
    panel.click()
    expect(maps.first).to_be_hidden()


def test_the_path_and_the_time(tab: Any) -> None:
    from playwright.sync_api import expect

    expect(tab.get_by_test_id("milliseconds")).to_have_text(re.compile(r"^[\d.]+ ms$"))
    expect(tab.locator(".dvt-station .dvt-seen")).to_have_count(3)
    background = tab.locator(".dvt-seen").first.evaluate("box => getComputedStyle(box).backgroundImage")
    assert background.startswith('url("data:image/png;base64,')


def test_a_test_image_opens_in_the_first_tab_at_its_thresholds(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    first_seen = tab.locator("#seen-pixels img").get_attribute("src")
    tab.get_by_role("tab", name="See a test set").click()
    tab.wait_for_selector("#test-set input[type=range]")
    tab.locator("#test-set input[type=range]").first.press("Home")
    tab.wait_for_timeout(1000)
    tab.locator(".dvt-set-thumb:visible").first.click()
    expect(tab.locator("#seen-pixels img")).to_be_visible()
    expect(tab.locator("#seen-pixels img")).not_to_have_attribute("src", first_seen)
    expect(tab.get_by_test_id("reading").first).to_have_text("0.00")
    expect_exit(tab, 1)
    expect_runs(predictor, tab, before + 1)


def test_another_model_looks_at_the_same_image(tab: Any) -> None:
    from playwright.sync_api import expect

    pixels = tab.locator("#seen-pixels img")
    first_seen = pixels.get_attribute("src")
    tab.get_by_role("radio", name="pets").check()
    expect(pixels).not_to_have_attribute("src", first_seen)  # the same scene at 28 pixels instead of 112
    expect(tab.get_by_test_id("exit")).to_have_text("exit 4 of 4")
    expect(tab.get_by_test_id("reading")).to_have_text("never early")
    expect(tab.locator(".dvt-station")).to_have_count(4)
    expect(tab.locator("#about")).to_contain_text("cat, dog")
    expect(tab.get_by_role("tab", name="Draw")).to_be_hidden()
    expect(tab.locator("#examples")).to_be_hidden()
    tab.locator("#threshold input[type=range]").focus()
    tab.keyboard.press("Home")
    expect(tab.get_by_test_id("exit")).to_have_text("exit 1 of 4")
    tab.get_by_role("radio", name="digits").check()
    expect_exit(tab, 2)
    expect(tab.get_by_role("tab", name="Draw")).to_be_visible()
    expect(tab.locator("#examples button")).to_have_count(6)


@pytest.mark.parametrize("width", [375, 768, 1440])
def test_no_sideways_scrolling(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
