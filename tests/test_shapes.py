"""The second embedded data set: what is in its scenes, and that they are functions of their seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dvt_tf import shapes
from dvt_tf.class_names import OUTLINES, PATTERNS
from dvt_tf.scenes import SCENE_SIZE, Scenes
from dvt_tf.shapes import CLASS_NAMES, MAX_BLOBS, STAMP, draw_scenes, shape_scenes


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return shape_scenes("val", size=300, seed=3)


def test_scenes_have_the_stated_shapes_and_range(scenes: Scenes) -> None:
    assert (scenes.images.shape, scenes.images.dtype) == ((300, SCENE_SIZE, SCENE_SIZE, 3), np.uint8)
    np.testing.assert_array_equal(np.bincount(scenes.labels), 20)  # every class as often
    assert scenes.images.reshape(300, -1).std(1).min() > 3.0  # nowhere a blank scene
    assert (scenes.images.min(), scenes.images.max()) == (0, 255)
    size = scenes.object_size
    assert stats.kstest(np.log(size / 18.0) / math.log(100.0 / 18.0), "uniform").pvalue > 1e-3
    top, left, bottom, right = scenes.box.T
    np.testing.assert_allclose([bottom - top, right - left], [size, size], atol=1e-3)
    assert scenes.box.min() >= 0.0
    assert scenes.box.max() <= SCENE_SIZE + 1e-3
    levels, counts = np.unique(scenes.clutter, return_counts=True)
    np.testing.assert_allclose(levels, np.arange(MAX_BLOBS + 1) / MAX_BLOBS)
    assert counts.min() > 15


def test_every_scene_is_a_function_of_split_and_seed(scenes: Scenes) -> None:
    again = shape_scenes("val", size=300, seed=3)
    for mine, theirs in zip(scenes[1:], again[1:], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # TensorFlow's threads share the work differently from run to run, which may tip a pixel over a rounding
    difference = np.abs(scenes.images.astype(np.int16) - again.images)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) < 1e-5 * difference.size
    for other in (shape_scenes("val", size=300, seed=4), shape_scenes("test", size=300, seed=3)):
        assert (other.images != scenes.images).any((1, 2, 3)).all()
        assert np.corrcoef(other.object_size, scenes.object_size)[0, 1] < 0.2
    with pytest.raises(ValueError, match="unknown split 'dev'; there are train, val, calibration, test"):
        shape_scenes("dev")


@given(seed=st.integers(0, 2**30), min_size=st.floats(18, 99), max_clutter=st.floats(0, 1))
@settings(max_examples=10)
def test_sizes_and_clutter_keep_to_what_a_curriculum_asks(seed: int, min_size: float, max_clutter: float) -> None:
    drawn = draw_scenes(tf.range(15), tf.constant([seed, 1]), min_size, max_clutter)
    assert drawn["object_size"].numpy().min() >= min_size - 1e-3
    assert drawn["clutter"].numpy().max() <= math.ceil(max_clutter * MAX_BLOBS) / MAX_BLOBS + 1e-6
    pixels = drawn["pixels"].numpy()
    np.testing.assert_array_equal(pixels, pixels.round())


def test_outlines_have_the_areas_and_corners_of_their_names() -> None:
    radii = dict(zip(OUTLINES, shapes._outline_radii(), strict=True))
    step = 2 * math.pi / radii["disc"].size
    area = {name: (radius**2).sum() * step / 2 for name, radius in radii.items()}
    assert area["disc"] == pytest.approx(math.pi * 0.75**2)
    assert area["square"] == pytest.approx(2 * 0.9**2, rel=1e-3)
    assert area["triangle"] == pytest.approx(3 * math.sqrt(3) / 4 * 0.9**2, rel=1e-3)
    assert area["cross"] == pytest.approx(2 * 2 * 0.86 * 0.6 - 0.6**2, rel=1e-3)  # two bars
    for name, corners in (("square", 4), ("triangle", 3), ("star", 5), ("cross", 8)):
        radius = radii[name]
        peaks = (radius > np.roll(radius, 1)) & (radius >= np.roll(radius, -1))
        assert peaks.sum() == corners, name


def test_patterns_are_told_by_their_marks() -> None:
    axis = (np.arange(STAMP) + 0.5) / STAMP * 2 - 1
    y, x = (
        tf.constant(np.tile(part.reshape(1, -1), (3, 1)), tf.float32) for part in np.meshgrid(axis, axis, indexing="ij")
    )
    marks = shapes._marks(shapes.Draws(tf.constant([1, 2]), tf.constant(3)), (), y, x, tf.range(3)).numpy()
    striped, chequered, dotted = marks
    assert striped.std(1).max() < 1e-6  # the same all along a stripe
    assert chequered.std(1).max() > 0.3
    assert 0.4 < chequered.mean() < 0.6
    assert dotted.mean() < 0.35  # dots on a ground


def test_classes_are_all_pairs() -> None:
    assert len(set(CLASS_NAMES)) == len(OUTLINES) * len(PATTERNS) == 15


def test_only_blobs_are_turned_at_will(monkeypatch: pytest.MonkeyPatch) -> None:
    most = {}
    turned = shapes._turned

    def noted(rng: shapes.Draws, count: tuple[int, ...], samples: int, at_most: float) -> tuple[tf.Tensor, tf.Tensor]:
        most[samples] = at_most
        return turned(rng, count, samples, at_most)

    monkeypatch.setattr(shapes, "_turned", noted)
    draw_scenes(tf.range(15), tf.constant([0, 1]))
    assert most == {STAMP: pytest.approx(math.radians(15.0)), shapes.BLOB_STAMP: math.pi}


def test_shapes_stand_upright_but_for_a_few_degrees() -> None:
    most = math.radians(15.0)
    rng = shapes.Draws(tf.constant([1, 2]), tf.constant(400))
    rows, columns = shapes._turned(rng, (), 2, most)
    # A point at (1, 1) without turning: its direction, with the stretch taken out, is the turn.
    stretch = tf.sqrt(tf.abs((rows[:, 3] + rows[:, 1]) / (columns[:, 3] - columns[:, 1])))
    turn = (tf.math.atan2(columns[:, 3] * stretch, rows[:, 3] / stretch) - math.pi / 4).numpy()
    assert np.abs(turn).max() <= most + 1e-4
    assert turn.min() < -0.9 * most
    assert turn.max() > 0.9 * most

    axis = (np.arange(STAMP) + 0.5) / STAMP * 2 - 1
    y, x = (tf.constant(part.reshape(1, -1), tf.float32) for part in np.meshgrid(axis, axis, indexing="ij"))
    radii = dict(zip(OUTLINES, shapes._outline_radii(), strict=True))
    inside = {
        name: shapes._inside(y, x, tf.constant(radius[None], tf.float32), STAMP).numpy()[0]
        for name, radius in radii.items()
    }
    width = {name: alpha.sum(1) for name, alpha in inside.items()}  # of every row, from above
    np.testing.assert_allclose(width["square"][9:39], width["square"][24], atol=1.5)  # stands on a side
    assert width["triangle"][10] < 0.5 * width["triangle"][32]  # on a side, its corner above
    for name, alpha in inside.items():
        # A point between two tabled directions may fall to either.
        assert np.abs(alpha - alpha[:, ::-1]).mean() < 1e-3, name
