"""Model folders: safetensors and a JSON card, written whole or not at all; and the weights of a model by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from tensorflow import keras

from dvt_tf.exit_rule import check_thresholds
from dvt_tf.presets import CascadeConfig

if TYPE_CHECKING:
    from dvt_tf.cascade import DynamicVisionTransformer

FORMAT_VERSION = 1
CARD_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
PREPROCESSING_KEYS = ("image_size", "resize_short_side", "interpolation", "mean", "std")


def named_weights(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every weight below a layer with a name that is the same on all Keras generations: the path of its attributes.

    For example `transformers.1.blocks.0.attention.qkv.kernel`.
    """
    inner: set[int] = set()
    for attribute, value in vars(layer).items():
        if attribute.startswith("_"):
            continue
        if isinstance(value, keras.layers.Layer):
            subs = [(f"{prefix}{attribute}.", value)]
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, keras.layers.Layer) for v in value):
            subs = [(f"{prefix}{attribute}.{i}.", sub) for i, sub in enumerate(value)]
        else:
            continue
        for path, sub in subs:
            inner.update(id(weight) for weight in sub.weights)
            yield from named_weights(sub, path)
    for weight in layer.weights:
        if id(weight) not in inner:
            yield prefix + weight.name.split("/")[-1].split(":")[0], weight


def state_of(model: keras.Model) -> dict[str, np.ndarray]:
    """All weights by name, float32."""
    return {name: np.asarray(weight.numpy(), np.float32) for name, weight in named_weights(model)}


def weights_digest(model: keras.Model) -> str:
    """What tells one set of weights from another: SHA-256, in hexadecimal, of names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, value in sorted(state_of(model).items()):
        digest.update(f"{name} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()


def assign_state(model: keras.Model, state: Mapping[str, np.ndarray], source: str) -> None:
    """Sets every weight, strictly by name and shape: all of it or nothing.

    Raises:
        ValueError: a name is missing or too many or a shape differs; the message names `source` and the first ones.
    """
    weights = dict(named_weights(model))
    check_state({name: tuple(weight.shape) for name, weight in weights.items()}, state, source)
    for name, weight in weights.items():
        weight.assign(np.asarray(state[name], np.float32))


def check_state(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Any], source: str) -> None:
    """Checks arrays by name against the shapes that are expected, strictly, and that all their values are finite.

    Raises:
        ValueError: a name is missing or too many, a shape differs, or a value is infinite or not a number.
    """
    faults = []
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    if missing:
        faults.append(f"{len(missing)} missing ({_first(missing)})")
    if extra:
        faults.append(f"{len(extra)} unexpected ({_first(extra)})")
    shapes = [
        f"{name} is {tuple(np.shape(state[name]))} and should be {shape}"
        for name, shape in expected.items()
        if name in state and tuple(np.shape(state[name])) != shape
    ]
    if shapes:
        faults.append(f"{len(shapes)} of another shape ({_first(shapes)})")
    if faults:
        raise ValueError(f"{source} does not fit this cascade: of {len(expected)} weights, {'; '.join(faults)}")
    for name in expected:
        if not np.all(np.isfinite(np.asarray(state[name], np.float32))):
            raise ValueError(f"{source}: weight {name} holds values that are not finite numbers")


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def read_card(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, checked for what every user of it needs.

    Raises:
        FileNotFoundError: the folder has no config.json. ValueError: it is damaged or of another format.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} is no model folder: it has no {CARD_FILE}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} is not a card of format_version {FORMAT_VERSION}")
    try:
        check_card(card)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return card


def check_card(card: dict[str, Any]) -> None:
    """Checks the entries that everything relies on.

    Raises:
        ValueError: one is missing or makes no sense.
    """
    for key, kind in (("config", dict), ("class_names", list), ("preprocessing", dict), ("thresholds", dict)):
        if not isinstance(card.get(key), kind):
            raise ValueError(f"{key} must be {'a list' if kind is list else 'an object'}, not {card.get(key)!r}")
    config, names = CascadeConfig.from_dict(card["config"]), card["class_names"]
    if len(names) != config.num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be {config.num_classes} strings, one per class")
    ids = card.get("class_ids")
    if ids is not None and not (
        isinstance(ids, list) and all(isinstance(one, str) for one in ids) and len(set(ids)) == len(ids) == len(names)
    ):
        raise ValueError(f"class_ids must be {len(names)} different strings, one per class, or not be there")
    missing = [key for key in PREPROCESSING_KEYS if key not in card["preprocessing"]]
    if missing:
        raise ValueError(f"preprocessing lacks {', '.join(missing)}")
    check_thresholds(card["thresholds"].get("values"), config.num_exits, "thresholds.values")
    if "budgets" in card:
        _check_budgets(card["budgets"], config.num_exits)
    if "guarantees" in card:
        _check_guarantees(card["guarantees"], config.num_exits)


def _check_guarantees(entries: Any, num_exits: int) -> None:
    """Checks the promises of a card: each has thresholds and says what is promised."""
    if not isinstance(entries, list):
        raise ValueError("guarantees must be a list")
    for number, entry in enumerate(entries):
        promise = entry.get("guarantee") if isinstance(entry, dict) else None
        if not isinstance(promise, dict) or any(key not in promise for key in ("risk", "level", "confidence", "about")):
            raise ValueError(f"guarantees[{number}].guarantee must have risk, level, confidence and about")
        check_thresholds(entry.get("values"), num_exits, f"guarantees[{number}].values")


def _check_budgets(table: Any, num_exits: int) -> None:
    """Checks what a card says of budgets: points of a cost, what is reached at it, thresholds; and the last exit."""

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and bool(np.isfinite(value)) and value >= 0

    points = table.get("points") if isinstance(table, dict) else None
    measure = table.get("measure") if isinstance(table, dict) else None
    if not isinstance(points, list) or measure not in ("top1", "agreement"):
        raise ValueError("budgets must be an object with a list of points, and top1 or agreement as their measure")
    for number, point in enumerate(points):
        numbers = [point.get("gmacs"), point.get(measure)] if isinstance(point, dict) else [None]
        if not all(map(is_number, numbers)):
            raise ValueError(f"budgets.points[{number}] must have gmacs and {measure}, finite numbers of at least 0")
        check_thresholds(point.get("thresholds"), num_exits, f"budgets.points[{number}].thresholds")
    if "full" in table and not is_number(table["full"]):
        raise ValueError(f"budgets.full, {measure} of the last exit, must be a finite number of at least 0")


def load_weights(model: DynamicVisionTransformer, path: Path) -> None:
    """Loads a weights.safetensors into a built cascade, strictly.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, or not this cascade's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} does not exist")
    try:
        state = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    assign_state(model, state, str(path))


def check_folder(folder: Path) -> None:
    """Refuses a place where no model can be saved: so that nothing is computed in vain.

    Raises:
        ValueError: it is a file, or a folder with other files than a model's.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; a model is saved into a folder")
    if folder.is_dir() and any(p.name not in (CARD_FILE, WEIGHTS_FILE) for p in folder.iterdir()):
        raise ValueError(f"folder {str(folder)!r} holds other files; save the model into a folder of its own")


def save(model: DynamicVisionTransformer, folder: Path) -> None:
    """Writes a model folder whole or not at all: into a temporary sibling, then renamed into place."""
    check_folder(folder)
    folder = folder.resolve()  # renaming works on the folder itself, not on a link to it
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        card = {**model.card, "config": model.config.to_dict()}
        contents = safetensors.numpy.save(state_of(model), metadata={"format": "dvt_tf"})
        (temporary / WEIGHTS_FILE).write_bytes(contents)  # its own writing of files raises no OSError on a full disk
        (temporary / CARD_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # made for the owner alone, and models are copied, shared and served
        if folder.is_dir():
            _replace_folder(folder, temporary)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(folder: Path, new: Path) -> None:
    """Puts `new` in the place of `folder`, or leaves `folder` as it was."""
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            os.replace(old, folder)
            raise
    except OSError:
        shutil.rmtree(old, ignore_errors=True)
        raise
    shutil.rmtree(old)
