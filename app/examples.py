"""Easy, medium and hard images to click: genuine test scenes, chosen by digit size and clutter alone."""

from __future__ import annotations

import dataclasses
import functools
import io

import numpy as np
from PIL import Image

from dvt_tf.digits import digit_scenes

# What each difficulty asks for: the digit's side in pixels and the share of clutter. Results play no part.
DIFFICULTIES = {"easy": (85.0, 0.0), "medium": (45.0, 0.4), "hard": (24.0, 0.75)}
EACH = 2
SEARCHED = 1000  # of the test scenes, from the first


@dataclasses.dataclass(frozen=True)
class Example:
    """One scene: its bytes as PNG, easy, medium or hard, the digit, and its index in the test split."""

    png: bytes
    difficulty: str
    label: str
    scene: int


@functools.cache
def digit_examples() -> tuple[Example, ...]:
    """Two scenes of each difficulty, of six different digits: those nearest to what `DIFFICULTIES` asks for."""
    scenes = digit_scenes("test", size=SEARCHED)
    chosen: list[Example] = []
    for difficulty, (size, clutter) in DIFFICULTIES.items():
        # A halving of the size weighs as much as the whole range of clutter.
        distance = np.abs(np.log2(scenes.object_size / size)) + np.abs(scenes.clutter - clutter)
        count = 0
        for index in np.argsort(distance, kind="stable"):
            label = str(int(scenes.labels[index]))
            if label not in {example.label for example in chosen}:
                chosen.append(Example(_png(scenes.images[index]), difficulty, label, int(index)))
                count += 1
            if count == EACH:
                break
    return tuple(chosen)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
