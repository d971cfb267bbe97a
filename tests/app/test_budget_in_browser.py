"""The budget slider in a real browser: opened and moved by keyboard, and never a stale word beside it."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.inference import Predictor
from app.page import build_page, launch
from app.screenshots import free_port
from tests.app.models import DIGITS, PETS, page_model, with_budgets
from tests.integration import test_page_in_browser as page_in_browser
from tests.integration.test_page_in_browser import Counting, expect_exit, expect_runs

pytestmark = [pytest.mark.browser, pytest.mark.one_stack]

tab = page_in_browser.tab


@pytest.fixture(scope="module")
def predictor() -> Counting:
    return Counting(with_budgets(page_model((7, 10, 14), DIGITS, (0.6, 0.6), image_size=112)), "digits")


@pytest.fixture(scope="module")
def address(predictor: Counting) -> Iterator[str]:
    pets = Predictor(with_budgets(page_model((2, 3, 4, 7), PETS), "agreement"), "pets")
    pets.load()
    plain = Predictor(page_model((2, 4), PETS), "plain")
    page = build_page([predictor, pets, plain])
    yield launch(page, "127.0.0.1", free_port())
    page.close(verbose=False)


def budget_slider(tab: Any) -> Any:
    return tab.locator("#budget input[type=range]")


def open_by_keyboard(tab: Any) -> None:
    from playwright.sync_api import expect

    expect(budget_slider(tab)).to_be_hidden()
    tab.locator("#threshold input[type=range]").focus()
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("button", name="Or a threshold for each exit")).to_be_focused()
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("button", name="Or choose by budget")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(budget_slider(tab)).to_be_visible()
    tab.wait_for_timeout(500)  # a person's pause: a slider that has just come to be may take its first value once more


def test_by_keyboard_without_running_the_model(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    open_by_keyboard(tab)
    reading, said = tab.get_by_test_id("reading"), tab.get_by_test_id("budget-reading")
    expect(said).to_contain_text("No budget in use")
    expect_exit(tab, 2)

    tab.keyboard.press("Tab")
    expect(budget_slider(tab)).to_be_focused()
    tab.keyboard.press("Home")
    expect_exit(tab, 1)
    expect(said).to_contain_text("every image leaves at exit 1")
    expect(said).to_contain_text("expected 60.0% top-1")
    for _ in range(6):
        tab.keyboard.press("ArrowRight")
    expect_exit(tab, 2)
    expect(said).to_contain_text("expected 75.0% top-1, thresholds 0.80, then 0.60")
    expect(reading).to_have_text("0.80, then 0.60")
    assert float(tab.locator("#threshold input[type=range]").input_value()) == 0.8
    tab.keyboard.press("End")
    expect_exit(tab, 3)
    expect(said).to_contain_text("100% of the full cascade")
    expect(said).to_contain_text("every image runs the full cascade")
    tab.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("expected 88.5% top-1, thresholds 0.90, then 0.84")
    expect_runs(predictor, tab, before)


def test_another_way_to_set_the_thresholds_ends_the_budget(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    open_by_keyboard(tab)
    said = tab.get_by_test_id("budget-reading")
    others = (
        ("Home", lambda: tab.locator("#threshold input[type=range]").press("ArrowRight")),
        ("End", lambda: tab.get_by_role("button", name="Use the model's own").click()),
    )
    for key, change in others:
        budget_slider(tab).press(key)
        expect(said).to_contain_text("GFLOPs per image on average")
        tab.wait_for_timeout(500)  # a person's pause: Gradio puts events of different controls in no order
        change()
        expect(said).to_contain_text("No budget in use")
        expect(said).not_to_contain_text("GFLOPs")


def test_a_budget_holds_for_the_next_image(tab: Any, predictor: Counting) -> None:
    from playwright.sync_api import expect

    before = predictor.runs
    open_by_keyboard(tab)
    budget_slider(tab).press("Home")
    expect_exit(tab, 1)
    buttons = tab.locator("#examples button")
    buttons.nth(3).click()
    expect(tab.locator("#seen-pixels img")).to_have_attribute("src", buttons.nth(3).locator("img").get_attribute("src"))
    expect_exit(tab, 1)
    expect(tab.get_by_test_id("budget-reading")).to_contain_text("every image leaves at exit 1")
    expect_runs(predictor, tab, before + 1)


def test_every_model_has_its_own_budgets_or_none(tab: Any) -> None:
    from playwright.sync_api import expect

    open_by_keyboard(tab)
    said = tab.get_by_test_id("budget-reading")
    budget_slider(tab).press("Home")
    expect(said).to_contain_text("GFLOPs per image on average")
    tab.get_by_role("radio", name="pets").check()
    expect(tab.get_by_test_id("exit")).to_have_text("exit 4 of 4")
    expect(said).to_contain_text("No budget in use")
    budget_slider(tab).press("Home")
    expect(tab.get_by_test_id("exit")).to_have_text("exit 1 of 4")
    expect(said).to_contain_text("answers as the full cascade for 60.0%")
    tab.get_by_role("radio", name="plain").check()
    expect(tab.locator("#about")).to_contain_text("plain")
    expect(tab.locator("#budget-panel")).to_be_hidden()
    expect(tab.locator("#threshold")).to_be_visible()
    tab.get_by_role("radio", name="digits").check()
    expect(tab.locator("#budget-panel")).to_be_visible()
    expect_exit(tab, 2)


@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_moves_while_the_budget_does(tab: Any, width: int) -> None:
    from playwright.sync_api import expect

    tab.set_viewport_size({"width": width, "height": 800})
    open_by_keyboard(tab)
    said, slider = tab.get_by_test_id("budget-reading"), budget_slider(tab)
    tops = set()
    for key, words in (("Home", "60.0%"), ("PageUp", "75.0%"), ("End", "91.0%"), ("ArrowLeft", "88.5%")):
        slider.press(key)
        expect(said).to_contain_text(words)
        tops.add(slider.evaluate("slider => Math.round(slider.getBoundingClientRect().top + window.scrollY)"))
    assert max(tops) - min(tops) <= 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
