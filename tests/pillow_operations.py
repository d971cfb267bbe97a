"""Pillow's own version of every operation of RandAugment, by the same names, as the reference for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FILL = (124, 116, 104)  # ImageNet's mean
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
BLENDING = ("Color", "Contrast", "Brightness", "Sharpness")


def operate(name: str, pixels: np.ndarray, argument: Any = None, bicubic: bool = False) -> np.ndarray:
    """The picture uint8 (H, W, 3) after one operation."""
    return np.asarray(_operate(name, Image.fromarray(pixels), argument, bicubic))


def source_is_on_border(name: str, shape: tuple[int, ...], argument: float) -> np.ndarray:
    """bool (H, W): where a moving operation reads so close to the border that rounding decides on which side."""
    height, width = shape[:2]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    if name == "Rotate":
        cosine, sine = np.cos(np.radians(argument)), np.sin(np.radians(argument))
        x, y = x - width / 2, y - height / 2
        x, y = cosine * x - sine * y + width / 2, sine * x + cosine * y + height / 2
    else:
        a, b, c, d, e, f = _matrix(name, (width, height), argument)
        x, y = a * x + b * y + c, d * x + e * y + f
    return np.min([np.abs(place - end) for place, size in ((x, width), (y, height)) for end in (0, size)], 0) < 1e-9


def _operate(name: str, image: Image.Image, argument: Any, bicubic: bool) -> Image.Image:
    kernel = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    if name in ("AutoContrast", "Equalize", "Invert"):
        return getattr(ImageOps, name.lower())(image)
    if name in ("Posterize", "Solarize"):
        return getattr(ImageOps, name.lower())(image, argument)
    if name == "SolarizeAdd":
        return image.point([min(255, level + argument) if level < 128 else level for level in range(256)] * 3)
    if name in BLENDING:
        return getattr(ImageEnhance, name)(image).enhance(argument)
    if name == "Rotate":
        return image.rotate(argument, kernel, fillcolor=FILL)
    matrix = _matrix(name, image.size, argument)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, kernel, fillcolor=FILL)


def _matrix(name: str, size: tuple[int, int], argument: float) -> tuple[float, ...]:
    return {
        "ShearX": (1.0, argument, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, argument, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, argument * size[0], 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, argument * size[1]),
    }[name]
