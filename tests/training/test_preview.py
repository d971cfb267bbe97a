"""The preview: every kind of data becomes a picture, the same for the same seed, and bad input one line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvt_tf.cascade import preset_card
from dvt_tf.presets import get_preset
from tests import images
from training.augment import Augmentation
from training.preview import augmented_batches, main, read_pictures

pytestmark = pytest.mark.one_stack

SMALL = ("--model", "dvt_tiny_digits", "--images", "3", "--draws", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos of three classes."""
    for index, name in enumerate(("a/1", "a/2", "b/3", "c/4")):
        path = tmp_path / "data" / "train" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.picture(30 + index, 24).save(path)
    return tmp_path / "data"


def drawn(out: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(out.read_bytes())))


def test_every_kind_of_data_is_drawn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(map(str, folder.glob("*/*/*.jpg")))
    all_flags = ["--crop", "pad", "--flip", "--randaugment", "rand-m9-mstd0.5-inc1", "--erase", "0.5", "--mixup", "0.8"]
    for number, (data, flags) in enumerate(
        [(["digits"], []), ([f"folder:{folder}"], ["--label-smoothing", "0.1"]), (files, all_flags)]
    ):
        out = tmp_path / "new" / f"{number}.png"
        assert main(["--data", *data, "--out", str(out), *SMALL, *flags]) == 0
        assert capsys.readouterr().out == f"drawn in {out}\n"
        assert drawn(out).std() > 20


def test_the_picture_follows_the_seed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    pictures = []
    for seed in (0, 0, 1):
        arguments = ["--data", f"folder:{folder}", "--out", str(out), *SMALL, "--crop", "random_resized"]
        assert main([*arguments, "--cutmix", "1", "--seed", str(seed)]) == 0
        pictures.append(drawn(out))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_classes_take_turns(folder: Path) -> None:
    pictures, names = read_pictures([f"folder:{folder}"], 3)
    assert names == ["a", "b", "c"]
    assert [picture.shape for picture in pictures] == [(24, 30, 3), (24, 32, 3), (24, 33, 3)]
    assert read_pictures([f"folder:{folder}@train"], 9)[1] == ["a", "b", "c", "a"]
    assert len(read_pictures(["digits@val"], 3)[0]) == 3


def test_batches_are_those_of_training() -> None:
    card = preset_card("dvt_tiny_digits", get_preset("dvt_tiny_digits"))
    pictures = [np.asarray(images.picture(112, 112)), np.asarray(images.picture(120, 112))]
    pixels, targets = augmented_batches(pictures, Augmentation(label_smoothing=0.2), card, 3, 0)
    assert pixels.shape == (3, 2, 112, 112, 3)
    # Not varied at all: the pixels that went in.
    np.testing.assert_allclose(pixels[:, 0], np.stack([pictures[0] / 255] * 3), atol=1e-6)
    np.testing.assert_allclose(targets[0], [[0.9, 0.1], [0.1, 0.9]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.jpg"], "nowhere.jpg: no such file or folder"),
        (["--data", "folder:nowhere"], "nowhere: no such folder"),
        (["--data", "digits", "--erase", "3"], "augmentation field erase must be a number from 0 to 1, not 3.0"),
        (["--data", "digits", "--randaugment", "m9"], "RandAugment 'm9' is not understood"),
        (["--data", "digits", "--draws", "0"], "--draws is 0; it must be at least 1"),
        (["--data", "digits", "--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--data", "digits", "--model", "no"], "unknown preset 'no'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out.png")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("training.preview: ")
    assert message in lines[0]
    assert not (tmp_path / "out.png").exists()
