"""The state of a run on disk: one safetensors file, written to a temporary name and renamed, so never half of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from tensorflow import keras

from dvt_tf.checkpoints import named_weights
from dvt_tf.files import written_whole
from training.optimizers import optimizer_variables

STATE_FILE = "state.safetensors"


class Progress(NamedTuple):
    """How far a run is.

    step: optimizer steps taken. best: top-1 of the last exit in the best validation, below 0 for none.
    partial: means over the steps of an unfinished epoch so far, by the names of its logs.
    """

    step: int = 0
    best: float = -1.0
    partial: dict[str, float] = {}  # noqa: RUF012 (never changed)


def save_state(
    path: Path,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    shadow: dict[str, np.ndarray],
    progress: Progress,
    described: dict[str, Any],
) -> None:
    """Writes weights, optimizer, shadow weights and progress; what was saved before stays until that is done.

    Args:
        described: what makes the run the one it is; only such a run can be resumed from the file.

    Raises:
        ValueError: a weight is not a finite number. OSError: it cannot be written.
    """
    arrays = {f"model/{name}": np.asarray(w.numpy(), np.float32) for name, w in named_weights(model)}
    arrays |= {f"shadow/{name}": value for name, value in shadow.items()}
    broken = [name for name, value in arrays.items() if not np.all(np.isfinite(value))]
    if broken:
        raise ValueError(f"the weights are no longer finite numbers after step {progress.step} ({broken[0]}, ...)")
    arrays |= {f"optimizer/{i:04}": np.asarray(v.numpy()) for i, v in enumerate(optimizer_variables(optimizer))}
    metadata = {"progress": json.dumps(progress._asdict()), "run": json.dumps(described, sort_keys=True)}
    contents = safetensors.numpy.save(arrays, metadata=metadata)
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(contents)
    except OSError as error:
        raise OSError(f"the state of step {progress.step} cannot be saved in {path} ({error.strerror})") from error


def load_state(
    path: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, described: dict[str, Any]
) -> tuple[Progress, dict[str, np.ndarray]]:
    """Restores weights and optimizer in place -> (how far the run was, shadow weights).

    Raises:
        ValueError: the file is damaged, or of another run.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a dictionary)
        saved, progress = json.loads(metadata["run"]), Progress(**json.loads(metadata["progress"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged and cannot be resumed from: {error}") from error
    described = json.loads(json.dumps(described))
    if saved != described:
        changed = _differences(saved, described)
        raise ValueError(f"{path} belongs to another run ({changed}); give another --out to start anew")
    weights, variables = dict(named_weights(model)), optimizer_variables(optimizer)
    expected = {f"model/{name}" for name in weights} | {f"optimizer/{i:04}" for i in range(len(variables))}
    missing = sorted(expected - set(arrays))
    if missing:
        raise ValueError(f"{path} is damaged and cannot be resumed from: it lacks {missing[0]}")
    for name, weight in weights.items():
        weight.assign(arrays[f"model/{name}"])
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"optimizer/{i:04}"])
    shadow = {key.removeprefix("shadow/"): value for key, value in arrays.items() if key.startswith("shadow/")}
    return progress, shadow


def _differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    fields = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key)!r} there, {after.get(key)!r} here" for key in fields[:4])
