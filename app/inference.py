"""One model behind the page: image bytes -> the probabilities of every exit, and the very pixels it saw."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import dvt_tf
from app import budgets
from dvt_tf import image_files, preprocessing
from dvt_tf.calibration import stale_note
from dvt_tf.cascade import read_card_of
from dvt_tf.cost import count_macs, count_parameters
from dvt_tf.digits import CLASS_NAMES as DIGITS
from dvt_tf.presets import CascadeConfig
from dvt_tf.vision_transformer import TransformerOutputs

DATA_URL = "data:image/png;base64,"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All that the model has to say of one image.

    probabilities: (K, C) as plain lists. pixels: (S, S, 3) uint8, the image as it was resized and cropped.
    milliseconds: (K,) measured, from the decoded image to the probabilities of each exit, all before it included.
    """

    probabilities: list[list[float]]
    pixels: np.ndarray
    milliseconds: list[float]


class UnloadableError(ValueError):
    """A model's weights cannot be read. The message is for visitors; what it is exactly goes to stderr."""


class Predictor:
    """A model behind the page: known by its card at once, its weights read when they are first needed.

    Args:
        model: the cascade, or the folder or name that it is loaded from.
        name: how the page calls it.

    Raises:
        ValueError, FileNotFoundError: there is no such model, or its card is damaged.
    """

    def __init__(self, model: dvt_tf.DynamicVisionTransformer | str, name: str) -> None:
        self.name = name
        self._source = model
        self.card = read_card_of(model) if isinstance(model, str) else model.card
        self.config = CascadeConfig.from_dict(self.card["config"])
        self.class_names: list[str] = list(self.card["class_names"])
        self.thresholds: list[float] = [float(value) for value in self.card["thresholds"]["values"]]
        self.gmacs: list[float] = [macs / 1e9 for macs in count_macs(self.config)]
        self.parameters = count_parameters(self.config)
        self.knows_budgets = budgets.knows_budgets(self.card, self.gmacs)
        self._loading, self._running = threading.Lock(), threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def num_exits(self) -> int:
        """One per Transformer."""
        return self.config.num_exits

    @property
    def knows_digits(self) -> bool:
        """Whether its classes are the ten digits: then a drawing pad and the digit examples make sense."""
        return tuple(self.class_names) == DIGITS

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self._loaded is not None

    @property
    def stale_note(self) -> str:
        """A sentence if its thresholds are of other weights, "" if not; loads it."""
        return self.load().stale_note

    @property
    def model(self) -> dvt_tf.DynamicVisionTransformer:
        """The cascade itself, for those who need more of it than its answers; loads it."""
        return self.load().model

    def load(self) -> _Loaded:
        """Reads the weights and runs a blank image, so that no visitor waits for that later; once.

        Raises:
            UnloadableError: its files are missing or damaged.
        """
        with self._loading:
            if self._loaded is None:
                loaded = _Loaded(self._read(), self.card)
                blank = self.pixels_of(bytes(tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)).numpy()))
                for _ in range(2):  # the first traces, and what it measures means nothing
                    loaded.run(blank)
                self._loaded = loaded
            return self._loaded

    def _read(self) -> dvt_tf.DynamicVisionTransformer:
        if not isinstance(self._source, str):
            return self._source
        try:
            return dvt_tf.DynamicVisionTransformer.from_preset(self._source)
        except (ValueError, FileNotFoundError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            raise UnloadableError(f"{self.name} cannot be loaded: its files are missing or damaged") from error

    def analyse(self, image_bytes: bytes) -> Analysis:
        """Runs every exit once.

        Raises:
            image_files.ImageError: the bytes are no image that can be read.
        """
        loaded, pixels = self.load(), self.pixels_of(image_bytes)
        with self._running:  # pages run handlers in many threads; one forward pass at a time uses the cores best
            probabilities, milliseconds = loaded.run(pixels)
        seen = np.clip(np.rint(pixels[0].numpy()), 0, 255).astype(np.uint8)
        return Analysis(probabilities, seen, milliseconds)

    def pixels_of(self, image_bytes: bytes) -> tf.Tensor:
        """Decodes one image: (1, S, S, 3) float32 from 0 to 255, resized and cropped as the model takes it.

        Raises:
            image_files.ImageError: the bytes are no image that can be read.
        """
        pixels, valid = preprocessing.decode_and_crop(tf.constant([image_bytes]), self.card)
        if not bool(valid[0]):
            raise image_files.ImageError("the image is damaged or not an image")
        return pixels

    def outputs_of(self, image_bytes: bytes) -> list[TransformerOutputs]:
        """All that every Transformer computes for one image, upstream first.

        Raises:
            image_files.ImageError: the bytes are no image that can be read.
        """
        loaded, pixels = self.load(), self.pixels_of(image_bytes)
        with self._running:
            return loaded.outputs(pixels)

    def classify(self, images: Sequence[bytes], thresholds: Sequence[float]) -> list[dict[str, Any] | None]:
        """Classifies a batch with real early exit: what has left is not computed any further.

        Args:
            images: contents of image files, as `uploaded_bytes` gives them. thresholds: (K-1,).

        Returns:
            For each `label`, `confidence`, `exit` (1-based) and `gmacs`; None for what is no image.
        """
        loaded = self.load()
        inputs, valid = preprocessing.preprocess(tf.constant(list(images)), self.card)
        rows = np.flatnonzero(valid.numpy())
        with self._running:
            found = loaded.classifier(inputs.numpy()[rows], thresholds)
        labels = found["probabilities"].numpy().argmax(-1)
        confidences, exits = found["confidence"].numpy(), found["exit"].numpy()
        answers: list[dict[str, Any] | None] = [None] * len(images)
        for i, row in enumerate(rows):
            answers[row] = {
                "label": self.class_names[labels[i]],
                "confidence": float(confidences[i]),
                "exit": int(exits[i]),
                "gmacs": float(self.gmacs[exits[i] - 1]),
            }
        return answers


class _Loaded:
    """A model in memory, one traced function for each of its Transformers, and what leaves early for real."""

    def __init__(self, model: dvt_tf.DynamicVisionTransformer, card: dict[str, Any]) -> None:
        self.model, self.card = model, card
        self.stale_note = stale_note(model)  # here alone: it reads every weight
        self.classifier = dvt_tf.AdaptiveClassifier(model)
        stages = self.classifier.form.transformers
        self._stages = [tf.function(transformer.__call__, autograph=False) for transformer in stages]

    def outputs(self, pixels: tf.Tensor) -> list[TransformerOutputs]:
        """(1, S, S, 3) from 0 to 255 -> the outputs of every Transformer."""
        return [outputs for outputs, _ in self._timed(pixels)]

    def run(self, pixels: tf.Tensor) -> tuple[list[list[float]], list[float]]:
        """(1, S, S, 3) from 0 to 255 -> (K, C) probabilities and (K,) milliseconds from here to each."""
        rows, taken = [], []
        for outputs, milliseconds in self._timed(pixels):
            rows.append(tf.nn.softmax(tf.cast(outputs.logits[0], tf.float32)).numpy().tolist())
            taken.append(milliseconds)
        return rows, taken

    def _timed(self, pixels: tf.Tensor) -> Iterator[tuple[TransformerOutputs, float]]:
        start = time.perf_counter()
        images, upstream, spent = preprocessing.normalise(pixels, self.card), None, 0.0
        for stage in self._stages:
            upstream = stage(images, upstream=upstream)
            upstream.logits.numpy()  # waits for it
            spent += time.perf_counter() - start
            yield upstream, 1000 * spent
            start = time.perf_counter()


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


def load_all(folders_or_names: Sequence[str], load_first: bool = True) -> list[Predictor]:
    """The predictors of several models, the first of them loaded; a folder's last part is its name if that is enough.

    Raises:
        ValueError, FileNotFoundError: there is no such model, or the first one's files are damaged.
    """
    short = [Path(text).name or text for text in folders_or_names]
    names = [text if short.count(name) > 1 else name for text, name in zip(folders_or_names, short, strict=True)]
    predictors = [Predictor(text, name) for text, name in zip(folders_or_names, names, strict=True)]
    if load_first:
        predictors[0].load()
    return predictors
