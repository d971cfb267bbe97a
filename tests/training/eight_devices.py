"""Trains a run on one device, on eight, and on eight and then one -> how far they are apart, as a line of JSON.

A program of its own, since the number of devices is fixed once TensorFlow has run. Its argument is a folder, with the
pictures in `data`.
"""

import contextlib
import csv
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import safetensors.numpy
import tensorflow as tf

from tests.training.folders import RECIPE
from training import devices, reporting, validation
from training.devices import make_strategy
from training.run import train
from training.stopping import Stopped

# Plain steps against the clipped gradient, so that what the weights are apart is what the gradients are.
GRADIENTS = dataclasses.replace(
    RECIPE,
    epochs=1,
    batch_size=16,
    optimizer="sgd",
    momentum=0.0,
    weight_decay=0.0,
    learning_rate=0.1,
    final_learning_rate=0.1,
    distillation=0.5,
    clip_norm=0.1,
)


def main(folder: Path) -> None:
    """Runs it."""
    data = f"folder:{folder / 'data'}"
    states, histories, validated = {}, {}, {}
    counted: list[list[int]] = []
    whole = validation.Validation._count_right

    def note(self: validation.Validation, *batch: tf.Tensor) -> tf.Tensor:
        total = whole(self, *batch)
        tf.numpy_function(lambda value: counted.append(value.tolist()), [total], [])
        return total

    logged: list[dict[str, float]] = []
    written = reporting.HistoryFile.on_epoch_end

    def keep(self: reporting.HistoryFile, epoch: int, logs: dict[str, Any]) -> None:
        logged.append({key: float(value) for key, value in logs.items()})  # in the file they are rounded
        written(self, epoch, logs)

    validation.Validation._count_right = note
    reporting.HistoryFile.on_epoch_end = keep
    devices.available_cores = lambda: 8  # more than there may be: nothing is timed
    mirrored = make_strategy("auto", cpu_replicas=8)
    for name, strategy in (("one", make_strategy("one")), ("eight", mirrored)):
        counted.clear()
        logged.clear()
        train(GRADIENTS, data, folder / name, strategy)
        validated[name] = np.sum(counted, 0).tolist()
        states[name] = safetensors.numpy.load_file(folder / name / "state.safetensors")
        with (folder / name / "history.csv").open(newline="") as file:
            rows = [{**row, **logs} for row, logs in zip(csv.DictReader(file), logged, strict=True)]
        histories[name] = [float(v) for row in rows for k, v in row.items() if k != "images_per_second"]
    with contextlib.suppress(Stopped):
        train(GRADIENTS, data, folder / "both", mirrored, stop_after=1)
    after_eight = safetensors.numpy.load_file(folder / "both" / "state.safetensors")
    train(GRADIENTS, data, folder / "both", "one", resume=True)
    states["both"] = safetensors.numpy.load_file(folder / "both" / "state.safetensors")
    shadow = {key.removeprefix("shadow/"): value for key, value in states["one"].items() if key.startswith("shadow/")}

    def apart(kind: str, state: dict[str, np.ndarray]) -> float:
        return max(
            float(np.abs(value - state[key]).max()) for key, value in states["one"].items() if key.startswith(kind)
        )

    moved = max(float(np.abs(states["one"][f"model/cascade.{key}"] - value).max()) for key, value in shadow.items())
    print(
        json.dumps(
            {
                "replicas": mirrored.num_replicas_in_sync,
                "gradients": apart("model/", states["eight"]),
                "shadow": apart("shadow/", states["eight"]),
                "both": apart("model/", states["both"]),
                "moved_after_eight": apart("model/", after_eight),
                "moved": moved,
                "history": histories,
                "validated": validated,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
