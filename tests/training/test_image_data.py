"""Batches of image files: every image once a pass, the same from any step on, and what is damaged or does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.cascade import default_card
from dvt_tf.datasets import parse_spec
from dvt_tf.presets import CascadeConfig
from tests.training.folders import CLASSES, RECIPE, SMALL, make_folder
from training import shard, sources
from training.augment import Augmentation
from training.damaged import DamagedImages
from training.image_data import ImageData
from training.recipe import Recipe
from training.schedule import Plan

pytestmark = pytest.mark.one_stack

CONFIG = CascadeConfig(**{**SMALL, "num_classes": 3})
CARD = default_card(CONFIG, CLASSES)
FULL = Augmentation(
    crop="random_resized", flip=True, randaugment="rand-m9-mstd0.5-inc1", erase=0.25, mixup=0.8, cutmix=1.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=["folder", "shards"])
def spec(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "folder":
        return f"folder:{folder}"
    out = tmp_path_factory.mktemp("shards") / "set"
    assert shard.main(["--data", f"folder:{folder}", "--out", str(out), "--shard-mb", "0.001", "--workers", "1"]) == 0
    return f"shards:{out}"


def batches_of(
    spec: str, recipe: Recipe, first_step: int = 0, **part: int
) -> tuple[ImageData, list[tuple[np.ndarray, dict[str, np.ndarray]]]]:
    data = ImageData(recipe, parse_spec(spec))
    plan = Plan.of(recipe, data.count)
    return data, list(data.batches(CONFIG, CARD, plan, first_step, **part).as_numpy_iterator())


def identities(batches: list[Any]) -> list[tuple[int, int]]:
    """Of every image, without augmentation, its class and its level."""
    found = []
    for images, targets in batches:
        for image, target in zip(images, targets["exit_1"], strict=True):
            label = int(target.argmax())
            pixel = np.round((image[14, 14] * 0.5 + 0.5) * 255).astype(int)
            assert pixel[label] == 255
            found.append((label, int(pixel[(label + 1) % 3])))
    return found


@pytest.mark.long
def test_every_pass_has_every_image_once_in_another_order(spec: str) -> None:
    data, batches = batches_of(spec, dataclasses.replace(RECIPE, batch_size=7))
    assert data.count == 21
    assert data.classes == CLASSES
    seen = identities(batches)
    passes = [seen[start : start + 21] for start in range(0, 63, 21)]
    assert len(seen) == 63
    assert all(len(set(one)) == 21 for one in passes)
    assert passes[0] != passes[1] != passes[2]
    again = identities(batches_of(spec, dataclasses.replace(RECIPE, batch_size=7))[1])
    assert again == seen
    other = identities(batches_of(spec, dataclasses.replace(RECIPE, batch_size=7, seed=1))[1])
    assert other != seen


def test_batches_do_not_depend_on_the_seed_of_the_process(spec: str) -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=7)
    tf.keras.utils.set_random_seed(5)
    seen = identities(batches_of(spec, recipe)[1])
    tf.keras.utils.set_random_seed(0)
    assert identities(batches_of(spec, recipe)[1]) == seen
    after = tf.random.uniform(())
    tf.keras.utils.set_random_seed(0)
    assert after == tf.random.uniform(()), "the process's own draws are not touched"


def assert_same_from(spec: str, recipe: Recipe, first: int) -> None:
    _, whole = batches_of(spec, recipe)
    _, rest = batches_of(spec, recipe, first_step=first)
    assert len(rest) == len(whole) - first > 0
    for (images, targets), (wanted, wanted_targets) in zip(rest, whole[first:], strict=True):
        np.testing.assert_array_equal(images, wanted)
        for name in targets:
            np.testing.assert_array_equal(targets[name], wanted_targets[name])


@pytest.mark.long
def test_batches_are_the_same_from_any_step_on(spec: str) -> None:
    # 13 steps are more than the images give: two passes an epoch, and a part of a third.
    recipe = dataclasses.replace(RECIPE, epochs=2, steps_per_epoch=13, held_out=0.3, repeated_augmentation=3)
    assert_same_from(spec, dataclasses.replace(recipe, augmentation=Augmentation(flip=True)), first=17)


@pytest.mark.long
def test_augmented_batches_are_the_same_from_any_step_on(folder: Path) -> None:
    assert_same_from(f"folder:{folder}", dataclasses.replace(RECIPE, epochs=2, augmentation=FULL), first=3)


@pytest.mark.long
def test_the_parts_of_several_machines_make_up_the_batches(spec: str) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, augmentation=Augmentation(flip=True, erase=0.5))
    _, whole = batches_of(spec, recipe)
    parts = [batches_of(spec, recipe, part=part, parts=2)[1] for part in range(2)]
    for step, (images, targets) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([own[step][0] for own in parts]), images)
        np.testing.assert_array_equal(np.concatenate([own[step][1]["exit_2"] for own in parts]), targets["exit_2"])


@pytest.mark.long
def test_repeated_images_are_augmented_anew(folder: Path) -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=6, epochs=1, repeated_augmentation=3)
    _, batches = batches_of(f"folder:{folder}", recipe)
    assert len(batches) == 21 // 6
    seen = identities(batches)
    assert [seen.count(one) for one in dict.fromkeys(seen)] == [3] * 6
    erased = dataclasses.replace(recipe, augmentation=Augmentation(erase=1.0))
    images = batches_of(f"folder:{folder}", erased)[1][0][0]
    assert not np.array_equal(images[0], images[1])


@pytest.mark.long
def test_what_is_held_out_is_never_trained_on(spec: str, folder: Path) -> None:
    recipe = dataclasses.replace(RECIPE, held_out=0.3, epochs=1, batch_size=1)
    data, batches = batches_of(spec, recipe)
    trained = identities(batches)
    held_out = [
        (image, target)
        for images, labels in data.validation(CARD, 4).as_numpy_iterator()
        for image, target in zip(images, labels, strict=True)
    ]
    aside = identities([(np.stack([image]), {"exit_1": np.eye(3)[[label]]}) for image, label in held_out])
    assert 1 < len(aside) < 14
    assert not set(trained) & set(aside)
    assert sorted([*trained, *aside]) == sorted(
        identities(batches_of(spec, dataclasses.replace(recipe, held_out=0))[1])
    )
    names = [f"{path.parent.name}/{path.name}" for path in (folder / "train").glob("*/*")]
    assert len(aside) == sum(sources.is_held_out(name, 0.3) for name in names)


def test_without_held_out_it_validates_on_val(folder: Path) -> None:
    data = ImageData(RECIPE, parse_spec(f"folder:{folder}"))
    count = sum(len(labels) for _, labels in data.validation(CARD, 8))
    assert 0 < count < 30  # a fifth of 60
    few = list(data.validation(CARD, 8, limit=3).as_numpy_iterator())
    assert sorted(few[0][1].tolist()) == [0, 1, 2]  # from all over it


def test_damaged_images_are_replaced_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "data")
    bad = [tmp_path / "data" / "train" / name for name in ("red/00.png", "blue/03.png")]
    bad[0].write_bytes(bad[0].read_bytes()[:-30])
    bad[1].write_bytes(b"")
    recipe = dataclasses.replace(RECIPE, batch_size=7, epochs=2, max_damaged=0.1)
    data = ImageData(recipe, parse_spec(f"folder:{tmp_path / 'data'}"))
    data.damaged.list_in(tmp_path)
    seen = identities(list(data.batches(CONFIG, CARD, Plan.of(recipe, data.count)).as_numpy_iterator()))
    assert len(seen) == 42
    assert set(seen) == {(i, 20 + 7 * k) for i in range(3) for k in range(7)} - {(2, 20), (0, 41)}
    assert sorted(data.damaged.names) == sorted(map(str, bad))
    data.damaged.check()
    assert capsys.readouterr().err.count("left out, as it is damaged") == 2  # once each
    listed = tmp_path / "damaged.txt"
    assert sorted(listed.read_text().splitlines()) == sorted(map(str, bad))
    again = DamagedImages(21, 0.0)
    again.list_in(tmp_path, anew=False)  # a resumed run: those of before are listed, but not met yet
    again.check()
    again.add([str(bad[0]), "another"])
    assert listed.read_text().splitlines()[2:] == ["another"]
    again.list_in(tmp_path)
    assert not listed.exists()
    data.damaged.share = 2 / 21
    data.damaged.check()  # exactly as many as are allowed
    data.damaged.share = 0.05
    with pytest.raises(ValueError, match=r"2 of 21 training images .* max_damaged = 0.05 allows 1: .*(00|03).png"):
        data.damaged.check()


def test_a_batch_without_one_good_image_stops_the_run(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for path in (tmp_path / "train").glob("*/*"):
        path.write_bytes(b"no image")
    recipe = dataclasses.replace(RECIPE, epochs=1, max_damaged=1.0)
    data = ImageData(recipe, parse_spec(f"folder:{tmp_path}"))
    list(data.batches(CONFIG, CARD, Plan.of(recipe, data.count)).take(1))
    with pytest.raises(ValueError, match="not one image of a batch could be read"):
        data.damaged.check()


def test_other_formats_are_trained_on_too(tmp_path: Path) -> None:
    from PIL import Image

    make_folder(tmp_path)
    for path in sorted((tmp_path / "train").glob("*/0[0-3].png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), lossless=True)
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    data, batches = batches_of(f"folder:{tmp_path}", dataclasses.replace(RECIPE, epochs=1, batch_size=1))
    assert data.count == 33
    assert len(set(identities(batches))) == 21
    assert not data.damaged.names


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_loss": 0.5}, "recipe field token_loss needs to know where"),
        ({"curriculum_images": 9}, "recipe field curriculum_images needs to know where"),
        ({"held_out": 0.001}, "held_out = 0.001 of the training images is not one image"),
        ({"held_out": 0.999}, "no image to train on"),
    ],
)
def test_recipes_that_do_not_go_with_files_are_refused(spec: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData(dataclasses.replace(RECIPE, **fields), parse_spec(spec))


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ImageData(RECIPE, parse_spec(f"folder:{tmp_path / name}"))

    make_folder(tmp_path / "one", classes=("red",))
    refused("one", "one class only, red; training needs at least two")
    make_folder(tmp_path / "other")
    (tmp_path / "other" / "val" / "red").rename(tmp_path / "other" / "val" / "pink")
    refused("other", "train and val have different classes: only val has pink; only train has red")
    make_folder(tmp_path / "bare", val=0)
    refused("bare", r"nothing to validate on .*held_out = 0.1")
    make_folder(tmp_path / "empty")
    for path in (tmp_path / "empty" / "train" / "green").iterdir():
        path.unlink()
    refused("empty", "no image to train on of class green")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ImageData(RECIPE, parse_spec(f"folder:{tmp_path / 'nowhere'}"))
    with pytest.raises(ValueError, match="batch_size 40 is more than the 21 training images"):
        Plan.of(dataclasses.replace(RECIPE, batch_size=40), 21)


@pytest.mark.long
def test_tfds_is_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")
    with tfds.testing.mock_data(num_examples=20):
        builder = tfds.builder("cifar10", data_dir=tmp_path)
        info = [
            tfds.core.SplitInfo(name=name, shard_lengths=[20], num_bytes=1, filename_template=None)
            for name in ("train", "test")
        ]
        builder.info.set_splits(tfds.core.splits.SplitDict(info))
        monkeypatch.setattr(tfds, "builder", lambda name: builder)
        recipe = dataclasses.replace(RECIPE, epochs=2, batch_size=6, held_out=0.1)
        config = dataclasses.replace(CONFIG, num_classes=10)
        data = ImageData(recipe, parse_spec("tfds:cifar10"))
        assert data.count == 18
        assert len(data.classes) == 10
        card = default_card(config, data.classes)
        plan = Plan.of(recipe, data.count)
        whole = list(data.batches(config, card, plan).as_numpy_iterator())
        assert [images.shape for images, _ in whole] == [(6, 28, 28, 3)] * 6
        assert all(np.isfinite(images).all() and np.allclose(t["exit_2"].sum(-1), 1) for images, t in whole)
        for (images, _), (wanted, _) in zip(
            data.batches(config, card, plan, 4).as_numpy_iterator(), whole[4:], strict=True
        ):
            np.testing.assert_array_equal(images, wanted)
        assert sum(len(labels) for _, labels in data.validation(card, 8)) == 20  # mocked: it knows no parts of splits
        assert not data.damaged.names
    assert tf.executing_eagerly()
