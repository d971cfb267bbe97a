"""examples/page_client.py as it is run, against a page."""

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app import api
from app.handlers import Handlers
from app.inference import Predictor
from app.page import launch
from app.screenshots import free_port
from tests.app.models import PETS, page_model, with_budgets

pytestmark = pytest.mark.one_stack

CLIENT = Path(__file__).parents[2] / "examples" / "page_client.py"
LINE = r"(\w+) \((\d\.\d{3})\), left at exit (\d) after (\S+) GFLOPs"


@pytest.fixture(scope="module")
def handlers(digits_predictor: Predictor) -> Handlers:
    return Handlers([digits_predictor, Predictor(with_budgets(page_model((2, 4), PETS)), "pets")])


def served(handlers: Handlers, **more: Any) -> Iterator[str]:
    with gr.Blocks(analytics_enabled=False) as page:
        api.add_api(handlers)
    yield launch(page, "127.0.0.1", free_port(), **more)
    page.close(verbose=False)


@pytest.fixture(scope="module")
def address(handlers: Handlers) -> Iterator[str]:
    yield from served(handlers)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures, and words between them."""
    paths = [tmp_path / f"picture {number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    paths[1].write_text("no image")
    return paths


def run(*arguments: Any, auth: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["DVT_PAGE_AUTH"] = auth
    command = [sys.executable, str(CLIENT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=CLIENT.parent)


def failed(*arguments: Any, auth: str = "") -> str:
    """The one line that it fails with."""
    ran = run(*arguments, auth=auth)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.startswith("page_client: ")
    assert ran.stderr.count("\n") == 1
    return ran.stderr


def test_it_needs_nothing_of_the_project() -> None:
    assert not re.search(r"(import|from) (dvt_tf|app|training)\b", CLIENT.read_text())


def test_one_image_and_where_it_leaves_at_other_thresholds(address: str, pictures: list[Path]) -> None:
    ran = run(pictures[0], pictures[2], "--page", address, "--threshold", "never", "--reroute", "0,never")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    starts = [f"{pictures[0]}: ", "  at 0: ", "  at never: ", f"{pictures[2]}: ", "  at 0: ", "  at never: "]
    found = [re.fullmatch(re.escape(start) + LINE, line) for start, line in zip(starts, lines, strict=True)]
    assert [match and match[3] for match in found] == ["3", "1", "3"] * 2


def test_many_images_answer_as_alone_and_bad_ones_are_told(address: str, pictures: list[Path]) -> None:
    where = ("--page", address, "--model", "pets", "--budget", "1e-9")
    alone, many = run(*pictures, *where), run(*pictures, *where, "--batch")
    assert (alone.returncode, many.returncode, alone.stderr, many.stderr) == (1, 1, "", "")
    first, bad, last = many.stdout.splitlines()
    assert [first, last] == [alone.stdout.splitlines()[at] for at in (0, 2)]
    assert bad == f"{pictures[1]}: This file is not an image, or a damaged or truncated one."
    assert alone.stdout.splitlines()[1].startswith("picture 1.png: is not an image")
    assert re.fullmatch(re.escape(f"{pictures[0]}: ") + LINE, first)


def test_more_images_than_a_call_takes(address: str, pictures: list[Path]) -> None:
    ran = run(*[pictures[0]] * 66, "--page", address, "--model", "pets", "--batch")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 66


def test_what_is_wrong_is_said_in_one_line(address: str, pictures: list[Path], tmp_path: Path) -> None:
    picture, nobody = pictures[0], f"http://127.0.0.1:{free_port()}"
    assert f"no page answers at {nobody}" in failed(picture, "--page", nobody)
    assert "python -m app" in failed(picture, "--page", nobody.removeprefix("http://"))
    assert f"{tmp_path / 'gone.png'}: no such file" in failed(tmp_path / "gone.png", "--page", address)
    assert "is a folder" in failed(tmp_path, "--page", address)
    assert "unknown model 'nope'" in failed(picture, "--page", address, "--model", "nope")
    assert "unknown model 'nope'" in failed(picture, "--page", address, "--model", "nope", "--batch")
    assert "knows no thresholds for budgets" in failed(picture, "--page", address, "--budget", "0.1")
    assert "threshold '1.5' must be a number from 0 to 1" in failed(picture, "--threshold", "1.5")
    assert "threshold 'often' must be" in failed(picture, "--reroute", "0.5,often")


def test_a_page_of_something_else(pictures: list[Path]) -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Button().click(lambda: None, api_name="other")
    address = launch(page, "127.0.0.1", free_port())
    assert "has no endpoint /predict, /predict_batch, /route" in failed(pictures[0], "--page", address)
    page.close(verbose=False)


@pytest.mark.parametrize("body", [b"<p>hello", b"[]"])
def test_a_server_of_something_else(pictures: list[Path], body: bytes) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "is no page of Gradio's" in failed(pictures[0], "--page", f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_page_that_asks_who_is_there(handlers: Handlers, pictures: list[Path]) -> None:
    for address in served(handlers, auth=("me", "secret")):
        assert "asks for a name and a password" in failed(pictures[0], "--page", address)
        assert "refuses this name and password" in failed(pictures[0], "--page", address, auth="me:wrong")
        ran = run(pictures[0], "--page", address, auth="me:secret")
        assert (ran.returncode, ran.stderr) == (0, "")
