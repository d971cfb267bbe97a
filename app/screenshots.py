"""`python -m app.screenshots`: the page's pictures for the README, and one that moves, taken in a headless Chromium."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from app.__main__ import DEFAULT_MODEL, fail

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # root in a container has no sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH, HEIGHT = 1280, 900  # CSS pixels
TIMEOUT = 120_000  # milliseconds
SCALE = 1  # device pixels per CSS pixel: noise compresses badly, and a README shows them no larger
CAPTURE_WIDTH, COLOURS = 760, 192  # of the moving picture
STEPS = [*range(30, 101, 5), 101]  # of its slider, in hundredths
FRAME, LAST_FRAME = 220, 1800  # milliseconds


def main(argv: Sequence[str] | None = None) -> None:
    """Starts the page, clicks an easy and a hard example, and writes what is seen."""
    parser = argparse.ArgumentParser(prog="python -m app.screenshots", description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"model folder or preset (default {DEFAULT_MODEL})")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default docs/images)")
    options = parser.parse_args(argv)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        fail("screenshots need playwright: pip install -r requirements-dev.txt")
    browser_path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser_path is None:
        fail(f"screenshots need a browser: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt install chromium)")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    from app.inference import load_all
    from app.kept import kept_sets
    from app.page import build_page, launch

    try:
        predictors = load_all([options.model])
        page = build_page(predictors, kept_sets(predictors))
    except (ValueError, FileNotFoundError) as error:
        fail(f"--model: {error}")
    address = launch(page, "127.0.0.1", free_port())
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(BROWSER_ARGUMENTS))
        for path in take(browser, address, options.out):
            print(path)
        browser.close()
    page.close(verbose=False)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take(browser: Any, address: str, folder: Path) -> list[Path]:
    """Writes page.png (an easy image), page_hard.png (one that leaves last, and where the exits looked), page_set.png,
    page.gif (the test set while the slider moves), page_dark.png and page_phone.png.
    """
    written = []

    def shoot(name: str, tab: Any) -> None:
        tab.wait_for_timeout(600)  # the bars move for a fifth of a second
        tab.screenshot(path=folder / name, full_page=True, animations="disabled")
        written.append(folder / name)

    def exit_of(tab: Any, example: int) -> int:
        # The model has run, and what it said was routed, when the second of the two requests is answered.
        with tab.expect_response(lambda response: response.url.endswith("/run/predict")):
            tab.locator("#examples button").nth(example).click()
        tab.wait_for_timeout(600)
        return int(tab.locator("[data-state=fired] .dvt-marker").inner_text())

    tab = open_page(browser, address, WIDTH, HEIGHT, "light")
    exits = [exit_of(tab, example) for example in range(tab.locator("#examples button").count())]
    exit_of(tab, exits.index(min(exits)))
    shoot("page.png", tab)
    latest = exits.index(max(exits))
    exit_of(tab, latest)
    open_looking(tab)
    shoot("page_hard.png", tab)
    open_test_set(tab)
    shoot("page_set.png", tab)
    written.append(capture(tab, folder / "page.gif"))
    dark = open_page(browser, address, WIDTH, HEIGHT, "dark")
    exit_of(dark, latest)
    shoot("page_dark.png", dark)
    shoot("page_phone.png", open_page(browser, address, 375, 812, "light"))
    return written


def open_looking(tab: Any) -> None:
    """Opens the panel of where each exit looked, and waits for its maps."""
    tab.locator("#looking button").first.click()
    tab.wait_for_selector("#maps img")


def open_test_set(tab: Any) -> None:
    """Opens the second tab, and waits for its images."""
    tab.get_by_role("tab", name="See a test set").click()
    tab.wait_for_selector("#test-set input[type=range]")
    tab.wait_for_timeout(1500)


def capture(tab: Any, path: Path) -> Path:
    """The second tab while its slider moves from low to high, as an animated GIF."""
    slider = tab.locator("#test-set input[type=range]").first
    frames = []
    for step in STEPS:
        slider.evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
            step / 100,
        )
        tab.wait_for_timeout(700)  # until the images have come to rest
        shot = Image.open(io.BytesIO(tab.locator("#test-set").screenshot())).convert("RGB")
        shot = shot.resize((CAPTURE_WIDTH, round(shot.height * CAPTURE_WIDTH / shot.width)), Image.Resampling.LANCZOS)
        frames.append(shot)
    palette = frames[len(frames) // 2].quantize(COLOURS)  # one for all, so that nothing flickers
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME] * (len(frames) - 1) + [LAST_FRAME]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return path


def open_page(browser: Any, address: str, width: int, height: int, scheme: str) -> Any:
    """A tab of that size and colour scheme that shows the page's first answer."""
    tab = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=SCALE, color_scheme=scheme)
    tab.set_default_timeout(TIMEOUT)
    tab.goto(address)
    tab.wait_for_selector("[data-testid=station-1]")
    return tab


if __name__ == "__main__":
    main()
