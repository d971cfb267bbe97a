"""Distribution: eight devices learn what one does, precisions agree, and what cannot be split is refused."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tests.cascades import TOKENS_TO_TOKEN, random_images, small_config
from tests.training.folders import RECIPE, make_folder
from training import ablate, devices, train
from training.check_devices import check_devices
from training.objective import exit_names
from training.recipe import Recipe
from training.replicas import refuse_uneven
from training.run import make_trainer
from training.schedule import Plan

ROOT = Path(devices.__file__).parents[1]


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `eight_devices.py` finds, in a process with eight logical devices."""
    folder = tmp_path_factory.mktemp("eight")
    make_folder(folder / "data", train=11, val=20)
    script = Path(__file__).with_name("eight_devices.py")
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_eight_devices_learn_what_one_does(eight: dict[str, Any]) -> None:
    assert eight["replicas"] == 8
    assert eight["moved"] > 1e-4  # the weights have changed, so that there is something to compare
    assert eight["gradients"] < 1e-5
    assert eight["shadow"] < 1e-5
    assert eight["history"]["one"] == pytest.approx(eight["history"]["eight"], abs=1e-5)
    assert len(eight["history"]["one"]) == 10


def test_a_run_begun_on_eight_devices_goes_on_on_one(eight: dict[str, Any]) -> None:
    assert eight["both"] < 1e-5
    assert eight["moved_after_eight"] > 1e-4  # something was left to do for the one


def test_validation_counts_every_image_once_on_any_number_of_devices(eight: dict[str, Any]) -> None:
    assert eight["validated"]["one"] == eight["validated"]["eight"]
    assert eight["validated"]["one"][0] % 8  # an uneven last batch


@pytest.mark.long
def test_the_devices_can_be_checked() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
    told = check_devices(RECIPE, strategy).splitlines()
    assert told[0].startswith("MirroredStrategy of 2 replicas: ")
    assert told[1:3] == ["  replica 0: CPU:0, 2 images a step", "  replica 1: CPU:1, 2 images a step"]
    assert told[3].startswith("3 steps of dvt_tiny_digits in float32: loss 4.")


@pytest.mark.long
def test_half_precision_follows_float32() -> None:
    fields = small_config(**TOKENS_TO_TOKEN, performer_dropout_rate=0.0, depth=1).to_dict()
    images = np.concatenate([random_images(8)] * 3)
    targets = np.eye(fields["num_classes"], dtype=np.float32)[np.tile([0, 1, 2, 3, 4, 5, 6, 0], 3)]
    losses = {}
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        recipe = Recipe("dvt_tiny_digits", overrides=fields, epochs=4, batch_size=8, precision=precision)
        strategy = tf.distribute.OneDeviceStrategy("CPU:0")
        trainer = make_trainer(recipe, tuple("abcdefg"), Plan(3, 4, 0, 0), strategy)
        data = tf.data.Dataset.from_tensor_slices(
            (images, dict.fromkeys(exit_names(trainer.cascade.num_exits), targets))
        )
        losses[precision] = trainer.fit(data.batch(8), epochs=4, verbose=0).history["loss"]
        outputs = trainer.cascade.run(tf.constant(images[:2]))
        assert all(out.logits.dtype == out.relationships[0].dtype == tf.float32 for out in outputs)
        assert isinstance(trainer.optimizer, keras.mixed_precision.LossScaleOptimizer) == (precision == "mixed_float16")
    assert losses["float32"][-1] < losses["float32"][0]
    for precision in ("mixed_bfloat16", "mixed_float16"):
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=0.03, err_msg=precision)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not understood"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG is not understood .*task"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "is not in the cluster"),
    ],
)
def test_a_wrong_tf_config_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        devices.make_strategy("auto")


def test_several_machines_need_keras_2_and_tf_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if importlib.metadata.version("keras").startswith("2."):
        with pytest.raises(ValueError, match=r"needs the environment variable TF_CONFIG, such as \{"):
            devices.make_strategy("multiworker")
        monkeypatch.setattr(devices.importlib.metadata, "version", lambda _: "3.15.1")
    with pytest.raises(ValueError, match=r"needs Keras 2.15 .*: Keras 3\.\S+ does not train on several machines"):
        devices.make_strategy("multiworker")


def test_auto_is_one_device_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert isinstance(devices.make_strategy("auto"), tf.distribute.OneDeviceStrategy)
    assert devices.is_chief(devices.make_strategy("one"))
    with pytest.raises(ValueError, match="batch_size 3 does not divide among 2 replicas; 2 would"):
        refuse_uneven(3, 2)


@pytest.mark.parametrize(
    ("count", "strategy", "message"),
    [
        (0, "auto", "--cpu-replicas is 0; it must be from 1 to 4, as many as cores"),
        (5, "mirrored", "--cpu-replicas is 5; it must be from 1 to 4"),
        (0, "one", "--cpu-replicas is 0"),
        (2, "one", "--cpu-replicas 2 goes with one machine and --strategy auto or mirrored"),
        (2, "multiworker", "--cpu-replicas 2 goes with one machine"),
    ],
)
def test_a_processor_that_cannot_be_divided_so_is_refused(
    count: int, strategy: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(devices, "available_cores", lambda: 4)
    with pytest.raises(ValueError, match=message):
        devices.make_strategy(strategy, count)


def test_a_processor_is_not_divided_where_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(devices, "available_cores", lambda: 4)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0"])
    with pytest.raises(ValueError, match=r"--cpu-replicas 2: there are GPUs \(1\), which are used; leave it out"):
        devices.make_strategy("auto", 2)


@pytest.mark.parametrize("command", ["train", "ablate"])
def test_commands_divide_the_processor_as_they_are_told(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(name: str, cpu_replicas: int = 1) -> None:
        raise ValueError(f"asked for {cpu_replicas} on {name}")

    monkeypatch.setattr(devices, "make_strategy", asked)
    monkeypatch.setattr(ablate, "make_strategy", asked)
    of_command = {
        "train": (train.main, ["--recipe", "study"]),
        "ablate": (ablate.main, ["--study", "curves", "--cell", "alone_1_seed0"]),
    }
    main, arguments = of_command[command]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--cpu-replicas", "2"]) == 2
    assert "asked for 2 on auto" in capsys.readouterr().err
