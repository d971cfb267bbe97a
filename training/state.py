"""The state of a run on disk: one safetensors file, written to a temporary name and renamed, so never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from tensorflow import keras

from dvt_tf.checkpoints import named_weights
from training.optimizers import optimizer_variables

STATE_FILE = "state.safetensors"


def save_state(
    path: Path,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    shadow: dict[str, np.ndarray],
    epoch: int,
    recipe: str,
) -> None:
    """Writes weights, optimizer, shadow weights and the number of finished epochs."""
    arrays = {f"model/{name}": np.asarray(w.numpy(), np.float32) for name, w in named_weights(model)}
    arrays |= {f"optimizer/{i:04}": np.asarray(v.numpy()) for i, v in enumerate(optimizer_variables(optimizer))}
    arrays |= {f"shadow/{name}": value for name, value in shadow.items()}
    temporary = path.with_suffix(".writing")
    safetensors.numpy.save_file(arrays, temporary, metadata={"epoch": str(epoch), "recipe": recipe})
    os.replace(temporary, path)


def load_state(
    path: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, recipe: str
) -> tuple[int, dict[str, np.ndarray]]:
    """Restores weights and optimizer in place -> (finished epochs, shadow weights).

    Raises:
        ValueError: the file is damaged, or of a run with another recipe.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a dictionary)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged and cannot be resumed from: {error}") from error
    if metadata.get("recipe") != recipe:
        changed = _differences(metadata.get("recipe", "{}"), recipe)
        raise ValueError(f"{path} belongs to a run with another recipe ({changed}); give another --out to start anew")
    for name, weight in named_weights(model):
        weight.assign(arrays[f"model/{name}"])
    for i, variable in enumerate(optimizer_variables(optimizer)):
        variable.assign(arrays[f"optimizer/{i:04}"])
    shadow = {key.removeprefix("shadow/"): value for key, value in arrays.items() if key.startswith("shadow/")}
    return int(metadata["epoch"]), shadow


def _differences(old: str, new: str) -> str:
    before, after = json.loads(old), json.loads(new)
    fields = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key)!r} there, {after.get(key)!r} here" for key in fields[:4])
