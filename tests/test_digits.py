"""The scenes: whose handwriting is where, what a seed fixes, and that a digit is really there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_digits

from dvt_tf.digits import MAX_FRAGMENTS, SPLITS, digit_scenes, draw_scenes, source_digits
from dvt_tf.scenes import SCENE_SIZE, Scenes


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return digit_scenes("val", size=600, seed=3)


def test_no_handwriting_is_in_two_splits() -> None:
    indices = {split: source_digits(split)[2] for split in SPLITS}
    together = np.concatenate(list(indices.values()))
    assert sorted(together) == list(range(1797))
    assert {split: len(index) for split, index in indices.items()} == SPLITS


@pytest.mark.parametrize("split", list(SPLITS))
def test_a_split_is_stratified_and_is_the_handwriting_itself(split: str) -> None:
    data = load_digits()
    glyphs, labels, index = source_digits(split)
    np.testing.assert_array_equal(labels, data.target[index])
    np.testing.assert_allclose(glyphs * 16, data.images[index])
    assert (glyphs.min(), glyphs.max(), glyphs.dtype) == (0.0, 1.0, np.float32)
    expected = np.bincount(data.target) * len(labels) / 1797
    # Each cut rounds to whole digits; train is what three of them leave.
    assert np.abs(np.bincount(labels, minlength=10) - expected).max() < 2.0


def test_an_unknown_split_is_refused() -> None:
    for call in (source_digits, digit_scenes):
        with pytest.raises(ValueError, match="unknown split 'validation'; digits has train, val, calibration, test"):
            call("validation")


def test_scenes_have_the_stated_shapes_and_range(scenes: Scenes) -> None:
    assert (scenes.images.shape, scenes.images.dtype) == ((600, SCENE_SIZE, SCENE_SIZE, 3), np.uint8)
    assert (scenes.labels.shape, scenes.labels.dtype) == ((600,), np.int32)
    assert scenes.object_size.shape == scenes.clutter.shape == scenes.source.shape == (600,)
    assert scenes.box.shape == (600, 4)
    spread = scenes.images.reshape(600, -1).astype(float).std(1)
    assert spread.min() > 2.0  # nowhere a blank scene
    assert scenes.images.min() < 10
    assert scenes.images.max() > 245


def test_every_scene_is_a_function_of_the_seed(scenes: Scenes) -> None:
    for mine, again in zip(scenes, digit_scenes("val", size=600, seed=3)):
        np.testing.assert_array_equal(mine, again)
    other = digit_scenes("val", size=600, seed=4)
    assert (other.images != scenes.images).any((1, 2, 3)).all()
    assert np.corrcoef(other.object_size, scenes.object_size)[0, 1] < 0.2
    np.testing.assert_array_equal(np.unique(other.source), np.unique(scenes.source))


def test_splits_of_one_seed_are_drawn_apart() -> None:
    first, second = digit_scenes("calibration", size=64, seed=0), digit_scenes("test", size=64, seed=0)
    assert np.abs(first.object_size - second.object_size).max() > 1.0
    assert not set(first.source) & set(second.source)


def test_scenes_of_one_set_are_all_different(scenes: Scenes) -> None:
    assert len(np.unique(scenes.object_size)) > 590
    assert len(np.unique(scenes.images.reshape(600, -1), axis=0)) == 600


def test_labels_are_those_of_the_handwriting_and_all_of_it_is_used(scenes: Scenes) -> None:
    np.testing.assert_array_equal(scenes.labels, load_digits().target[scenes.source])
    counts = np.bincount(scenes.source, minlength=1797)
    own = source_digits("val")[2]
    assert set(counts[own]) == {3}  # 600 scenes of 200 digits
    assert counts.sum() == 600


def test_sizes_are_log_uniform_and_boxes_lie_inside(scenes: Scenes) -> None:
    assert scenes.object_size.min() >= 18.0 - 1e-3
    assert scenes.object_size.max() <= 100.0 + 1e-3
    where = np.log(scenes.object_size / 18.0) / math.log(100.0 / 18.0)
    assert stats.kstest(where, "uniform").pvalue > 1e-3
    top, left, bottom, right = scenes.box.T
    np.testing.assert_allclose(bottom - top, scenes.object_size, atol=1e-3)
    np.testing.assert_allclose(right - left, scenes.object_size, atol=1e-3)
    assert scenes.box.min() >= 0.0
    assert scenes.box.max() <= SCENE_SIZE + 1e-3
    room = SCENE_SIZE - scenes.object_size
    for start in (top, left):
        assert stats.kstest(start / room, "uniform").pvalue > 1e-3


def test_clutter_runs_from_none_to_plenty(scenes: Scenes) -> None:
    levels, counts = np.unique(scenes.clutter, return_counts=True)
    np.testing.assert_allclose(levels, np.arange(MAX_FRAGMENTS + 1) / MAX_FRAGMENTS)
    assert counts.min() > 30
    assert 0.15 < counts[0] / 600 < 0.25


def draw(which: list[int], seed: int = 5, **options: float) -> dict[str, np.ndarray]:
    """Scenes of the handwriting of val, with a blank digit at its end."""
    glyphs = np.concatenate([source_digits("val")[0], np.zeros((1, 8, 8), np.float32)])
    drawn = draw_scenes(tf.constant(glyphs), tf.constant(which, tf.int32), tf.constant([seed, 0], tf.int32), **options)
    return {name: value.numpy() for name, value in drawn.items()}


def test_a_digit_is_really_there_and_only_there() -> None:
    which, blank = list(range(0, 200, 5)), [200] * 40
    with_digit, without = draw(which), draw(blank)
    np.testing.assert_array_equal(with_digit["box"], without["box"])
    glyphs = source_digits("val")[0]
    # Scenes that differ in the digit alone: the difference is what the digit changed.
    difference = np.abs(with_digit["pixels"] - without["pixels"]).max(-1)
    likeness = []
    for i, (top, left, bottom, right) in enumerate(with_digit["box"]):
        outside = difference[i].copy()
        outside[max(0, int(top) - 2) : int(bottom) + 3, max(0, int(left) - 2) : int(right) + 3] = 0
        assert outside.max() == 0
        changed = difference[i, round(top) : round(bottom), round(left) : round(right)]
        assert changed.max() > 30  # of 255: visible, though clutter of about its own shade may lie beneath
        assert 0.02 < (changed > 10).mean() < 0.8
        # Averaged back to 8x8 it is like the handwriting, though turned, sheared and bent.
        small = np.stack([block.mean(0) for block in np.array_split(changed, 8, 0)])
        small = np.stack([block.mean(1) for block in np.array_split(small, 8, 1)], 1)
        likeness.append(np.corrcoef(small.ravel(), glyphs[which[i]].ravel())[0, 1])
    assert np.median(likeness) > 0.6
    assert np.mean(np.array(likeness) > 0.3) > 0.9


def test_what_is_drawn_is_whole_numbers_of_pixels() -> None:
    pixels = draw(list(range(8)))["pixels"]
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.round(pixels))
    assert pixels.min() >= 0
    assert pixels.max() <= 255


@pytest.mark.parametrize("min_size", [18.0, 60.0, 100.0])
def test_a_curriculum_can_keep_digits_large(min_size: float) -> None:
    sizes = draw([0] * 64, min_size=min_size)["object_size"]
    assert sizes.min() >= min_size - 1e-3
    assert sizes.max() <= 100.0 + 1e-3
    if min_size < 100:
        assert sizes.max() - sizes.min() > 0.5 * (100 - min_size)


@pytest.mark.parametrize("max_clutter", [0.0, 0.5])
def test_a_curriculum_can_keep_clutter_low(max_clutter: float) -> None:
    clutter = draw([0] * 64, max_clutter=max_clutter)["clutter"]
    assert clutter.max() == max_clutter


def test_clutter_that_is_said_to_be_there_is_there() -> None:
    plain, cluttered = draw([200] * 64, max_clutter=0.0), draw([200] * 64)
    changed = (np.abs(plain["pixels"] - cluttered["pixels"]).max(-1) > 3).mean((1, 2))
    assert changed[cluttered["clutter"] == 0].max(initial=0) == 0
    # A fragment may fall outside the scene or have the background's shade, many do not.
    assert (changed[cluttered["clutter"] >= 0.5] > 0.01).mean() > 0.9
    assert np.corrcoef(changed, cluttered["clutter"])[0, 1] > 0.6


def test_shape_strength_bends_the_digit() -> None:
    straight, bent = draw([3] * 16, shape_strength=0.0), draw([3] * 16)
    np.testing.assert_array_equal(straight["box"], bent["box"])
    # How much is drawn too, from nothing at all, so some hardly change.
    assert (np.abs(straight["pixels"] - bent["pixels"]).max((1, 2, 3)) > 20).mean() > 0.4
