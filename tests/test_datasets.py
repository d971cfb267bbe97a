"""Data sets: what a SPEC means, which split a file is in for good, and labels that are the card's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf import datasets, digits, image_files, preprocessing
from dvt_tf.datasets import DataSpec
from tests import images

pytestmark = pytest.mark.one_stack

COLOURS = {"blue": (0, 0, 255), "green": (0, 200, 0), "red": (255, 0, 0)}
CARD = {**images.card(), "class_names": ["red", "green", "blue"]}  # not in the folders' order


def make_folder(root: Path, split: str, count: int, kind: str = "PNG") -> None:
    """`count` pictures of each colour; the picture's brightness tells which it is."""
    for name, colour in COLOURS.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.zeros((9, 12, 3), np.uint8) + np.array(colour, np.uint8) // (1 + number % 3)
            contents = images.file_bytes(images.Image.fromarray(pixels), kind)
            (folder / f"{number:03}.{kind.lower()}").write_bytes(contents)
        (folder / "notes.txt").write_text("not an image")


def batches(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    parts = list(dataset.as_numpy_iterator())
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("digits", DataSpec("digits")),
        ("digits@val", DataSpec("digits", "", "val")),
        ("folder:/some/where", DataSpec("folder", "/some/where")),
        ("folder:some@where/else@test", DataSpec("folder", "some@where/else", "test")),
        ("tfds:cifar10@train", DataSpec("tfds", "cifar10", "train")),
        ("images:/some/where", DataSpec("images", "/some/where")),
    ],
)
def test_specs(text: str, spec: DataSpec) -> None:
    assert datasets.parse_spec(text) == spec
    assert str(spec) == text


def test_a_folder_is_written_in_one_way() -> None:
    for kind in ("folder", "shards", "images"):
        assert str(datasets.parse_spec(f"{kind}:some//./where/@val")) == f"{kind}:some/where@val"
    assert str(datasets.parse_spec("tfds:a/b/")) == "tfds:a/b/"  # no path


def test_an_at_sign_may_belong_to_a_folder_that_exists(tmp_path: Path) -> None:
    folder = tmp_path / "data@val"
    folder.mkdir()
    assert datasets.parse_spec(f"folder:{folder}") == DataSpec("folder", str(folder))
    assert datasets.parse_spec(f"folder:{folder}@test") == DataSpec("folder", str(folder), "test")
    assert datasets.parse_spec(f"images:{folder}") == DataSpec("images", str(folder))
    assert datasets.parse_spec(f"shards:{folder}/") == DataSpec("shards", str(folder))
    assert datasets.without_split(f"folder:{folder}@test") == f"folder:{folder}"


@pytest.mark.parametrize(
    "text", ["", "mnist", "digits:x", "dir:/x", "@val", "folder", "folder:", "images:", "tfds:@val"]
)
def test_unknown_data_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match="digits, shapes, folder:PATH, shards:PATH, tfds:NAME or images:PATH"):
        datasets.parse_spec(text)


def test_unknown_splits_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown split 'dev' of .*train, val, calibration, test"):
        datasets.parse_spec("digits@dev")
    with pytest.raises(ValueError, match="unknown split 'dev' of digits"):
        datasets.load("digits", "dev", CARD, 8)


@pytest.mark.long
def test_folder_images_and_labels_are_the_cards(tmp_path: Path) -> None:
    make_folder(tmp_path, "train", 4, "JPEG")
    make_folder(tmp_path, "val", 5)
    dataset = datasets.load(f"folder:{tmp_path}@train", None, CARD, 5)
    assert dataset.element_spec[0].shape.as_list() == [None, images.SIZE, images.SIZE, 3]
    assert dataset.element_spec[1].dtype == tf.int32
    assert [len(labels) for _, labels in dataset] == [5, 5, 2]
    prepared, labels = batches(dataset)
    assert labels.tolist() == [2] * 4 + [1] * 4 + [0] * 4  # folders by name: blue, green, red
    contents = [path.read_bytes() for path in sorted((tmp_path / "train").glob("*/*.jpeg"))]
    np.testing.assert_array_equal(prepared, preprocessing.preprocess(contents, CARD)[0])
    again, _ = batches(dataset)
    np.testing.assert_array_equal(prepared, again)


def test_other_formats_in_a_folder_are_read_too(tmp_path: Path) -> None:
    make_folder(tmp_path, "train", 1, "WEBP")
    prepared, labels = batches(datasets.load(f"folder:{tmp_path}", "train", CARD, 8))
    assert labels.tolist() == [2, 1, 0]
    assert np.abs(prepared).max() > 0.1
    assert prepared[2, ..., 0].mean() > prepared[0, ..., 0].mean() + 1  # red is redder than blue


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, "train", 4)
    good = tmp_path / "train" / "green" / "002.png"
    bad = good.rename(good.with_name("002 [é] 'x' \\ .png"))
    bad.write_bytes(bad.read_bytes()[:-20])
    dataset = datasets.load(f"folder:{tmp_path}", "train", CARD, 3)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        batches(dataset)
    message = datasets.damaged_data_message(caught.value)
    assert message == f"damaged or unreadable image in the data: {bad}"
    assert datasets.damaged_data_message(ValueError("another")) is None


def test_classes_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, "val", 2)
    card = {**CARD, "class_names": ["red", "green", "white", "black"]}
    with pytest.raises(
        ValueError, match=r"3 classes, the model 4: .* 1 that the model has not \(blue\).*2 .*\(black, white\)"
    ):
        datasets.load(f"folder:{tmp_path}", "val", card, 4)
    with pytest.raises(ValueError, match="digits has 10 classes, the model 3"):
        datasets.load("digits", "val", CARD, 4)


def test_folders_that_hold_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        datasets.load(f"folder:{tmp_path}/nowhere", "val", CARD, 4)
    with pytest.raises(FileNotFoundError, match=r"val: no such folder; images are looked for in .*val/CLASS/"):
        datasets.load(f"folder:{tmp_path}", "test", CARD, 4)
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="no class folder"):
        datasets.load(f"folder:{tmp_path}", "val", CARD, 4)
    (tmp_path / "val" / "red").mkdir()
    with pytest.raises(ValueError, match="no image found for split 'val'"):
        datasets.load(f"folder:{tmp_path}", "val", CARD, 4)
    with pytest.raises(ValueError, match="names no split; add @SPLIT"):
        datasets.load("digits", None, CARD, 4)
    with pytest.raises(ValueError, match="batch size is 0"):
        datasets.load("digits", "val", CARD, 0)


def test_folders_may_be_named_by_the_ids_of_the_classes(tmp_path: Path) -> None:
    # As ImageNet's are: n01440764 and so on.
    make_folder(tmp_path, "test", 1)
    for number, name in enumerate(sorted(COLOURS)):
        (tmp_path / "test" / name).rename(tmp_path / "test" / f"n{number}")  # n0 blue, n1 green, n2 red
    card = {**CARD, "class_ids": ["n2", "n1", "n0"]}  # red, green, blue
    assert batches(datasets.load(f"folder:{tmp_path}", "test", card, 8))[1].tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match=r"3 classes, the model 3: .* 3 that the model has not \(n0, n1, n2\)"):
        datasets.load(f"folder:{tmp_path}", "test", CARD, 8)
    (tmp_path / "test" / "n3").mkdir()
    with pytest.raises(ValueError, match=r"4 classes, the model 3: it has 1 that the model has not \(n3\)$"):
        datasets.load(f"folder:{tmp_path}", "test", card, 8)


def test_class_names(tmp_path: Path) -> None:
    make_folder(tmp_path, "val", 1)
    assert datasets.class_names(f"folder:{tmp_path}") == ("blue", "green", "red")
    assert datasets.class_names("digits") == tuple("0123456789")


def test_images_without_labels(tmp_path: Path) -> None:
    make_folder(tmp_path, "b", 2)
    make_folder(tmp_path, "a", 1, "WEBP")
    spec = f"images:{tmp_path}"
    assert not datasets.is_labelled(spec)
    assert datasets.is_labelled("digits")
    prepared, labels = batches(datasets.load(spec, "calibration", CARD, 4))
    assert labels.tolist() == [-1] * 9
    assert prepared.shape == (9, images.SIZE, images.SIZE, 3)
    contents = image_files.read_image_bytes(tmp_path / "a" / "blue" / "000.webp")
    first, _ = preprocessing.preprocess([contents], CARD)
    np.testing.assert_array_equal(prepared[:1], first)
    for split in ("train", "val", "test"):
        with pytest.raises(ValueError, match="has no labels and no splits"):
            datasets.load(spec, split, CARD, 4)
    with pytest.raises(ValueError, match="has no labels, and so no classes"):
        datasets.class_names(spec)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        datasets.load(f"images:{tmp_path}/nowhere", "calibration", CARD, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image found"):
        datasets.load(f"images:{tmp_path}/empty", "calibration", CARD, 4)


@pytest.mark.long
def test_sources_are_those_of_the_scenes() -> None:
    assert datasets.sources("folder:x", "val") is None
    found = datasets.sources("digits", "calibration")
    assert found is not None
    assert (found.shape, len(np.unique(found))) == ((4000,), 250)
    np.testing.assert_array_equal(found[:300], digits.digit_scenes("calibration", 300).source)


def test_digits_are_the_scenes_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = digits.digit_scenes("val", size=10)
    ten = digits.DIGITS._replace(split_scenes=lambda split, size: scenes)
    monkeypatch.setitem(datasets.EMBEDDED, "digits", ten)
    card = {**images.card(image_size=112), "class_names": [str(digit) for digit in range(9, -1, -1)]}
    prepared, labels = batches(datasets.load("digits@test", "val", card, 4))
    np.testing.assert_array_equal(prepared, preprocessing.normalise(scenes.images, card))
    np.testing.assert_array_equal(labels, 9 - scenes.labels)
    smaller, _ = batches(datasets.load("digits", "val", {**card, **images.card()}, 16))
    assert smaller.shape == (10, images.SIZE, images.SIZE, 3)


@pytest.mark.long
def test_tfds_reads_the_same_pixels_in_the_same_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")  # TensorFlow Datasets needs it to read anything, and does not say so

    class ThreeColours(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=sorted(COLOURS))}
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples(3), "test": self._generate_examples(40)}

        def _generate_examples(self, count: int) -> Any:
            for name, colour in COLOURS.items():
                for number in range(count):
                    pixels = np.zeros((9, 12, 3), np.uint8) + np.array(colour, np.uint8)
                    yield f"{name}{number}", {"image": pixels, "label": name}

    real = tfds.builder

    def builder(name: str) -> Any:
        return ThreeColours(data_dir=tmp_path) if name == "three_colours" else real(name)

    monkeypatch.setattr(tfds, "builder", builder)
    assert datasets.class_names("tfds:three_colours") == ("blue", "green", "red")
    prepared, labels = batches(datasets.load("tfds:three_colours", "train", CARD, 4))
    assert sorted(labels.tolist()) == [0] * 3 + [1] * 3 + [2] * 3
    for image, label in zip(prepared, labels, strict=True):
        name = CARD["class_names"][label]
        expected = preprocessing.normalise(np.array(COLOURS[name], np.uint8), CARD)
        np.testing.assert_array_equal(image[5, 5], expected)
    counts = {split: len(batches(datasets.load("tfds:three_colours", split, CARD, 50))[1]) for split in datasets.SPLITS}
    assert counts["val"] + counts["calibration"] + counts["test"] == 120
    assert counts["calibration"] > counts["val"] > 0
    with pytest.raises(ValueError, match="has no data set of that name"):
        datasets.load("tfds:no_such_thing", "val", CARD, 4)
