"""RandAugment's operations one by one against Pillow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests import images
from tests.pillow_operations import BLENDING, FILL, MOVING, operate, source_is_on_border
from training import image_operations as operations
from training.randaugment import arguments

PLAIN: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": operations.autocontrast,
    "Equalize": operations.equalize,
    "Invert": operations.invert,
}
WHOLE: dict[str, Callable[..., tf.Tensor]] = {
    "Posterize": operations.posterize,
    "Solarize": operations.solarize,
    "SolarizeAdd": operations.solarize_add,
}
BLEND: dict[str, Callable[..., tf.Tensor]] = {name: getattr(operations, name.lower()) for name in BLENDING}
MOVE: dict[str, Callable[..., tf.Tensor]] = {
    "Rotate": operations.rotate,
    "ShearX": operations.shear_x,
    "ShearY": operations.shear_y,
    "TranslateX": operations.translate_x,
    "TranslateY": operations.translate_y,
}


@st.composite
def small_pictures(draw: st.DrawFn) -> np.ndarray:
    """A few pixels a side, of all levels, of a few close ones, or of one alone."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    low = draw(st.integers(0, 255))
    high = draw(st.integers(low, min(255, low + draw(st.sampled_from([0, 3, 255])))))
    return draw(arrays.arrays(np.uint8, (height, width, 3), elements=st.integers(low, high)))


def photo(index: int) -> np.ndarray:
    return np.asarray(images.photo(index).resize((160, 107)))


def dull_photo(index: int) -> np.ndarray:
    """With neither black nor white, so that there is contrast to gain."""
    return (photo(index) // 3 + 50 + 10 * np.arange(3)).astype(np.uint8)


def levels(name: str) -> list[Any]:
    """What the operation takes at some levels, in both directions, of both kinds of policy."""
    field = {"Posterize": "bits", "Solarize": "threshold", "SolarizeAdd": "amount", "Rotate": "degrees"}.get(name)
    field = field or ("factor" if name in BLENDING else "shear" if name.startswith("Shear") else "share")
    taken = [
        getattr(arguments(tf.constant(level, tf.float64), tf.constant(negative), increasing), field).numpy().item()
        for level in (0.0, 2.5, 8.7, 9.0, 10.0)
        for negative in (False, True)
        for increasing in (False, True)
    ]
    return sorted(set(taken))


def difference(found: tf.Tensor, reference: np.ndarray) -> np.ndarray:
    assert found.dtype == tf.uint8
    assert found.shape == reference.shape
    return np.abs(found.numpy().astype(int) - reference.astype(int))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("picture", [photo, dull_photo])
@pytest.mark.parametrize("name", PLAIN)
def test_operations_without_a_level_are_pillows(name: str, picture: Callable[[int], np.ndarray], index: int) -> None:
    pixels = picture(index)
    np.testing.assert_array_equal(PLAIN[name](tf.constant(pixels)), operate(name, pixels))


@pytest.mark.parametrize("name", [*WHOLE, *BLEND])
def test_operations_on_levels_are_pillows(name: str) -> None:
    for index in (0, 1):
        for argument in levels(name):
            found = {**WHOLE, **BLEND}[name](tf.constant(photo(index)), argument)
            np.testing.assert_array_equal(found, operate(name, photo(index), argument), err_msg=f"{name} {argument}")


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("name", MOVE)
def test_operations_that_move_pixels_are_within_a_level_of_pillows(name: str, bicubic: bool) -> None:
    for index in (0, 1):
        for argument in levels(name):
            found = MOVE[name](tf.constant(photo(index)), argument, FILL, bicubic)
            off = difference(found, operate(name, photo(index), argument, bicubic))
            assert off.max() <= 1, f"{name} {argument}"
            # Where a pixel moves by nearly a whole number of them, Pillow's own rounding decides.
            assert (off > 0).mean() < 0.01 or name.startswith("Translate"), f"{name} {argument}"


@given(pixels=small_pictures())
@example(pixels=np.full((5, 4, 3), 77, np.uint8))
@example(pixels=np.array([[[0, 10, 255], [0, 11, 255]]], np.uint8))
@settings(max_examples=60)
def test_small_pictures_and_single_levels_stretch_as_in_pillow(pixels: np.ndarray) -> None:
    for name, operation in PLAIN.items():
        np.testing.assert_array_equal(operation(tf.constant(pixels)), operate(name, pixels), err_msg=name)


@given(values=arrays.arrays(np.uint8, (20, 30, 3)), step=st.integers(1, 5))
@settings(max_examples=30)
def test_more_pixels_than_levels_equalize_as_in_pillow(values: np.ndarray, step: int) -> None:
    pixels = np.tile(values // step * step, (1, 3, 1))
    np.testing.assert_array_equal(operations.equalize(tf.constant(pixels)), operate("Equalize", pixels))


@given(
    pixels=small_pictures(),
    bits=st.integers(0, 8),
    threshold=st.integers(0, 256),
    amount=st.integers(0, 255),
    factor=st.floats(0, 2, width=32),
)
@settings(max_examples=60)
def test_small_pictures_change_levels_as_in_pillow(
    pixels: np.ndarray, bits: int, threshold: int, amount: int, factor: float
) -> None:
    taken = {"Posterize": bits, "Solarize": threshold, "SolarizeAdd": amount}
    for name, operation in {**WHOLE, **BLEND}.items():
        argument = taken.get(name, factor)
        np.testing.assert_array_equal(
            operation(tf.constant(pixels), argument), operate(name, pixels, argument), err_msg=name
        )


@given(pixels=small_pictures(), amount=st.floats(-1, 1), bicubic=st.booleans())
@settings(max_examples=60)
def test_small_pictures_move_as_in_pillow(pixels: np.ndarray, amount: float, bicubic: bool) -> None:
    for name in MOVING:
        argument = amount * (30 if name == "Rotate" else 0.45)
        off = difference(
            MOVE[name](tf.constant(pixels), argument, FILL, bicubic), operate(name, pixels, argument, bicubic)
        )
        assert off[~source_is_on_border(name, pixels.shape, argument)].max(initial=0) <= 1, name
