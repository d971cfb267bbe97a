"""One model behind the page: image bytes -> the probabilities of every exit, and the very pixels it saw."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

import dvt_tf
from app import budgets
from dvt_tf import image_files, preprocessing
from dvt_tf.calibration import stale_note
from dvt_tf.cost import count_macs, count_parameters
from dvt_tf.digits import CLASS_NAMES as DIGITS

DATA_URL = "data:image/png;base64,"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All that the model has to say of one image.

    probabilities: (K, C) as plain lists. pixels: (S, S, 3) uint8, the image as it was resized and cropped.
    """

    probabilities: list[list[float]]
    pixels: np.ndarray


class Predictor:
    """A model, its card, and one traced function that computes every exit of one image.

    Args:
        model: the cascade.
        name: how the page calls it.
    """

    def __init__(self, model: dvt_tf.DynamicVisionTransformer, name: str) -> None:
        self.name = name
        self.card = model.card
        self.config = model.config
        self.class_names: list[str] = list(model.card["class_names"])
        self.thresholds: list[float] = [float(value) for value in model.card["thresholds"]["values"]]
        self.gmacs: list[float] = [macs / 1e9 for macs in count_macs(model)]
        self.parameters = count_parameters(model.config)
        self.knows_budgets = budgets.knows_budgets(self.card, self.gmacs)
        self.stale_note = stale_note(model)  # here alone: it reads every weight
        self._lock = threading.Lock()
        size = self.config.image_size

        @tf.function(input_signature=[tf.TensorSpec((1, size, size, 3), tf.float32)])
        def every_exit(pixels: tf.Tensor) -> tf.Tensor:
            logits = model(preprocessing.normalise(pixels, self.card), training=False)
            stacked = tf.stack([logits[f"exit_{k + 1}"][0] for k in range(self.num_exits)])
            return tf.nn.softmax(tf.cast(stacked, tf.float32))  # (K, C)

        self._every_exit = every_exit

    @property
    def num_exits(self) -> int:
        """One per Transformer."""
        return self.config.num_exits

    @property
    def knows_digits(self) -> bool:
        """Whether its classes are the ten digits: then a drawing pad and the digit examples make sense."""
        return tuple(self.class_names) == DIGITS

    def warm_up(self) -> None:
        """Traces everything on a blank image, so that the first visitor does not wait for it."""
        blank = tf.io.encode_png(tf.fill((8, 8, 3), tf.constant(255, tf.uint8)))
        self.analyse(bytes(blank.numpy()))

    def analyse(self, image_bytes: bytes) -> Analysis:
        """Runs every exit once.

        Raises:
            image_files.ImageError: the bytes are no image that can be read.
        """
        pixels, valid = preprocessing.decode_and_crop(tf.constant([image_bytes]), self.card)
        if not bool(valid[0]):
            raise image_files.ImageError("the image is damaged or not an image")
        with self._lock:  # pages run handlers in many threads; one forward pass at a time uses the cores best
            probabilities = self._every_exit(pixels)
        seen = np.clip(np.rint(pixels[0].numpy()), 0, 255).astype(np.uint8)
        return Analysis(probabilities.numpy().tolist(), seen)


def uploaded_bytes(path: str) -> bytes:
    """The bytes of an uploaded file, as the graph decodes them.

    Raises:
        image_files.ImageError: no image; the message has the file's own name, not where it was stored.
    """
    name = Path(path).name
    try:
        data = Path(path).read_bytes()
    except OSError as error:  # uploads are kept for about an hour
        raise image_files.ImageError(f"{name}: is no longer here; upload it again") from error
    return image_files.to_graph_bytes(data, name)


def drawn_bytes(data_url: str) -> bytes:
    """The PNG bytes of the drawing pad's data URL.

    Raises:
        image_files.ImageError: anything else.
    """
    if not data_url.startswith(DATA_URL):
        raise image_files.ImageError("the drawing did not arrive as a PNG")
    try:
        return base64.b64decode(data_url[len(DATA_URL) :], validate=True)
    except binascii.Error as error:
        raise image_files.ImageError("the drawing arrived damaged") from error


def load_all(folders_or_names: Sequence[str]) -> list[Predictor]:
    """The predictors of several models, each under a name of its own: a folder's last part where that is enough.

    Raises:
        ValueError, FileNotFoundError: as `DynamicVisionTransformer.from_preset` does.
    """
    short = [Path(text).name or text for text in folders_or_names]
    names = [text if short.count(name) > 1 else name for text, name in zip(folders_or_names, short, strict=True)]
    return [
        Predictor(dvt_tf.DynamicVisionTransformer.from_preset(text), name)
        for text, name in zip(folders_or_names, names, strict=True)
    ]
