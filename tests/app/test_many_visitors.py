"""Fifty visitors at once: every one gets the answer to its own image, and what only routes does not wait for them."""

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from app.inference import Predictor, uploaded_bytes
from app.page import build_page, launch
from app.screenshots import free_port

pytestmark = pytest.mark.one_stack

VISITORS = 50


@pytest.fixture(scope="module")
def address(digits_predictor: Predictor) -> Iterator[str]:
    page = build_page([digits_predictor])
    yield launch(page, "127.0.0.1", free_port())
    page.close(verbose=False)


@pytest.mark.long
def test_fifty_at_once(address: str, digits_predictor: Predictor, tmp_path: Path) -> None:
    paths = []
    for seed in range(VISITORS):
        paths.append(tmp_path / f"{seed}.png")
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)).save(paths[-1])
    expected = [digits_predictor.analyse(uploaded_bytes(str(path))).probabilities for path in paths]
    routed: list[float] = []

    def visit(number: int) -> dict:
        client = Client(address, verbose=False, httpx_kwargs={"timeout": 300})  # fifty share two cores
        answer = client.predict(handle_file(str(paths[number])), api_name="/predict")
        start = time.perf_counter()
        again = client.predict(answer["probabilities"], answer["thresholds"], api_name="/route")
        routed.append(time.perf_counter() - start)
        assert (again["label"], again["exit"]) == (answer["label"], answer["exit"])
        return answer

    with concurrent.futures.ThreadPoolExecutor(VISITORS) as pool:
        answers = list(pool.map(visit, range(VISITORS)))
    for answer, probabilities in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-5)
    print(f"/route took {np.median(routed):.2f} s in the middle and {max(routed):.2f} s at most")
