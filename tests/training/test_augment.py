"""Augmentation as a recipe says it: its fields, flips, erased boxes, and a picture's whole way."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dvt_tf.preprocessing import crop_pixels, normalise
from tests import images
from tests.seeds import off_by, over_seeds, uniform_distance
from training import crops
from training.augment import Augmentation, augment_image, erase_box, mix, random_erase, random_flip
from training.draws import sub_seed
from training.mix import mix_batch
from training.randaugment import parse_policy, randaugment

CARD = images.card()
SIZE = images.SIZE
PUBLISHED = Augmentation(
    crop="random_resized",
    interpolation="random",
    flip=True,
    randaugment="rand-m9-mstd0.5-inc1",
    erase=0.25,
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
)


def picture() -> tf.Tensor:
    return tf.constant(np.asarray(images.picture()))


def test_lists_of_toml_become_tuples() -> None:
    augmentation = Augmentation(scale=[0.5, 1], ratio=[1, 1])  # type: ignore[arg-type]
    assert (augmentation.scale, augmentation.ratio) == ((0.5, 1.0), (1.0, 1.0))
    assert hash(augmentation) == hash(dataclasses.replace(augmentation))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop", "centre", "crop must be one of random_resized, pad, none, not 'centre'"),
        ("interpolation", "nearest", "interpolation must be one of bilinear, bicubic, random"),
        ("scale", 0.5, "scale must be two numbers, not 0.5"),
        ("scale", [0.5], "scale must be two numbers"),
        ("scale", ["a", 1], "scale must be two numbers"),
        ("scale", (0.0, 1.0), "scale must be two numbers above 0 and at most 1, the smaller first"),
        ("scale", (0.5, 1.1), "scale must be two numbers above 0 and at most 1"),
        ("scale", (0.9, 0.5), "the smaller first"),
        ("ratio", (-1.0, 1.0), "ratio must be two numbers above 0, the smaller first"),
        ("ratio", (1.0, math.inf), "ratio must be two numbers above 0"),
        ("ratio", (math.nan, 1.0), "ratio must be two numbers above 0"),
        ("flip", 0.5, "flip must be true or false, not 0.5"),
        ("erase", 25, "erase must be a number from 0 to 1, not 25"),
        ("erase", "often", "erase must be a number from 0 to 1"),
        ("switch", True, "switch must be a number from 0 to 1"),
        ("label_smoothing", -0.1, "label_smoothing must be a number from 0 to 1"),
        ("mixup", -0.8, "mixup must be a number of at least 0, not -0.8"),
        ("cutmix", math.inf, "cutmix must be a number of at least 0"),
        ("randaugment", None, "randaugment must be a text such as rand-m9-mstd0.5-inc1"),
        ("randaugment", "rand-m99", "'rand-m99' is not understood"),
    ],
)
def test_faulty_fields_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Augmentation(**{field: value})


def test_none_at_all_is_the_input_of_evaluation() -> None:
    found = augment_image(picture(), tf.constant([0, 0]), Augmentation(), CARD)
    np.testing.assert_array_equal(found, normalise(crop_pixels(picture(), CARD), CARD))


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_a_picture_is_cropped_flipped_changed_and_normalised_in_this_order(crop: str) -> None:
    augmentation = dataclasses.replace(PUBLISHED, crop=crop, interpolation="bicubic", erase=0.0)
    for number in range(4):
        seed = tf.constant([number, 1])
        cut = crops.random_resized_crop if crop == "random_resized" else crops.random_crop
        expected = cut(picture(), sub_seed(seed, 0), SIZE, interpolation="bicubic")
        expected = random_flip(expected, sub_seed(seed, 1))
        policy = parse_policy(augmentation.randaugment)
        # 255 times the card's mean, rounded, comes in from outside.
        expected = randaugment(tf.cast(expected, tf.uint8), sub_seed(seed, 2), policy, (124, 116, 104), "bicubic")
        found = augment_image(picture(), seed, augmentation, CARD)
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found, normalise(expected, CARD))
        erased = augment_image(picture(), seed, dataclasses.replace(augmentation, erase=1.0), CARD)
        np.testing.assert_array_equal(erased, random_erase(found, sub_seed(seed, 3), 1.0))


def test_pictures_of_any_size_go_through_tf_data_and_follow_the_seed_alone() -> None:
    pictures = [np.asarray(images.picture(width, height)) for width, height in ((40, 30), (1, 1), (7, 90), (64, 64))]

    def augment(pixels: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        return augment_image(pixels, tf.stack([number, 3]), PUBLISHED, CARD)

    signature = (tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32))
    dataset = tf.data.Dataset.from_generator(
        lambda: ((pixels, number) for number in range(6) for pixels in pictures), output_signature=signature
    ).map(augment)
    assert dataset.element_spec.shape == (SIZE, SIZE, 3)
    first, again = (np.stack(list(dataset.as_numpy_iterator())) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all()
    photos = first[::4]
    assert len({image.tobytes() for image in photos}) == 6
    for number, image in enumerate(photos):
        np.testing.assert_allclose(image, augment(tf.constant(pictures[0]), tf.constant(number)), atol=1e-5)


def test_half_of_the_images_are_mirrored() -> None:
    image = tf.reshape(tf.range(12.0), [2, 2, 3])
    found = over_seeds(lambda seed: random_flip(image, seed), 600)
    mirrored = (found == image.numpy()[:, ::-1]).all((1, 2, 3))
    assert (mirrored | (found == image.numpy()).all((1, 2, 3))).all()
    assert off_by(mirrored.mean(), 0.5, 600) < 3.5


def test_a_quarter_of_the_images_get_a_box_of_noise() -> None:
    count = 1000
    image = tf.fill([24, 24, 3], 7.0)
    found = over_seeds(lambda seed: random_erase(image, seed, 0.25), count)
    erased = (found != 7.0).any(-1)
    happened = erased.any((1, 2))
    assert off_by(happened.mean(), 0.25, count) < 3.5
    rows, columns = erased[happened].any(2), erased[happened].any(1)
    np.testing.assert_array_equal(erased[happened], rows[:, :, None] & columns[:, None, :])
    for sides in (rows, columns):
        # In one piece, and smaller than the image.
        assert (np.abs(np.diff(sides.astype(int), axis=1)).sum(1) <= 2).all()
        assert sides.sum(1).max() < 24
    noise = found[erased]
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)
    # Each value is drawn by itself, also the three of one pixel.
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.05


def test_erased_area_is_uniform_shape_log_uniform_and_place_uniform() -> None:
    side, count = 2000, 2000
    size = tf.constant(side, tf.int64)
    tops, lefts, heights, widths = over_seeds(lambda seed: erase_box(size, size, seed), count)
    area, shape = heights * widths / side**2, heights / widths
    assert 0.0199 < area.min() < area.max() < 0.334
    assert 0.299 < shape.min() < shape.max() < 3.34
    # Boxes that are long and large do not fit, so uniformity holds where all do.
    small = area < 0.29
    assert uniform_distance(area[small], 0.02, 0.29) < 2
    assert uniform_distance(np.log(shape[small]), math.log(0.3), math.log(1 / 0.3)) < 2
    assert uniform_distance(tops / (side - heights), 0, 1) < 2
    assert uniform_distance(lefts / (side - widths), 0, 1) < 2


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**31 - 1))
@example(height=1, width=1, seed=0)
@settings(max_examples=50)
def test_erased_boxes_are_inside_the_image(height: int, width: int, seed: int) -> None:
    size = tf.constant(height, tf.int64), tf.constant(width, tf.int64)
    top, left, box_height, box_width = (int(side) for side in erase_box(*size, tf.constant([seed, 0])))
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert box_height < height or box_height == 0
    assert box_width < width or box_width == 0


def test_boxes_are_the_same_everywhere() -> None:
    size = tf.constant(224, tf.int64)
    boxes = [[int(side) for side in erase_box(size, size, tf.constant([5, number]))] for number in range(3)]
    assert boxes == [[6, 150, 29, 42], [112, 77, 46, 48], [24, 92, 199, 72]]


def test_erasing_never_or_always() -> None:
    image = tf.zeros([24, 24, 3])
    assert not over_seeds(lambda seed: random_erase(image, seed, 0.0), 20).any()
    assert over_seeds(lambda seed: random_erase(image, seed, 1.0), 20).any((1, 2, 3)).all()


def test_a_batch_is_mixed_by_the_fields() -> None:
    batch, labels, seed = (
        tf.random.stateless_normal([4, 8, 8, 3], [0, 1]),
        tf.constant([0, 1, 2, 0]),
        tf.constant([1, 2]),
    )
    expected = mix_batch(batch, labels, seed, 3, mixup=0.8, cutmix=1.0, switch=0.5, label_smoothing=0.1)
    for found, wanted in zip(mix(batch, labels, seed, PUBLISHED, 3), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
