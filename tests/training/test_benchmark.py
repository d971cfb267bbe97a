"""The benchmark of the input pipeline: every row has a figure, whatever it is, and bad input is one line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import tensorflow as tf

from tests.training.folders import RECIPE, SMALL, make_folder
from training.augment import Augmentation
from training.benchmark import main
from training.benchmark_pipelines import augmentation_parts, make_photos, model_of
from training.recipe import load_recipe

pytestmark = pytest.mark.one_stack

TINY = ("--images", "4", "--rounds", "1", "--batch", "4")
AUGMENTATION = """
[augmentation]
crop = "random_resized"
flip = true
randaugment = "rand-m9-mstd0.5-inc1"
erase = 0.25
mixup = 0.8
cutmix = 1.0
"""
PARTS = ["read", "+ decode", "+ random resized crop, normalise", "+ flip", "+ RandAugment", "+ erase"]
LAST = ["evaluation: read, preprocess", "training, all of it"]


def recipe_file(folder: Path, augmentation: str = AUGMENTATION) -> str:
    overrides = ", ".join(f"{name} = {value}" for name, value in SMALL.items())
    path = folder / "small.toml"
    path.write_text(f'preset = "dvt_tiny_digits"\nepochs = 1\noverrides = {{ {overrides} }}\n{augmentation}')
    return str(path)


@pytest.mark.long
def test_every_row_has_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figures.json"
    arguments = ["--recipe", recipe_file(tmp_path), "--images-per-second", "1000", "--out", str(out), *TINY]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert [row["part"] for row in figures["rows"]] == [*PARTS, "+ mixup / CutMix", *LAST]
    for row in figures["rows"]:
        assert 0 < row["lowest"] <= row["images_per_second"] <= row["highest"] < math.inf
        assert len(row["rounds"]) == 1
        assert any(line.startswith(row["part"]) for line in printed)
    assert [row["all_cores"] for row in figures["rows"]] == [False] * 8 + [True]
    own = [row["milliseconds_of_this_part"] for row in figures["rows"]]
    assert own[7:] == [None, None]
    assert sum(own[:7]) == pytest.approx(figures["rows"][6]["milliseconds"])
    feeding = figures["feeding"]
    assert feeding["cores"] == math.ceil(1000 / figures["rows"][6]["images_per_second"])
    assert printed[-1].startswith(f"cores to feed 8 GPUs: {feeding['cores']:,}, for 1,000 images/s in all")
    assert figures["image_size"] == SMALL["image_size"]
    assert figures["machine"]["cores"] >= 1
    assert figures["versions"]["tensorflow"] == tf.__version__


@pytest.mark.long
def test_a_folder_and_a_recipe_that_varies_nothing(tmp_path: Path) -> None:
    data, out = make_folder(tmp_path / "data", train=2), tmp_path / "figures.json"
    recipe = recipe_file(tmp_path, augmentation="")
    assert main(["--recipe", recipe, "--data", f"folder:{data}", "--out", str(out), *TINY, "--images", "5"]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert [row["part"] for row in figures["rows"]] == [
        *PARTS[:2],
        "+ crop of evaluation, normalise",
        "+ targets",
        *LAST,
    ]
    assert (figures["files"]["count"], figures["images"]) == (5, 8)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = make_folder(tmp_path / "damaged", train=1)
    (damaged / "train" / "red" / "00.png").write_bytes(b"no image")
    recipe = recipe_file(tmp_path)
    for arguments, told in (
        (["--data", f"folder:{tmp_path / 'missing'}"], "no such folder"),
        (["--data", "digits"], "it must be folder:PATH"),
        (["--data", f"folder:{damaged}@val"], "it must be folder:PATH"),
        (["--data", f"folder:{damaged}"], "red/00.png: is no image"),
        (["--recipe", "none"], "no recipe 'none'"),
        (["--images", "0"], "--images is 0"),
        (["--batch", "0"], "--batch is 0"),
        (["--rounds", "-1"], "--rounds is -1"),
        (["--images-per-second", "nan"], "--images-per-second is nan"),
        (["--out", str(tmp_path)], "is a folder"),
    ):
        assert main(["--recipe", recipe, *TINY, *arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("training.benchmark: ")
        assert told in output.err
        assert output.err.count("\n") == 1


def test_the_last_part_is_the_whole_recipe() -> None:
    whole = load_recipe("imagenet_t2t_vit_12").augmentation
    parts = augmentation_parts(whole)
    assert [name for name, _ in parts] == ["random resized crop, normalise", "flip", "RandAugment", "erase"]
    assert parts[-1][1] == whole
    assert [name for name, _ in augmentation_parts(Augmentation(crop="pad", erase=0.1))] == [
        "random crop in a frame, normalise",
        "erase",
    ]


def test_the_card_is_that_of_the_model_that_is_trained() -> None:
    recipe = dataclasses.replace(RECIPE, preprocessing={"mean": [0.1, 0.2, 0.3]})
    config, card = model_of(recipe)
    assert config.image_size == card["preprocessing"]["image_size"] == SMALL["image_size"]
    assert card["preprocessing"]["mean"] == [0.1, 0.2, 0.3]


def test_photos_have_the_usual_size_and_differ(tmp_path: Path) -> None:
    make_photos(tmp_path)
    files = sorted((tmp_path / "train").glob("*/*.jpg"))
    assert len({path.read_bytes() for path in files}) == len(files) == 16
    assert {tuple(tf.io.extract_jpeg_shape(path.read_bytes()).numpy()) for path in files} == {(375, 500, 3)}
