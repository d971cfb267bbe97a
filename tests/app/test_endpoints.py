"""The endpoints for programs, over HTTP with Gradio's own client: stored probabilities, many images, bad calls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app import api
from app.choices import chosen_thresholds, is_number
from app.handlers import Handlers
from app.inference import Predictor
from app.page import launch
from app.screenshots import free_port
from dvt_tf.exit_rule import NEVER
from tests.app.models import PETS, page_model, with_budgets


@pytest.fixture(scope="module")
def handlers(digits_predictor: Predictor) -> Handlers:
    return Handlers([digits_predictor, Predictor(with_budgets(page_model((2, 4), PETS, [0.9])), "pets")])


@pytest.fixture(scope="module")
def address(handlers: Handlers) -> Iterator[str]:
    with gr.Blocks(analytics_enabled=False) as page:
        api.add_api(handlers)
    yield launch(page, "127.0.0.1", free_port())
    page.close(verbose=False)


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures, and words in place of the second."""
    paths = [tmp_path / f"picture {number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 60 + 9 * number, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    paths[1].write_text("no image")
    return paths


def test_the_endpoints_say_what_they_take_and_give(client: Client) -> None:
    shown: Any = client.view_api(return_format="dict", print_info=False)
    assert shown["unnamed_endpoints"] == {}
    taken = {
        name: {p["parameter_name"]: p["parameter_has_default"] for p in endpoint["parameters"]}
        for name, endpoint in shown["named_endpoints"].items()
    }
    optional = {"threshold": True, "model": True, "budget": True}
    assert taken == {
        "/predict": {"image": False, **optional},
        "/route": {"probabilities": False, "thresholds": False, "model": True},
        "/predict_batch": {"images": False, **optional},
    }
    (_, _, many) = shown["named_endpoints"].values()
    assert many["parameters"][0]["python_type"]["type"] == "list[filepath]"
    for endpoint in shown["named_endpoints"].values():
        assert "Args:" in endpoint["description"]
        assert "Returns:" in endpoint["description"]
        for parameter in endpoint["parameters"]:
            assert f"{parameter['parameter_name']}: " in endpoint["description"]


@pytest.mark.long
def test_route_decides_as_predict_does_and_runs_no_model(
    client: Client, handlers: Handlers, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = handle_file(str(pictures[0]))
    said = {threshold: client.predict(image, threshold, api_name="/predict") for threshold in (0.0, 0.2, 2.0)}
    monkeypatch.setattr(handlers.first, "analyse", lambda *given: pytest.fail("the model was run"))
    for threshold, answer in said.items():
        again = client.predict(answer["probabilities"], threshold, api_name="/route")
        assert again == {key: answer[key] for key in again}
        assert list(again) == ["label", "confidence", "exit", "gmacs", "full_gmacs", "thresholds"]
    each = client.predict(said[0.0]["probabilities"], [2.0, 0.0], api_name="/route")
    assert (each["exit"], each["thresholds"]) == (2, [NEVER, 0.0])
    pets = client.predict([[0.8, 0.2], [0.1, 0.9]], [0.7], "pets", api_name="/route")
    assert (pets["label"], pets["exit"]) == ("cat", 1)
    assert pets["confidence"] == pytest.approx(0.8)
    assert client.predict([[0.8, 0.2], [0.1, 0.9]], 7, "pets", api_name="/route")["label"] == "dog"


GOOD = [[0.8, 0.2], [0.1, 0.9]]


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "model", "said"),
    [
        (None, 0.5, "pets", "probabilities must be 2 lists.*of 2 numbers from 0 to 1.*no list"),
        ("0.8", 0.5, "pets", "no list"),
        ({"a": 1}, 0.5, "pets", "no list"),
        (GOOD[:1], 0.5, "pets", "there are 1"),
        ([[0.8, 0.2], [0.1]], 0.5, "pets", "number 2 is of 1"),
        ([0.8, 0.2], 0.5, "pets", "number 1 is no list"),
        ([[0.8, 0.2], [0.1, 1.1]], 0.5, "pets", "number 2 has something else"),
        ([[0.8, True], [0.1, 0.9]], 0.5, "pets", "number 1 has something else"),
        ([["0.8", 0.2], [0.1, 0.9]], 0.5, "pets", "number 1 has something else"),
        (GOOD, None, "pets", "thresholds must be numbers"),
        (GOOD, "never", "pets", "thresholds must be numbers"),
        (GOOD, -0.1, "pets", "thresholds must be numbers"),
        (GOOD, [[0.5]], "pets", "thresholds must be numbers"),
        (GOOD, True, "pets", "thresholds must be numbers"),
        (GOOD, [], "pets", "0 thresholds were given: pets has 2 exits"),
        (GOOD, [0.5, 0.5], "pets", "2 thresholds were given: pets has 2 exits"),
        (GOOD, 0.5, "nope", "unknown model 'nope'"),
        (GOOD, 0.5, None, "probabilities must be 3 lists"),
    ],
)
def test_bad_probabilities_and_thresholds_are_refused_in_words(
    client: Client, probabilities: Any, thresholds: Any, model: str | None, said: str
) -> None:
    with pytest.raises(AppError, match=said):
        client.predict(probabilities, thresholds, model, api_name="/route")


def test_a_number_is_finite_and_at_least_0() -> None:
    assert [value for value in (0, 0.5, 1, 10**400) if not is_number(value)] == []
    nothing = (-1, -0.1, float("nan"), float("inf"), True, "1", None, [1])
    assert [value for value in nothing if is_number(value)] == []


def test_a_model_of_one_exit_takes_any_threshold_or_none() -> None:
    one = Handlers([Predictor(page_model((4,), PETS), "one")])
    for thresholds in (0.5, []):
        assert api.route(one, [[0.3, 0.7]], thresholds)["label"] == "dog"
    with pytest.raises(ValueError, match="1 thresholds were given: one has 1 exits"):
        api.route(one, [[0.3, 0.7]], [0.5])
    assert chosen_thresholds(one, 0.5, None, None).thresholds == []


@pytest.mark.long
def test_predict_batch_says_of_each_file_what_predict_says_of_it_alone(client: Client, pictures: list[Path]) -> None:
    files = [handle_file(str(path)) for path in pictures]
    for options in ({}, {"threshold": 0.0}, {"threshold": 0.2}, {"model": "pets", "budget": 1e-9}):
        answers = client.predict(images=files, **options, api_name="/predict_batch")
        assert [answer["file"] for answer in answers] == [path.name for path in pictures]
        assert [answer["error"] is None for answer in answers] == [True, False, True, True]
        for file, answer in zip(files, answers, strict=True):
            assert list(answer) == ["file", "label", "confidence", "exit", "gmacs", "error"]
            if answer["error"] is not None:
                assert answer["error"] == "This file is not an image, or a damaged or truncated one."
                assert [answer[key] for key in ("label", "confidence", "exit", "gmacs")] == [None] * 4
                continue
            alone = client.predict(image=file, **options, api_name="/predict")
            assert [answer[key] for key in ("label", "exit", "gmacs")] == [alone[k] for k in ("label", "exit", "gmacs")]
            assert answer["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)


def test_bad_calls_of_predict_batch_are_refused_in_words(client: Client, pictures: list[Path]) -> None:
    files = [handle_file(str(path)) for path in pictures[:1]]

    def refused(said: str, *given: Any) -> None:
        with pytest.raises(AppError, match=said):
            client.predict(*given, api_name="/predict_batch")

    refused("no images were given", [])
    refused("no images were given", None)
    refused("65 files are too many: give at most 64 at a time", files * 65)
    refused("^give a list of uploaded files$", "words.png")
    refused("threshold -1", files, -1)
    refused("threshold 'half'", files, "half")
    refused("budget 'half'", files, None, "pets", "half")
    refused("either threshold or budget", files, 0.5, "pets", 0.1)
    refused("unknown model 'nope'", files, 0.5, "nope")
    refused("knows no thresholds for budgets", files, None, None, 0.1)
    assert len(client.predict(files[0], api_name="/predict_batch")) == 1  # one file counts as a list of one


def test_only_uploads_are_read(address: str, pictures: list[Path]) -> None:
    call = f"{address.rstrip('/')}/gradio_api/call/predict_batch"
    files = [{"path": str(pictures[0]), "meta": {"_type": "gradio.FileData"}}]
    event = httpx.post(call, json={"data": [files, 0.5, None, None]}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=60).text
    assert "event: error" in answer
    assert "label" not in answer


def test_a_file_is_called_as_its_caller_calls_it_and_its_folder_is_not_told(address: str, pictures: list[Path]) -> None:
    stored = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", pictures[0].read_bytes())}).json()
    call = f"{address}gradio_api/call/predict_batch"
    file = {"path": stored[0], "orig_name": "../holiday?.png", "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(call, json={"data": [[file], 0.5, None, None]}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=60).text
    assert '"holiday?.png"' in answer
    assert "gradio/" not in answer


def test_two_clients_in_turns_see_nothing_of_each_other(address: str, pictures: list[Path]) -> None:
    first, second = Client(address, verbose=False), Client(address, verbose=False)
    image, files = handle_file(str(pictures[0])), [handle_file(str(path)) for path in pictures]

    def calls(client: Client, threshold: float, model: str | None) -> list[Any]:
        return [
            client.submit(image, threshold, model, api_name="/predict"),
            client.submit(files, threshold, model, api_name="/predict_batch"),
            client.submit(GOOD, threshold, "pets", api_name="/route"),
        ]

    for _ in range(2):  # the first call of a shape may differ from all later ones in float32's last digit
        alone = [
            [job.result() for job in calls(client, threshold, model)]
            for client, threshold, model in ((first, 0.0, None), (second, 2.0, "pets"))
        ]
    jobs = [(calls(first, 0.0, None), calls(second, 2.0, "pets")) for _ in range(4)]
    for pair in jobs:
        assert [[job.result() for job in some] for some in pair] == alone
    assert [alone[0][0]["exit"], alone[1][0]["exit"]] == [1, 2]
