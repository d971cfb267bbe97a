"""A run as a whole: fit, killed and resumed, on one device and on two, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf import DynamicVisionTransformer
from dvt_tf.checkpoints import CARD_FILE, state_of
from tests.training.folders import CLASSES, RECIPE, SMALL, make_folder
from training import image_data
from training import train as program
from training.augment import Augmentation
from training.recipe import Recipe
from training.run import make_trainer, start_weights, train
from training.saving import Diverged
from training.schedule import Plan
from training.state import Progress
from training.stopping import Stopped, StopRequest

ROOT = Path(program.__file__).parents[1]
DIGITS = Recipe(
    "dvt_tiny_digits",
    overrides={**SMALL, "image_size": 112, "drop_path_rate": 0.2},
    images=32,
    batch_size=4,
    steps_per_epoch=4,
    warmup_images=8,
    token_loss=0.5,
    distillation=0.5,
    validate_every=2,
    validation_images=20,
    test_images=20,
    curriculum_images=32,
)
PICTURES = dataclasses.replace(
    RECIPE,
    overrides={**SMALL, "drop_path_rate": 0.2},
    augmentation=Augmentation(crop="random_resized", flip=True, mixup=0.8, label_smoothing=0.1),
    choose_by="best",
    test_images=12,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{make_folder(tmp_path_factory.mktemp('pictures'))}"


@pytest.fixture(scope="module")
def whole_run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three epochs of `PICTURES` in one go."""
    out = tmp_path_factory.mktemp("whole")
    train(PICTURES, data, out, "one")
    return out


def history(out: Path) -> list[dict[str, str]]:
    """history.csv without what depends on the machine."""
    with (out / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def weights(out: Path) -> dict[str, np.ndarray]:
    return state_of(DynamicVisionTransformer.from_preset(out / "model"))


def assert_same_run(out: Path, other: Path, atol: float = 0.0) -> None:
    expected = weights(other)
    for name, value in weights(out).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=atol, err_msg=name)
    for row, wanted in zip(history(out), history(other), strict=True):
        assert {k: float(v) for k, v in row.items() if v} == pytest.approx(
            {k: float(v) for k, v in wanted.items() if v}, rel=1e-4, abs=1e-6
        )


def test_a_run_leaves_a_model_with_a_whole_card(whole_run: Path, data: str) -> None:
    card = DynamicVisionTransformer.from_preset(whole_run / "model").card
    assert card["class_names"] == list(CLASSES)
    assert card["provenance"]["recipe"]["epochs"] == 3
    assert len(card["thresholds"]["values"]) == 1
    assert card["thresholds"]["data"] == f"{data}@val"
    assert card["figures"]["data"] == f"{data}@test"
    assert card["figures"]["images"] == 12
    assert len(card["figures"]["exits"]) == 2
    assert card["config"]["num_classes"] == 3


def test_a_run_can_be_looked_at(whole_run: Path) -> None:
    rows = history(whole_run)
    assert [int(row["images"]) for row in rows] == [20, 40, 60]
    assert all(np.isfinite(float(row["loss"])) and 0 <= float(row["val_exit_2_top1"]) <= 1 for row in rows)
    assert float(rows[0]["learning_rate"]) > float(rows[2]["learning_rate"]) > 0
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((whole_run / "tensorboard").rglob("events.out.tfevents.*"))
    told = json.loads((whole_run / "run.json").read_text())
    assert told["batch_size"] == PICTURES.batch_size
    assert told["started"][0]["versions"]["tensorflow"] == tf.__version__
    assert len(told["started"][0]["git"].get("commit", "0" * 40)) == 40
    assert "CPU" in told["started"][0]["devices"]


def test_the_best_epoch_is_the_one_that_is_kept(whole_run: Path) -> None:
    shares = [float(row["val_exit_2_top1"]) for row in history(whole_run)]
    best = DynamicVisionTransformer.from_preset(whole_run / "best")
    for name, value in state_of(best).items():
        np.testing.assert_array_equal(value, weights(whole_run)[name])
    assert Progress(**_metadata(whole_run)).best == pytest.approx(max(shares))


def _metadata(out: Path) -> dict[str, Any]:
    import safetensors

    with safetensors.safe_open(out / "state.safetensors", framework="numpy") as file:
        return json.loads(file.metadata()["progress"])


@pytest.mark.long
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(whole_run: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="after step 3 of 15; add --resume"):
        train(PICTURES, data, tmp_path, "one", stop_after=3)
    assert _metadata(tmp_path)["step"] == 3
    assert len(_metadata(tmp_path)["partial"]) == 5
    train(PICTURES, data, tmp_path, "one", resume=True)
    assert_same_run(tmp_path, whole_run, atol=2e-6)
    assert [one["from_step"] for one in json.loads((tmp_path / "run.json").read_text())["started"]] == [0, 3]


@pytest.mark.long
@pytest.mark.one_stack
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(data: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'preset = "dvt_tiny_digits"\nepochs = 2\nbatch_size = 4\nvalidation_images = 6\ntest_images = 6\n'
        'validate_every = 1\n[augmentation]\ncrop = "random_resized"\nmixup = 0.8\n[overrides]\n'
        + "".join(f"{name} = {value}\n" for name, value in {**SMALL, "drop_path_rate": 0.2}.items())
    )

    def command(out: str, *more: str) -> list[str]:
        words = ["--recipe", str(recipe), "--data", data, "--out", str(tmp_path / out), "--deterministic"]
        return [sys.executable, "-m", "training.train", *words, *more]

    log = (tmp_path / "log").open("w")
    killed = subprocess.Popen(command("killed", "--save-minutes", "1e-4"), cwd=ROOT, stdout=log, stderr=log)
    state = tmp_path / "killed" / "state.safetensors"
    while killed.poll() is None and not (state.exists() and _metadata(state.parent)["step"] >= 2):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert 2 <= _metadata(state.parent)["step"] < 10
    for out, more in (("killed", ["--resume"]), ("whole", [])):
        subprocess.run(command(out, *more), cwd=ROOT, check=True, capture_output=True)
    assert "going on" not in (tmp_path / "log").read_text()
    for file in ("model/weights.safetensors", "model/config.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def test_a_signal_asks_to_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.signal
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == "SIGTERM"
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_that_closes_asks_to_stop_unless_it_is_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, heard in ((signal.SIG_DFL, "SIGHUP"), (signal.SIG_IGN, "")):
            signal.signal(signal.SIGHUP, handler)
            with StopRequest() as stop:
                signal.raise_signal(signal.SIGHUP)
            assert stop.signal == heard
            assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.long
def test_a_signal_saves_and_leaves_with_status_0(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "load_recipe", lambda *_: PICTURES)
    monkeypatch.setattr(
        image_data.DamagedImages, "check", lambda _: signal.raise_signal(signal.SIGTERM)
    )  # at the end of every step
    assert program.main(["--recipe", "x", "--data", data, "--out", str(tmp_path), "--strategy", "one"]) == 0
    assert "stopped by SIGTERM after step 1 of 15; add --resume to go on" in capsys.readouterr().out
    assert _metadata(tmp_path)["step"] == 1


@pytest.mark.long
@pytest.mark.one_stack
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image_data.ImageData.batches

    def broken(*arguments: Any, **named: Any) -> tf.data.Dataset:
        nan = tf.constant(np.nan)
        batches = whole(*arguments, **named).enumerate()
        return batches.map(lambda step, batch: (tf.where(step >= 7, nan, 1.0) * batch[0], batch[1]))

    monkeypatch.setattr(image_data.ImageData, "batches", broken)
    with pytest.raises(Diverged, match=r"loss is nan by step 10 \(epoch 2\).*last good state, of step 5, is kept"):
        train(PICTURES, data, tmp_path, "one")
    assert _metadata(tmp_path)["step"] == 5


@pytest.mark.long
@pytest.mark.one_stack
def test_a_full_disk_stops_the_run_and_keeps_the_last_good_state(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def full_in_the_end(path: Path) -> Iterator[Path]:
        if path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        yield path

    monkeypatch.setattr("training.state.written_whole", full_in_the_end)
    monkeypatch.setattr(program, "load_recipe", lambda *_: PICTURES)
    assert program.main(["--recipe", "x", "--data", data, "--out", str(tmp_path), "--strategy", "one"]) == 2
    error = capsys.readouterr().err
    assert "the state of step 10 cannot be saved in" in error
    assert "No space left on device" in error
    assert _metadata(tmp_path)["step"] == 5


@pytest.mark.long
def test_digits_train_every_weight_and_choose_thresholds(tmp_path: Path) -> None:
    model = train(DIGITS, "digits", tmp_path, "one")
    assert model.card["class_names"] == list("0123456789")
    assert "digits@val" in model.card["thresholds"]["data"]
    assert [bool(row.get("val_exit_2_top1")) for row in history(tmp_path)] == [False, True]
    tf.keras.utils.set_random_seed(DIGITS.seed)
    before = state_of(DynamicVisionTransformer.from_preset(DIGITS.preset, load_weights=False, **DIGITS.overrides))
    for name, value in state_of(model).items():
        assert np.abs(value - before[name]).max() > 0, name


def test_a_run_can_start_from_a_model_of_the_same_or_of_other_classes(whole_run: Path) -> None:
    recipe = dataclasses.replace(PICTURES, preset="dvt_t2t_vit_12", overrides={}, follow_start=True)
    origin, start_from = weights(whole_run), str(whole_run / "model")

    def started(recipe: Recipe, classes: tuple[str, ...]) -> tuple[DynamicVisionTransformer, dict[str, Any]]:
        trainer = make_trainer(recipe, classes, Plan(1, 1, 0, 0), tf.distribute.get_strategy(), start_from)
        return trainer.cascade, start_weights(trainer.cascade, start_from)

    same, told = started(recipe, CLASSES)
    assert told["started_from"]["recipe"]["epochs"] == 3
    for name, value in state_of(same).items():
        np.testing.assert_array_equal(value, origin[name])
    other, _ = started(recipe, ("left", "middle", "right"))  # as many, and still others
    assert other.card["class_names"] == ["left", "middle", "right"]
    for name, value in state_of(other).items():
        assert np.array_equal(value, origin[name]) == (".head." not in name), name
    assert started(recipe, ("left", "right"))[0].config.num_classes == 2
    with pytest.raises(ValueError, match="does not fit"):
        started(dataclasses.replace(PICTURES, overrides={**SMALL, "dim": 8}), CLASSES)


def test_an_existing_run_is_not_overwritten_and_another_one_is_refused(whole_run: Path, data: str) -> None:
    with pytest.raises(ValueError, match="--resume"):
        train(PICTURES, data, whole_run)
    other = dataclasses.replace(PICTURES, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.01 there, 0\.5 here"):
        train(other, data, whole_run, "one", resume=True)
    with pytest.raises(ValueError, match="started_from_weights: None there"):
        train(PICTURES, data, whole_run, "one", resume=True, start_from=str(whole_run / "model"))
    finished = (whole_run / "model" / CARD_FILE).read_bytes()
    train(PICTURES, data, whole_run, "one", resume=True)  # nothing is left to do
    assert (whole_run / "model" / CARD_FILE).read_bytes() == finished


def test_a_damaged_state_is_refused_and_kept(tmp_path: Path, data: str) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="damaged"):
        train(PICTURES, data, tmp_path, "one", resume=True)
    assert (tmp_path / "state.safetensors").read_bytes() == b"half a file"


@pytest.mark.parametrize(
    "fields",
    [
        {"held_out": 0.1},
        {"repeated_augmentation": 3},
        {"augmentation": Augmentation(flip=True)},
        {"augmentation": Augmentation(mixup=0.8, label_smoothing=0.1)},
    ],
)
def test_what_would_be_ignored_on_digits_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"recipe field {next(iter(fields))} has no effect on digits"):
        train(dataclasses.replace(DIGITS, **fields), "digits", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scenes_are_prepared_in_one_way(tmp_path: Path) -> None:
    recipe = dataclasses.replace(DIGITS, preprocessing={"resize_short_side": 140})
    with pytest.raises(ValueError, match=r"recipe field preprocessing\.resize_short_side has no effect on digits"):
        train(recipe, "digits", tmp_path / "run", "one")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nothing", "--out", "x"], "no recipe 'nothing'"),
        (["--recipe", "digits", "--data", "folder:/nowhere", "--out", "x"], "token_loss needs to know"),
        (["--recipe", "folder", "--data", "folder:/nowhere", "--out", "x"], "/nowhere: no such folder"),
        (["--recipe", "folder", "--data", "shards:/nowhere", "--out", "x"], "nowhere"),
        (["--recipe", "folder", "--out", "x"], "add --data SPEC"),
        (["--recipe", "digits", "--data", "digits@val", "--out", "x"], "leave out @val"),
        (["--recipe", "digits", "--data", "images:x", "--out", "x"], "has no labels, and training needs them"),
        (["--recipe", "digits", "--set", "batch_size=no", "--out", "x"], "batch_size must be a whole number"),
        (["--recipe", "digits", "--set", "batchsize=4", "--out", "x"], "did you mean batch_size"),
        (["--recipe", "digits", "--set", "overrides.num_classes=9", "--out", "x"], "num_classes is 9"),
        (["--recipe", "digits", "--strategy", "mirrored", "--set", "batch_size=63", "--out", "x"], "62 would"),
        (["--recipe", "digits", "--save-minutes", "0", "--out", "x"], "--save-minutes is 0"),
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
    assert program.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_variant_runs_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train", "--recipe", "digits", "--out", str(tmp_path / "run"), "--smoke"]
    subprocess.run(command, check=True, cwd=ROOT)
    assert (tmp_path / "run" / "model" / CARD_FILE).exists()
