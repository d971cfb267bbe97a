"""What the images are like that leave at each exit: the numbers by hand, and the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvt_tf import difficulty
from dvt_tf.results import ExitResults
from dvt_tf.shapes import CLASS_NAMES, shape_scenes

pytestmark = pytest.mark.one_stack

COUNT = 60


@pytest.fixture(scope="module")
def results() -> ExitResults:
    """Results in which small objects leave late, and no image at exit 2."""
    scenes = shape_scenes("test", COUNT)
    ease = scenes.object_size / 100
    confidences = np.stack([ease, np.full(COUNT, 0.3), np.full(COUNT, 0.9)], 1).astype(np.float32)
    predictions = np.stack([scenes.labels, scenes.labels, (scenes.labels + 1) % 15], 1)
    return ExitResults(
        confidences,
        predictions.astype(np.int32),
        np.array([0.1, 0.2, 0.4]),
        np.zeros((COUNT, 3, 15), np.float32),
        np.zeros((COUNT, 3), np.float32),
        15,
        labels=scenes.labels,
        about={"data": "shapes", "split": "test"},
    )


def test_the_scenes_are_those_of_the_results(results: ExitResults) -> None:
    scenes = difficulty.scenes_of(results)
    assert scenes is not None
    np.testing.assert_array_equal(scenes.labels, results.labels)
    for about in ({"data": "folder:x", "split": "test"}, {"data": "shapes"}, {}):
        other = ExitResults(**{**vars(results), "about": about})
        assert difficulty.scenes_of(other) is None
        assert difficulty.summary(other, {"thresholds": {"values": [0.5, 0.5]}}) is None


def test_numbers_are_those_computed_by_hand(results: ExitResults) -> None:
    found = difficulty.summary(results, {"thresholds": {"values": [0.5, 0.5]}})
    assert found is not None
    size = shape_scenes("test", COUNT).object_size
    large = size.astype(np.float32) / 100 >= 0.5
    first, second, third = found["exits"]
    assert first["share"] == pytest.approx(large.mean())
    assert first["median_size"] == pytest.approx(np.median(size[large]))
    assert (first["top1"], third["top1"]) == (1.0, 0.0)
    assert second == {"share": 0.0}
    assert third["median_size"] < 50 < first["median_size"]
    assert found["rank_correlation_with_exit"]["size"] < -0.7
    alone = difficulty.summary(results, {"thresholds": {"values": [0.0, 0.0]}})
    assert alone is not None
    assert alone["rank_correlation_with_exit"] == {"size": 0.0, "clutter": 0.0}


@pytest.mark.parametrize("thresholds", [[0.5, 0.5], [0.5, 0.2], [0.0, 0.0], [2.0, 2.0]])
def test_pictures_come_out_whoever_leaves(results: ExitResults, thresholds: list[float], tmp_path: Path) -> None:
    scenes = difficulty.scenes_of(results)
    assert scenes is not None
    difficulty.plot_difficulty(tmp_path / "difficulty.png", results, thresholds, scenes)
    difficulty.plot_examples(tmp_path / "examples.png", results, thresholds, scenes, CLASS_NAMES)
    for name in ("difficulty.png", "examples.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
