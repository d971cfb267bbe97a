"""A model's test set for the page: its images in their order, its curve, and what spares running it."""

import base64
import dataclasses
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app import set_tab, set_widget, test_set
from app.inference import Predictor
from app.test_images import thumbnail
from app.test_set import TestSets, assemble, computed_results, kept_results
from dvt_tf.calibration import budget_points
from dvt_tf.checkpoints import weights_digest
from dvt_tf.digits import digit_scenes
from dvt_tf.results import ExitResults, save_results
from dvt_tf.thresholds import operate
from tests.app.models import DIGITS, PETS, page_model, with_budgets
from tests.exit_results import made_up, without_labels
from training.shard import parse_arguments, write_shards

LIMIT = 400  # a whole number of the batches in which scenes are drawn


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(with_budgets(page_model((2, 3, 4), DIGITS, (0.6, 0.4), image_size=112)), "frugal")


@pytest.fixture(scope="module")
def results(predictor: Predictor) -> ExitResults:
    """What a model that tells digits would have said of the first scenes, as results of the model above."""
    labels = digit_scenes("test", LIMIT).labels
    found = made_up(LIMIT, labels=labels, gmacs=np.array(predictor.gmacs))
    right = found.predictions == made_up(LIMIT).labels[:, None]  # type: ignore[index]
    predictions = np.where(right, labels[:, None], (labels[:, None] + 1) % 10).astype(np.int32)
    about = {"model": "frugal", "weights": weights_digest(predictor.model), "data": "digits", "split": "test"}
    return dataclasses.replace(found, predictions=predictions, about=about)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 cats and 12 dogs in its test split, in formats of two kinds."""
    root, random = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
    for label in PETS:
        (root / "test" / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
            ending = "webp" if number == 3 else "png"
            Image.fromarray(pixels).save(root / "test" / label / f"{number:02}.{ending}", lossless=True)
    return root


def picture_of(contents: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


# Results


def test_computed_results_are_of_the_first_scenes(predictor: Predictor) -> None:
    seen: list[int] = []
    found = computed_results(predictor, "digits", 200, seen.append)
    assert (len(found), sum(seen), found.num_exits) == (200, 200, 3)
    assert found.where == "digits@test"
    np.testing.assert_array_equal(found.labels, digit_scenes("test", 200).labels)
    assert found.about["weights"] == weights_digest(predictor.model)


def test_results_of_other_weights_or_data_are_passed_over(
    predictor: Predictor, results: ExitResults, tmp_path: Path
) -> None:
    others = dataclasses.replace(results, about={**results.about, "weights": "0" * 64})
    elsewhere = dataclasses.replace(results, about={**results.about, "data": "folder:/pets"})
    files = []
    for name, kept in (("others", others), ("elsewhere", elsewhere), ("own", results)):
        files.append(tmp_path / f"{name}.safetensors")
        save_results(kept, files[-1])
    assert kept_results(predictor, files[:1]) is None
    assert kept_results(predictor, []) is None
    assert kept_results(predictor, files[:2], "digits") is None
    found = kept_results(predictor, files, "digits@test")
    assert found is not None
    np.testing.assert_array_equal(found.confidences, results.confidences)
    first = kept_results(predictor, files)
    assert first is not None
    assert first.where == "folder:/pets@test"
    with pytest.raises(FileNotFoundError, match="missing"):
        kept_results(predictor, [tmp_path / "missing.safetensors"])


# The set


def test_the_curve_is_that_of_operate(predictor: Predictor, results: ExitResults) -> None:
    other = {"data": "digits@test", "exits": [{"gmacs": 2.0, "top1": 0.5, "top5": 0.9}]}
    found = assemble(predictor, results, "digits", {"other": other, "elsewhere": {**other, "data": "pets@test"}})
    points = budget_points(predictor.card)
    assert len(found.curve) == len(points) == 4
    for (_, _, thresholds), point in zip(points, found.curve, strict=True):
        expected = operate(results.confidences, results.correct, results.gmacs, np.asarray(thresholds, np.float32))
        assert (point.accuracy, point.gmacs) == (expected.accuracy, expected.gmacs)
    assert [top1 for _, top1 in found.alone] == results.top1()
    assert [gmacs for gmacs, _ in found.alone] == predictor.gmacs
    assert found.beside == {"other": [(2.0, 0.5)]}


def test_the_sprite_has_the_shown_images(predictor: Predictor, results: ExitResults) -> None:
    found = assemble(predictor, results, "digits")
    assert (len(found.shown), found.shown[0], found.shown[-1]) == (300, 0, LIMIT - 1)
    assert np.diff(found.shown).min() >= 1
    assert np.diff(found.shown).max() <= 2
    assert len(found.sprite) < 350_000
    header, _, data = found.sprite.partition(",")
    assert header == "data:image/webp;base64"
    sheet = picture_of(base64.b64decode(data)).astype(int)
    assert sheet.shape == (15 * 48, 20 * 48, 3)
    scenes = digit_scenes("test", LIMIT).images
    for place in (0, 19, 20, 299):
        row, column = divmod(place, 20)
        cell = sheet[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
        thumbnails = [thumbnail(scenes[index]).astype(int) for index in found.shown]
        distances = [np.abs(cell - one).mean() for one in thumbnails]
        assert int(np.argmin(distances)) == place


def test_an_image_is_opened_as_it_is(predictor: Predictor, results: ExitResults) -> None:
    found = assemble(predictor, results, "digits")
    scenes = digit_scenes("test", LIMIT).images
    hidden = next(index for index in range(LIMIT) if index not in found.shown)
    for index in (0, int(found.shown[7]), hidden, LIMIT - 1):
        np.testing.assert_array_equal(picture_of(found.image_bytes(index)), scenes[index])
    for index in (-1, LIMIT):
        with pytest.raises(ValueError, match="400 images, and none is number"):
            found.image_bytes(index)


def test_results_of_other_images_are_refused(predictor: Predictor, results: ExitResults) -> None:
    assert results.labels is not None
    with pytest.raises(ValueError, match="labels differ"):
        assemble(predictor, dataclasses.replace(results, labels=results.labels[::-1].copy()), "digits")
    with pytest.raises(ValueError, match="no labels"):
        assemble(predictor, dataclasses.replace(results, **without_labels(results)), "digits")


def test_a_folder(pets: Path) -> None:
    model = Predictor(page_model((2, 4), PETS), "pets")
    data = f"folder:{pets}"
    whole = computed_results(model, data, 1000)
    found = assemble(model, whole, data)
    assert len(found.shown) == len(found.results) == 24
    files = sorted((pets / "test").glob("*/*"))
    assert [found.image_bytes(index) for index in range(24)] == [file.read_bytes() for file in files]
    assert found.curve == []

    some = assemble(model, computed_results(model, data, 7), data)
    contents = [file.read_bytes() for file in files]
    chosen = [contents.index(some.image_bytes(index)) for index in range(7)]
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, 23)
    np.testing.assert_allclose(some.results.confidences, whole.confidences[chosen], atol=1e-5)

    with pytest.raises(ValueError, match="has 10"):
        assemble(model, made_up(24), "digits")
    more = made_up(30, exits=2, classes=2)
    with pytest.raises(ValueError, match="30 images, and folder"):
        assemble(model, more, data)
    (pets / "test" / "cat" / "00.png").rename(pets / "away.png")
    try:
        with pytest.raises(ValueError, match="cannot be read any more"):
            found.image_bytes(0)
    finally:
        (pets / "away.png").rename(pets / "test" / "cat" / "00.png")


def test_shards(tmp_path: Path, pets: Path) -> None:
    options = ["--data", f"folder:{pets}@test", "--out", str(tmp_path / "shards"), "--workers", "1"]
    write_shards(parse_arguments(options))
    model = Predictor(page_model((2, 4), PETS), "pets")
    data = f"shards:{tmp_path / 'shards'}"
    found = assemble(model, computed_results(model, data, 10), data)
    assert len(found.results) == len(found.shown) == 10
    for index in range(10):
        expected = model.analyse(found.image_bytes(index)).probabilities
        np.testing.assert_allclose(np.max(expected, -1), found.results.confidences[index], atol=1e-5)

    [shard] = (tmp_path / "shards").glob("*.tfrecord")
    contents = bytearray(shard.read_bytes())
    contents[len(contents) // 2] ^= 1
    shard.write_bytes(contents)
    with pytest.raises(
        ValueError, match=r"a file of the data is damaged or gone \(corrupted record at \d+\); of shards"
    ):
        computed_results(model, data, 24)


def test_a_damaged_image_is_named(pets: Path, tmp_path: Path) -> None:
    for label in PETS:
        (tmp_path / "test" / label).mkdir(parents=True)
        (tmp_path / "test" / label / "1.png").write_bytes((pets / "test" / label / "01.png").read_bytes())
    (tmp_path / "test" / "dog" / "2.png").write_bytes(b"no image")
    model = Predictor(page_model((2, 4), PETS), "pets")
    sets = TestSets([model], [f"folder:{tmp_path}"])
    with pytest.raises(ValueError, match=r"damaged or unreadable image in the data: .*2\.png"):
        sets.of("pets")


def test_every_set_is_made_once(
    predictor: Predictor, results: ExitResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_results(results, tmp_path / "own.safetensors")
    made: list[str] = []
    monkeypatch.setattr(test_set, "computed_results", lambda *_: pytest.fail("ran the model for kept results"))
    assemble_one = test_set.assemble

    def counted(predictor: Predictor, *rest: Any) -> Any:
        made.append(predictor.name)
        return assemble_one(predictor, *rest)

    monkeypatch.setattr(test_set, "assemble", counted)
    sets = TestSets([predictor], results=[tmp_path / "own.safetensors"])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(sets.of, ["frugal"] * 4))
    assert made == ["frugal"]
    assert all(one is found[0] is not None for one in found)
    assert sets.image_bytes("frugal", 3) == found[0].image_bytes(3)


def test_which_data_a_model_takes(predictor: Predictor, pets: Path) -> None:
    cats = Predictor(page_model((2, 4), PETS), "cats")
    foxes = Predictor(page_model((2, 4), ["fox", "owl"]), "foxes")
    folder = f"folder:{pets}"
    sets = TestSets([predictor, cats, foxes], [folder])
    assert sets.data_of("cats") == folder
    assert sets.data_of("frugal") == "digits"
    with pytest.raises(ValueError, match="fox"):
        sets.data_of("foxes")
    assert TestSets([foxes]).of("foxes") is None
    with pytest.raises(ValueError, match="no test set for foxes"):
        TestSets([foxes]).image_bytes("foxes", 0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TestSets([foxes], ["folder:/nowhere"]).of("foxes")


# What the browser is given


def test_the_browser_gets_the_very_numbers(predictor: Predictor, results: ExitResults) -> None:
    found = assemble(predictor, results, "digits")
    value = json.loads(set_widget.ready(found))
    sent = np.frombuffer(base64.b64decode(value["confidences"]), "<f4").reshape(results.confidences.shape)
    np.testing.assert_array_equal(sent, results.confidences)
    right = np.frombuffer(base64.b64decode(value["right"]), np.uint8)
    np.testing.assert_array_equal(np.stack([(right >> k) & 1 for k in range(3)], 1).astype(bool), results.correct)
    told = np.array([[int(value["names"][place]) for place in row] for row in value["told"]])
    assert results.labels is not None
    np.testing.assert_array_equal(told[:, 0], results.labels[found.shown])
    np.testing.assert_array_equal(told[:, 1:], results.predictions[found.shown])
    assert [preset["thresholds"] for preset in value["presets"]] == [preset.thresholds for preset in found.presets]
    assert value["gmacs"] == predictor.gmacs


def test_what_stands_in_place_of_a_set(predictor: Predictor, pets: Path) -> None:
    foxes = Predictor(page_model((2, 4), ["fox", "<script>"]), "foxes")
    progress = gr.Progress()
    value = json.loads(set_tab.prepared(TestSets([foxes]), "foxes", progress))
    assert value == {"state": "empty", "model": "foxes"}
    text = set_tab.prepared(TestSets([foxes], [f"folder:{pets}"]), "foxes", progress)
    assert "<" not in text
    assert json.loads(text)["state"] == "error"
    assert "fox" in json.loads(text)["message"]
    assert json.loads(set_widget.preparing("foxes")) == {"state": "preparing", "model": "foxes"}
