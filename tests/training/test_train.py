"""A run as a whole: fit, killed and resumed, on one device and on two, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf import DynamicVisionTransformer
from dvt_tf.checkpoints import CARD_FILE, state_of
from training import train as program
from training.augment import Augmentation
from training.recipe import Recipe
from training.train import train

SMALL = {"token_grids": [2, 4], "dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
RECIPE = Recipe(
    "dvt_tiny_digits",
    overrides={**SMALL, "feature_reuse_hidden": 8, "feature_reuse_dim": 4, "drop_path_rate": 0.2},
    images=48,
    batch_size=4,
    steps_per_epoch=4,
    warmup_images=8,
    token_loss=0.5,
    distillation=0.5,
    validate_every=2,
    validation_images=100,
    curriculum_images=32,
)


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds and figures from fewer scenes: these runs learn nothing."""
    monkeypatch.setattr("dvt_tf.digits.SCENES", dict.fromkeys(("train", "val", "calibration", "test"), 100))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DynamicVisionTransformer]:
    """The three epochs of `RECIPE` in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvt_tf.digits.SCENES", dict.fromkeys(("train", "val", "calibration", "test"), 100))
        out = tmp_path_factory.mktemp("whole")
        return out, train(RECIPE, "digits", out, strategy_name="one")


def test_a_run_leaves_a_model_with_a_whole_card(whole_run: tuple[Path, DynamicVisionTransformer]) -> None:
    out, model = whole_run
    loaded = DynamicVisionTransformer.from_preset(out / "model")
    card = loaded.card
    assert card["class_names"] == list("0123456789")
    assert card["provenance"]["recipe"]["images"] == RECIPE.images
    assert len(card["thresholds"]["values"]) == 1
    assert "digits@val" in card["thresholds"]["data"]
    assert card["figures"]["data"] == "digits@test"
    assert len(card["figures"]["exits"]) == 2
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, state_of(loaded)[name])


def test_history_has_a_row_per_epoch(whole_run: tuple[Path, DynamicVisionTransformer]) -> None:
    rows = list(csv.DictReader((whole_run[0] / "history.csv").open()))
    assert [int(row["images"]) for row in rows] == [16, 32, 48]
    assert [bool(row["val_exit_2_top1"]) for row in rows] == [False, True, True]
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_a_stopped_run_resumes_to_the_same_weights(
    whole_run: tuple[Path, DynamicVisionTransformer], tmp_path: Path
) -> None:
    train(RECIPE, "digits", tmp_path, strategy_name="one", stop_after=1)
    assert len(list(csv.DictReader((tmp_path / "history.csv").open()))) == 1
    resumed = train(RECIPE, "digits", tmp_path, strategy_name="one", resume=True)
    unbroken = state_of(whole_run[1])
    for name, value in state_of(resumed).items():
        np.testing.assert_allclose(value, unbroken[name], atol=2e-6, err_msg=name)
    assert len(list(csv.DictReader((tmp_path / "history.csv").open()))) == 3


def test_training_changes_every_weight(whole_run: tuple[Path, DynamicVisionTransformer], tmp_path: Path) -> None:
    tf.keras.utils.set_random_seed(RECIPE.seed)
    fresh = DynamicVisionTransformer.from_preset(RECIPE.preset, load_weights=False, **RECIPE.overrides)
    before = state_of(fresh)
    for name, value in state_of(whole_run[1]).items():
        assert np.abs(value - before[name]).max() > 0, name


def test_two_replicas_learn_what_one_does(tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        RECIPE, images=16, overrides={**RECIPE.overrides, "drop_path_rate": 0.0}, clip_norm=0.0
    )
    one = state_of(train(recipe, "digits", tmp_path / "one", strategy_name="one"))
    two = state_of(train(recipe, "digits", tmp_path / "two", strategy_name="mirrored"))
    assert len(tf.config.list_logical_devices("CPU")) == 2
    for name, value in two.items():
        # A key's bias has a gradient of zero but for rounding, and AdamW makes steps of full length of that.
        if not name.endswith("qkv.bias"):
            np.testing.assert_allclose(value, one[name], atol=1e-4, err_msg=name)


def test_a_run_can_start_from_a_model(whole_run: tuple[Path, DynamicVisionTransformer], tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, images=16, learning_rate=1e-6, final_learning_rate=1e-7)
    origin = str(whole_run[0] / "model")
    further = train(recipe, "digits", tmp_path / "further", strategy_name="one", start_from=origin)
    for name, value in state_of(further).items():  # at this learning rate almost nothing has changed
        np.testing.assert_allclose(value, state_of(whole_run[1])[name], atol=1e-4, err_msg=name)
    assert further.card["provenance"]["started_from"]["recipe"]["images"] == RECIPE.images
    with pytest.raises(ValueError, match="does not fit"):
        train(dataclasses.replace(recipe, overrides={}), "digits", tmp_path / "other", start_from=origin)


def test_an_existing_run_is_not_overwritten_and_another_recipe_is_refused(
    whole_run: tuple[Path, DynamicVisionTransformer],
) -> None:
    with pytest.raises(ValueError, match="--resume"):
        train(RECIPE, "digits", whole_run[0])
    other = dataclasses.replace(RECIPE, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.001 there, 0\.5 here"):
        train(other, "digits", whole_run[0], resume=True)


def test_a_damaged_state_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="damaged"):
        train(RECIPE, "digits", tmp_path, resume=True)
    assert (tmp_path / "state.safetensors").read_bytes() == b"half a file"


@pytest.mark.parametrize(
    "fields",
    [
        {"held_out": 0.1},
        {"choose_by": "best"},
        {"repeated_augmentation": 3},
        {"augmentation": Augmentation(flip=True)},
        {"augmentation": Augmentation(mixup=0.8, label_smoothing=0.1)},
    ],
)
def test_what_would_be_ignored_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"recipe field {next(iter(fields))} has no effect on digits"):
        train(dataclasses.replace(RECIPE, **fields), "digits", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nothing", "--out", "x"], "no recipe 'nothing'"),
        (["--recipe", "digits", "--data", "folder:/nowhere", "--out", "x"], "cannot be trained on"),
    ],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training.train", *arguments])
    assert program.main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_variant_runs_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train", "--recipe", "digits", "--out", str(tmp_path / "run"), "--smoke"]
    subprocess.run(command, check=True, cwd=Path(program.__file__).parents[1])
    assert (tmp_path / "run" / "model" / CARD_FILE).exists()
