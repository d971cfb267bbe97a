"""A model folder to a SavedModel for TensorFlow Serving: image files in, answers out.

The graph decodes, prepares and classifies by itself, with real early exit (`dvt_tf.adaptive`). What the server puts
into one batch may come from many clients: a row that is no image answers `valid = false` and leaves the others alone.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf import preprocessing
from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import CARD_FILE
from dvt_tf.exit_rule import NEVER
from dvt_tf.warmup import WARMUP_FILE, prediction_log

_HALF_WRITTEN = ".exporting."  # the server takes only folders whose name is a number
_ABANDONED = 3600.0  # seconds after which a half-written one is nobody's any more

Answer = dict[str, tf.Tensor]


def export(model: DynamicVisionTransformer, folder: str | Path, version: int | None = None) -> Path:
    """Writes `folder`/VERSION, whole or not at all: a server that watches the folder never sees half of one.

    Signatures, all with the batch first; N may be 0:

    - `serving_default`: `image_bytes` string (N,), the contents of image files.
    - `with_thresholds`: those and `thresholds` float32 (N, K - 1), a row for each image; NaN and negative mean never.
    - `pixels`: `images` uint8 (N, S, S, 3), of the model's own size.

    Each gives `label` string (N,), `probabilities` float32 (N, C), `confidence` float32 (N,), `exit` int32 (N,)
    1-based, `gmacs` float32 (N,) and `valid` bool (N,). Where a row is no image that the graph reads: label "", every
    probability and the confidence 1/C, exit 0, gmacs 0, valid false.

    Args:
        model: the cascade; the thresholds of its card are those of the signatures that are given none.
        folder: of the model on the server. Its versions are folders whose names are numbers.
        version: by default one more than the highest there is.

    Returns:
        The folder of the version.

    Raises:
        ValueError: the version exists already or is below 1, or `folder` is a file.
    """
    folder = Path(folder).resolve()
    check_place(folder, version)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f"{_HALF_WRITTEN}{os.getpid()}.", dir=folder))
    try:
        _write(model, temporary, folder.name)
        temporary.chmod(0o755)
        return _put_in_place(temporary, folder, version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_place(folder: Path, version: int | None) -> None:
    """Refuses a place where no version can be written: so that nothing is computed in vain.

    Raises:
        ValueError: as `export`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; versions are written into a folder")
    if (folder / "saved_model.pb").exists():
        raise ValueError(f"{str(folder)!r} is a SavedModel itself; give the folder that its versions are in")
    if version is not None and version < 1:
        raise ValueError(f"the version is {version}; it must be a whole number from 1")
    if version is not None and (folder / str(version)).exists():
        raise ValueError(f"{folder} has a version {version} already; leave it out for the next free one")


def versions(folder: Path) -> list[int]:
    """The versions in a folder, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def serving_module(model: DynamicVisionTransformer) -> tf.Module:
    """The functions of the signatures, `serving_default`, `with_thresholds` and `pixels`, and the weights they use."""
    graph = _Graph(model)
    size, others = model.config.image_size, model.num_exits - 1
    image_bytes = tf.TensorSpec((None,), tf.string, "image_bytes")
    thresholds = tf.TensorSpec((None, others), tf.float32, "thresholds")
    images = tf.TensorSpec((None, size, size, 3), tf.uint8, "images")

    def signature(function: Callable[..., Answer], *specs: tf.TensorSpec) -> Any:
        return tf.function(function, input_signature=specs, autograph=False, jit_compile=False)

    module = tf.Module(name="dvt")
    module.form = graph.classifier.form  # the weights: no Keras layer is in it, and nothing of Keras in the file
    module.serving_default = signature(graph.from_bytes, image_bytes)
    module.with_thresholds = signature(graph.from_bytes, image_bytes, thresholds)
    module.pixels = signature(graph.from_pixels, images)
    return module


class _Graph:
    """What the signatures compute. No module, so that nothing in it is saved but what the functions use."""

    def __init__(self, model: DynamicVisionTransformer) -> None:
        self.classifier = AdaptiveClassifier(model)
        self.card = model.card
        self.names = tf.constant(model.card["class_names"], tf.string)
        size, others = model.config.image_size, model.num_exits - 1
        # A function of its own, so that the cascade is in the file once and not once for every signature.
        self.classify = tf.function(
            lambda images, thresholds: self.classifier.classify(images, thresholds)[0],
            input_signature=[
                tf.TensorSpec((None, size, size, 3), tf.float32),
                tf.TensorSpec((None, others), tf.float32),
            ],
            autograph=False,
            jit_compile=False,  # XLA would pad the rows that go on back to the whole batch
        )

    def from_bytes(self, image_bytes: tf.Tensor, thresholds: tf.Tensor | None = None) -> Answer:
        images, valid = preprocessing.preprocess(image_bytes, self.card)
        return self._answer(images, valid, thresholds)

    def from_pixels(self, images: tf.Tensor) -> Answer:
        valid = tf.ones(tf.shape(images)[:1], tf.bool)
        return self._answer(preprocessing.normalise(images, self.card), valid, None)

    def _answer(self, images: tf.Tensor, valid: tf.Tensor, thresholds: tf.Tensor | None) -> Answer:
        """(N, S, S, 3) normalised, bool (N,), (N, K - 1) or the card's -> the outputs; invalid rows run nowhere."""
        count, classes = tf.shape(valid)[0], len(self.card["class_names"])
        if thresholds is None:
            thresholds = tf.broadcast_to(self.classifier.thresholds, (count, self.classifier.num_exits - 1))
        given = tf.shape(thresholds)[0]
        same = tf.debugging.assert_equal(given, count, "there must be one row of thresholds for each image")
        with tf.control_dependencies([same]):
            rows = tf.where(valid)[:, 0]
        found = dict(self.classify(tf.gather(images, rows), tf.gather(thresholds, rows)))
        found["label"] = tf.gather(self.names, tf.argmax(found["probabilities"], -1))
        nothing = {
            "label": tf.fill((count,), ""),
            "probabilities": tf.fill((count, classes), 1.0 / classes),
            "confidence": tf.fill((count,), 1.0 / classes),
            "exit": tf.zeros((count,), tf.int32),
            "gmacs": tf.zeros((count,)),
        }
        where = rows[:, None]
        return {
            **{key: tf.tensor_scatter_nd_update(value, where, found[key]) for key, value in nothing.items()},
            "valid": valid,
        }


def _write(model: DynamicVisionTransformer, folder: Path, name: str) -> None:
    module = serving_module(model)
    signatures = {key: getattr(module, key) for key in ("serving_default", "with_thresholds", "pixels")}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    assets = folder / "assets"
    assets.mkdir(exist_ok=True)
    card = {**model.card, "config": model.config.to_dict()}
    (assets / CARD_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    warmup = folder / WARMUP_FILE
    warmup.parent.mkdir()
    with tf.io.TFRecordWriter(str(warmup)) as writer:
        for signature, inputs in warmup_requests(model):
            writer.write(prediction_log(name, signature, inputs))


def warmup_requests(model: DynamicVisionTransformer) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Requests after which every signature, every exit and both usual decoders have run: (signature, inputs)."""
    size, exits = model.config.image_size, model.num_exits
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    pixels = np.stack([np.broadcast_to(ramp, (size, size)), np.broadcast_to(ramp[:, None], (size, size))], -1)
    pixels = np.concatenate([pixels, pixels[..., :1] // 2], -1)  # (S, S, 3)
    files = [tf.io.encode_png(pixels).numpy(), tf.io.encode_jpeg(pixels).numpy()]
    # Row k leaves at exit k + 1.
    rows = np.where(np.arange(exits - 1)[None] == np.arange(exits)[:, None], 0.0, NEVER).astype(np.float32)
    each = [("with_thresholds", {"image_bytes": np.array(files[:1], object), "thresholds": row[None]}) for row in rows]
    mixed = np.array([files[k % 2] for k in range(exits)], object)
    return [
        ("serving_default", {"image_bytes": np.array(files, object)}),
        *each,
        ("with_thresholds", {"image_bytes": mixed, "thresholds": rows}),
        ("pixels", {"images": pixels[None]}),
    ]


def _put_in_place(temporary: Path, folder: Path, version: int | None) -> Path:
    """Renames a written version to its number; where another export was faster, to the next one."""
    while True:
        taken = (int(path.name) for path in folder.iterdir() if path.name.isdecimal())  # a file's name as well
        number = version if version is not None else max(taken, default=0) + 1
        target = folder / str(number)
        try:
            temporary.rename(target)
            return target
        except OSError as error:
            if not target.exists():
                raise
            if version is not None:
                raise ValueError(f"{folder} has a version {version} already") from error


def _remove_abandoned(folder: Path) -> None:
    """Removes what exports that were killed have left behind."""
    for path in folder.glob(f"{_HALF_WRITTEN}*"):
        try:
            age = time.time() - max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
        except FileNotFoundError:  # another export has just finished or removed it
            continue
        if age > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)
