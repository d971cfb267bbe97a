"""Random crops: always inside the picture, drawn as published, and resized as Pillow does it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import images
from tests.seeds import over_seeds, uniform_distance
from training.crops import RATIO, SCALE, crop_box, random_crop, random_resized_crop

SEED = tf.constant([3, 4])


def box(height: int, width: int, seed: tf.Tensor = SEED, scale: tuple = SCALE, ratio: tuple = RATIO) -> list[int]:
    size = tf.constant(height, tf.int64), tf.constant(width, tf.int64)
    return [int(side) for side in crop_box(*size, seed, scale, ratio)]


def picture(height: int, width: int) -> np.ndarray:
    """Smooth, with its row, column and both in the three channels, the first two exact up to 128 pixels a side."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * rows, 2 * columns, rows + columns], -1).astype(np.uint8)


@given(
    height=st.one_of(st.integers(1, 12), st.integers(1, 100_000)),
    width=st.one_of(st.integers(1, 12), st.integers(1, 100_000)),
    seed=st.integers(0, 2**31 - 1),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
)
@example(height=1, width=1, seed=0, scale=(0.001, 0.001), ratio=(3.0, 3.0))
@settings(max_examples=80)
def test_crops_are_inside_the_picture(
    height: int, width: int, seed: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    top, left, crop_height, crop_width = box(
        height, width, tf.constant([seed, 1]), (min(scale), max(scale)), (min(ratio), max(ratio))
    )
    assert crop_height >= 1
    assert crop_width >= 1
    assert 0 <= top <= height - crop_height
    assert 0 <= left <= width - crop_width


def test_area_is_uniform_shape_log_uniform_and_place_uniform() -> None:
    side, count = 2000, 3000
    size = tf.constant(side, tf.int64)
    # Up to a quarter of a square the first attempt always fits, so nothing is left out.
    tops, lefts, heights, widths = over_seeds(lambda seed: crop_box(size, size, seed, (0.08, 0.25), RATIO), count)
    assert uniform_distance(heights * widths / side**2, 0.08, 0.25) < 2
    assert uniform_distance(np.log(widths / heights), math.log(3 / 4), math.log(4 / 3)) < 2
    assert uniform_distance(tops / (side - heights), 0, 1) < 2
    assert uniform_distance(lefts / (side - widths), 0, 1) < 2


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [
        ((100, 10), RATIO, [43, 0, 13, 10]),  # height 10 / 0.75, in the middle
        ((10, 100), RATIO, [0, 43, 10, 13]),
        ((1, 60_000), RATIO, [0, 29_999, 1, 1]),
        ((90, 100), (0.5, 2.0), [0, 0, 90, 100]),  # allowed as it is
    ],
)
def test_what_never_fits_is_cut_from_the_middle(
    size: tuple[int, int], ratio: tuple[float, float], expected: list[int]
) -> None:
    # All of the area in an allowed shape does not fit any of these.
    scale = (1.0, 1.0) if ratio != RATIO else (0.99, 1.0)
    assert box(*size, scale=scale, ratio=ratio) == expected


def test_boxes_are_the_same_everywhere() -> None:
    boxes = [box(480, 640, tf.constant([5, number])) for number in range(3)]
    assert boxes == [[75, 13, 264, 269], [48, 215, 380, 298], [132, 212, 337, 412]]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 97, 224])
def test_photos_are_cropped_as_in_pillow(interpolation: str, size: int) -> None:
    photo = images.photo()
    for number in range(4):
        seed = tf.constant([size, number])
        found = random_resized_crop(tf.constant(np.asarray(photo)), seed, size, interpolation=interpolation)
        top, left, height, width = box(photo.height, photo.width, seed)
        part = photo.crop((left, top, left + width, top + height))
        reference = part.resize((size, size), Image.Resampling[interpolation.upper()])
        difference = np.abs(found.numpy() - np.asarray(reference, np.float32))
        assert found.dtype == tf.float32
        assert difference.max() <= (2 if interpolation == "bicubic" else 1)
        assert difference.mean() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2), (3, 900), (31, 33)])
@pytest.mark.parametrize("crop", [random_resized_crop, random_crop])
def test_small_and_narrow_pictures(size: tuple[int, int], crop: object) -> None:
    pixels = tf.constant(picture(*size))
    for number in range(3):
        found = crop(pixels, tf.constant([1, number]), 24).numpy()  # type: ignore[operator]
        assert found.shape == (24, 24, 3)
        assert found.min() >= 0
        assert found.max() <= 255
        np.testing.assert_array_equal(found, np.round(found))


def test_random_interpolation_is_one_of_the_two() -> None:
    pixels = tf.constant(np.asarray(images.picture()))

    def each(seed: tf.Tensor) -> list[tf.Tensor]:
        return [random_resized_crop(pixels, seed, 50, interpolation=kind) for kind in ("random", "bilinear", "bicubic")]

    drawn, bilinear, bicubic = over_seeds(lambda seed: tuple(each(seed)), 60)
    is_bilinear, is_bicubic = ((drawn == one).all((1, 2, 3)) for one in (bilinear, bicubic))
    assert (is_bilinear ^ is_bicubic).all()
    assert 18 <= is_bicubic.sum() <= 42  # 30 expected, with a standard deviation of 4


def test_shifted_crops_are_windows_of_the_framed_picture() -> None:
    pixels = picture(32, 32)
    framed = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
    found = over_seeds(lambda seed: random_crop(tf.constant(pixels), seed, 32), 1500)
    # The middle is inside the picture wherever the window is, and tells where that is.
    tops, lefts = (found[:, 16, 16, axis].astype(int) // 2 - 16 + 4 for axis in (0, 1))
    for crop, top, left in zip(found, tops, lefts, strict=True):
        np.testing.assert_array_equal(crop, framed[top : top + 32, left : left + 32])
    for offsets in (tops, lefts):
        counts = np.bincount(offsets, minlength=9)
        assert len(counts) == 9
        # Nine places, 167 expected at each, with a standard deviation of 12.
        assert np.abs(counts - 1500 / 9).max() < 50
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.1


def test_shifted_crops_resize_the_short_side_as_in_pillow() -> None:
    small = images.picture(40, 32)
    resized = np.asarray(small.resize((70, 56), Image.Resampling.BILINEAR), np.int64)
    framed = np.pad(resized, ((7, 7), (7, 7), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (56, 56), (0, 1))  # (15, 29, 3, 56, 56)
    for number in range(3):
        found = random_crop(tf.constant(np.asarray(small)), tf.constant([0, number]), 56).numpy()
        difference = np.abs(windows - found.transpose(2, 0, 1)).max((2, 3, 4))
        assert difference.min() <= 2


def test_a_strip_needs_no_more_memory_than_a_picture() -> None:
    pixels = tf.zeros([1, 60_000, 3], tf.uint8)
    assert random_crop(pixels, SEED, 224).shape == (224, 224, 3)


def test_crops_follow_the_seed_alone_also_in_tf_data() -> None:
    pixels = np.asarray(images.picture())

    def both(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        unknown = tf.reshape(tf.constant(pixels), tf.concat([tf.shape(seed) * 0 + pixels.shape[:2], [3]], 0))
        return random_resized_crop(unknown, seed, 24, interpolation="random"), random_crop(unknown, seed, 24)

    first, again = over_seeds(both, 6), over_seeds(both, 6)
    for crops, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(crops, repeated)
        assert len({crop.tobytes() for crop in crops}) >= 4  # few enough places to meet
    for crop, eager in zip((crops[5] for crops in first), both(tf.constant([11, 5])), strict=True):
        np.testing.assert_array_equal(crop, eager)


def test_an_unknown_interpolation_is_named() -> None:
    with pytest.raises(ValueError, match="'nearest'; it can be bilinear, bicubic, random"):
        random_resized_crop(tf.zeros([4, 4, 3], tf.uint8), SEED, 4, interpolation="nearest")
