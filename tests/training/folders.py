"""Folders of small image files and the recipe of a very small cascade to train on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.images import file_bytes
from training.recipe import Recipe

CLASSES = ("blue", "green", "red")
SMALL: dict[str, Any] = {
    "image_size": 28,
    "token_grids": [2, 4],
    "dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "feature_reuse_hidden": 8,
    "feature_reuse_dim": 4,
    "drop_path_rate": 0.0,
}
RECIPE = Recipe(
    "dvt_tiny_digits",
    overrides=SMALL,
    epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    ema_decay=0.9,
    validate_every=1,
    validation_images=0,
)


def level(split: str, name: str, number: int) -> int:
    """The grey level that tells a picture from all others of its class."""
    return 20 + 7 * number + (100 if split == "val" else 0)


def make_folder(root: Path, train: int = 7, val: int = 20, classes: tuple[str, ...] = CLASSES) -> Path:
    """Pictures of 31 x 28 pixels of one colour each: the class's channel full, the others at the picture's level."""
    for split, count in (("train", train), ("val", val)):
        for index, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((28, 31, 3), level(split, name, number) % 256, np.uint8)
                pixels[..., index % 3] = 255
                (folder / f"{number:02}.png").write_bytes(file_bytes(Image.fromarray(pixels), "PNG"))
    return root
