"""The endpoint for programs, over HTTP with Gradio's own client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app.inference import Predictor
from app.page import build_page, launch
from app.screenshots import free_port
from tests.app.models import PETS, page_model, with_budgets


@pytest.fixture(scope="module")
def client(digits_predictor: Predictor) -> Iterator[Client]:
    page = build_page([digits_predictor, Predictor(with_budgets(page_model((2, 4), PETS)), "pets")])
    yield Client(launch(page, "127.0.0.1", free_port()), verbose=False)
    page.close(verbose=False)


def test_three_endpoints_are_public_and_say_what_they_take(client: Client) -> None:
    api: Any = client.view_api(return_format="dict", print_info=False)
    assert list(api["named_endpoints"]) == ["/predict", "/route", "/predict_batch"]
    assert api["unnamed_endpoints"] == {}
    parameters = {p["parameter_name"]: p for p in api["named_endpoints"]["/predict"]["parameters"]}
    assert list(parameters) == ["image", "threshold", "model", "budget"]
    assert parameters["image"]["python_type"]["type"] == "filepath"
    assert parameters["threshold"]["parameter_has_default"]
    assert parameters["model"]["parameter_has_default"]
    assert parameters["budget"]["parameter_has_default"]


def test_predict(client: Client, picture: Path) -> None:
    image = handle_file(str(picture))
    early = client.predict(image, 0.0, api_name="/predict")
    late = client.predict(image, 2.0, api_name="/predict")
    own = client.predict(image, api_name="/predict")
    assert (early["exit"], late["exit"]) == (1, 3)
    assert early["gmacs"] < late["gmacs"] == late["full_gmacs"]
    assert own["thresholds"] == [0.6, 0.4]
    assert early["probabilities"] == late["probabilities"]
    assert [len(row) for row in early["probabilities"]] == [10, 10, 10]
    assert early["label"] in early["class_names"]
    pets = client.predict(image, 0.0, "pets", api_name="/predict")
    assert pets["class_names"] == ["cat", "dog"]
    assert pets["exits"] == 2


def test_predict_within_a_budget(client: Client, picture: Path) -> None:
    image = handle_file(str(picture))
    plain = client.predict(image, model="pets", api_name="/predict")
    assert (plain["budget"], plain["note"]) == (None, "")
    half = (plain["full_gmacs"] + client.predict(image, 0.0, "pets", api_name="/predict")["gmacs"]) / 2
    within = client.predict(image, model="pets", budget=half * 1.001, api_name="/predict")
    assert within["thresholds"] == [0.9]
    assert within["budget"] == half * 1.001
    assert within["note"] == ""
    least = client.predict(image, None, "pets", 1e-9, api_name="/predict")
    assert (least["exit"], least["budget"]) == (1, 1e-9)
    assert "below what exit 1 costs" in least["note"]


def bomb(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path)  # 400 million pixels in 50 kB


def words(path: Path) -> None:
    path.write_text("not an image at all")


def cut_short(path: Path) -> None:
    Image.effect_noise((200, 200), 80).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("make", [bomb, words, cut_short])
def test_bad_files_are_refused_by_name_and_the_page_goes_on(
    client: Client, tmp_path: Path, picture: Path, make: Any
) -> None:
    path = tmp_path / "broken.png"
    make(path)
    with pytest.raises(AppError, match=r"broken\.png"):
        client.predict(handle_file(str(path)), 0.5, api_name="/predict")
    assert client.predict(handle_file(str(picture)), 0.0, api_name="/predict")["exit"] == 1


def test_bad_arguments_are_refused_in_words(client: Client, picture: Path) -> None:
    image = handle_file(str(picture))
    with pytest.raises(AppError, match=r"threshold -1\.0"):
        client.predict(image, -1.0, api_name="/predict")
    with pytest.raises(AppError, match="unknown model 'nope'"):
        client.predict(image, 0.5, "nope", api_name="/predict")
    with pytest.raises(AppError, match="either threshold or budget"):
        client.predict(image, 0.5, "pets", 0.1, api_name="/predict")
    with pytest.raises(AppError, match=r"budget is 0"):
        client.predict(image, None, "pets", 0.0, api_name="/predict")
    with pytest.raises(AppError, match="knows no thresholds for budgets"):
        client.predict(image, budget=0.1, api_name="/predict")


def test_only_uploads_are_read(client: Client, picture: Path) -> None:
    """A file of this machine, named by its path: a good picture, but not one that was uploaded."""
    call = f"{client.src.rstrip('/')}/gradio_api/call/predict"
    image = {"path": str(picture), "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(call, json={"data": [image, 0.5, None]}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=60).text
    assert "event: error" in answer
    assert "probabilities" not in answer
