"""Exported models, and what Python says of a row alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.exit_rule import NEVER
from dvt_tf.preprocessing import normalise, preprocess

Answer = dict[str, Any]  # of one row: the values of the outputs


class Exported(NamedTuple):
    """A folder of versions, and the cascades that they were made from."""

    folder: Path
    models: dict[int, DynamicVisionTransformer]


class Row(NamedTuple):
    """A row of a request, and the answer of each version to it alone."""

    signature: str
    inputs: dict[str, Any]
    answers: dict[int, Answer]


class Alone:
    """The project's own classifier, asked for one row at a time."""

    def __init__(self, model: DynamicVisionTransformer) -> None:
        self._classifier = AdaptiveClassifier(model)
        self._asked: dict[tuple[bytes, tuple[float, ...] | None], Answer] = {}
        self.card = model.card

    def ask(self, image: bytes | np.ndarray, thresholds: Any = None) -> Answer:
        """What is to be answered to an image file, or to pixels."""
        key = bytes(image), None if thresholds is None else tuple(float(value) for value in thresholds)
        if key not in self._asked:
            self._asked[key] = self._ask(image, thresholds)
        return self._asked[key]

    def _ask(self, image: bytes | np.ndarray, thresholds: Any) -> Answer:
        if isinstance(image, bytes):
            images, valid = preprocess([image], self.card)
        else:
            images, valid = normalise(image[None], self.card), tf.constant([True])
        classes = len(self.card["class_names"])
        if not valid[0]:
            nothing = {"label": "", "probabilities": np.full(classes, 1 / classes), "confidence": 1 / classes}
            return {**nothing, "exit": 0, "gmacs": 0.0, "valid": False}
        if thresholds is not None:
            # A classifier refuses what is no threshold; in the graph it means never.
            thresholds = np.where(np.asarray(thresholds) >= 0, thresholds, NEVER)
        answer = {name: value.numpy()[0] for name, value in self._classifier(images, thresholds).items()}
        return {**answer, "label": self.card["class_names"][answer["probabilities"].argmax()], "valid": True}

    def is_clear(self, image: bytes | np.ndarray, thresholds: Any = None) -> bool:
        """Whether no confidence is so near to its threshold that rounding could decide."""
        thresholds = self.card["thresholds"]["values"] if thresholds is None else thresholds
        for exit_, threshold in enumerate(thresholds):
            found = self.ask(image, [0.0 if k == exit_ else NEVER for k in range(len(thresholds))])
            if found["valid"] and abs(found["confidence"] - threshold) < 1e-5:
                return False
        return True


def same(found: Answer, expected: Answer) -> bool:
    """Whether two answers are the same up to rounding; labels may be text or bytes."""
    label = found["label"].decode() if isinstance(found["label"], bytes) else found["label"]
    return (
        set(found) == set(expected)
        and label == expected["label"]
        and found["exit"] == expected["exit"]
        and found["valid"] == expected["valid"]
        and all(
            np.allclose(found[name], expected[name], rtol=0, atol=1e-5)
            for name in ("probabilities", "confidence", "gmacs")
        )
    )
