"""Image files for the tests of serving: pictures in the formats that the graph reads, and what is none."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests import images


def good_files(count: int, seed: int = 0) -> list[bytes]:
    """Pictures of different sizes, each in one of the formats."""
    random = np.random.default_rng(seed)
    kinds = ("PNG", "JPEG", "BMP", "GIF")
    coarse = [Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)) for _ in range(count)]
    pictures = [one.resize((30 + i % 9, 34), Image.Resampling.BILINEAR) for i, one in enumerate(coarse)]
    return [images.file_bytes(one, kinds[i % 4]) for i, one in enumerate(pictures)]


def broken_files() -> list[bytes]:
    """What is no image that the graph reads, each in its own way."""
    jpeg, png = (images.file_bytes(images.picture(), kind) for kind in ("JPEG", "PNG"))
    return [
        b"",
        jpeg[: len(jpeg) // 2],
        png[: len(png) // 2],
        jpeg[:4] + bytes(300),  # right magic, wrong body
        png[:16] + bytes(300),
        images.file_bytes(images.picture(), "WEBP"),
        images.declares("PNG", 30_000, 30_000),  # a decompression bomb, by its header
        images.declares("JPEG", 60_000, 60_000),
    ]
