"""Per-exit results against a direct computation, and the curve's files, whole or not at all."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvt_tf import files
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.evaluation import ExitResults, budgeted_curve, exit_results, plot_curve, write_curve
from dvt_tf.thresholds import published_thresholds
from tests.cascades import random_images, small_cascade


@pytest.fixture(scope="module")
def model() -> DynamicVisionTransformer:
    return small_cascade(num_classes=9, depth=1)


@pytest.fixture(scope="module")
def results(model: DynamicVisionTransformer) -> ExitResults:
    return exit_results(model, batches(random_images(50), np.arange(50) % 9))


def batches(images: np.ndarray, labels: np.ndarray, size: int = 16) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


def test_results_are_what_the_model_says(model: DynamicVisionTransformer, results: ExitResults) -> None:
    logits = np.stack([value.numpy() for value in model(random_images(50)).values()], 1).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.arange(50) % 9
    np.testing.assert_array_equal(results.labels, labels)
    np.testing.assert_allclose(results.confidences, probabilities.max(-1), atol=1e-5)
    np.testing.assert_array_equal(results.predictions, logits.argmax(-1))
    np.testing.assert_array_equal(results.correct, logits.argmax(-1) == labels[:, None])
    best = np.argsort(-logits, -1)[..., :5]
    np.testing.assert_array_equal(results.in_top5, (best == labels[:, None, None]).any(-1))
    np.testing.assert_allclose(results.top1(), (logits.argmax(-1) == labels[:, None]).mean(0))
    np.testing.assert_allclose(results.top5(), (best == labels[:, None, None]).any(-1).mean(0))
    assert 0 < results.in_top5.mean() < 1
    np.testing.assert_allclose(results.gmacs, np.asarray(count_macs(model)) / 1e9)
    assert (results.confidences.dtype, results.predictions.dtype) == (np.float32, np.int32)
    assert (results.in_top5.dtype, results.labels.dtype, results.gmacs.dtype) == (bool, np.int32, np.float64)


def with_logits(values: list[float]) -> DynamicVisionTransformer:
    """A cascade whose every exit says the same of every image."""
    model = small_cascade(num_classes=len(values), depth=1)
    for transformer in model.transformers:
        transformer.head.kernel.assign(tf.zeros_like(transformer.head.kernel))
        transformer.head.bias.assign(values)
    return model


def test_a_tie_for_the_fifth_place_counts_as_in_the_first_five() -> None:
    model = with_logits([5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 0.0])
    results = exit_results(model, batches(random_images(7), np.arange(7)))
    assert results.in_top5[:, 0].tolist() == [True] * 6 + [False]
    assert results.predictions[:, 2].tolist() == [0] * 7


def test_with_fewer_than_six_classes_all_are_among_the_first_five() -> None:
    results = exit_results(small_cascade(num_classes=3, depth=1), batches(random_images(6), np.arange(6) % 3))
    assert results.top5() == [1.0, 1.0, 1.0]


def test_progress_counts_the_images(model: DynamicVisionTransformer) -> None:
    seen: list[int] = []
    exit_results(model, batches(random_images(10), np.zeros(10, np.int64), size=4), on_batch=seen.append)
    assert seen == [4, 4, 2]


@pytest.mark.parametrize("label", [-1, 9, 2**31 - 1])
def test_a_label_without_a_class_is_refused(model: DynamicVisionTransformer, label: int) -> None:
    with pytest.raises(ValueError, match=r"labels outside 0\.\.8"):
        exit_results(model, batches(random_images(2), np.array([0, label])))


def test_no_images_are_refused(model: DynamicVisionTransformer) -> None:
    with pytest.raises(ValueError, match="no image to evaluate"):
        exit_results(model, [])


def test_the_curve_is_the_published_rule_applied_to_other_images(
    model: DynamicVisionTransformer, results: ExitResults
) -> None:
    scored = exit_results(model, batches(random_images(30, seed=9), np.arange(30) % 9))
    curve = budgeted_curve(results, scored)
    chosen = published_thresholds(results.confidences)
    assert len(curve) == 59
    for point, thresholds in zip(curve, chosen):
        np.testing.assert_array_equal(point.thresholds, thresholds)
        left = (scored.confidences[:, 0] >= thresholds[0]).mean()
        assert point.shares[0] == pytest.approx(left)
        assert results.gmacs[0] <= point.gmacs <= results.gmacs[-1]
    assert curve[0].gmacs < curve[-1].gmacs


def test_the_curve_as_csv(tmp_path: Path, results: ExitResults) -> None:
    curve = budgeted_curve(results, results)
    write_curve(tmp_path / "curve.csv", curve)
    with (tmp_path / "curve.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 59
    assert list(rows[0]) == [
        *("gmacs", "top1", "threshold_1", "threshold_2", "share_exit_1", "share_exit_2", "share_exit_3")
    ]
    costs = [float(row["gmacs"]) for row in rows]
    assert costs == sorted(costs)
    np.testing.assert_allclose(costs, sorted(point.gmacs for point in curve), rtol=1e-5)
    np.testing.assert_allclose(sum(float(rows[0][f"share_exit_{k}"]) for k in (1, 2, 3)), 1.0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]


def test_the_curve_as_png(tmp_path: Path, model: DynamicVisionTransformer, results: ExitResults) -> None:
    plot_curve(tmp_path / "curve.png", budgeted_curve(results, results), results, model.card)
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


class DiskFullError(OSError):
    """What the tests below raise in the middle of a write."""


def test_a_failed_write_leaves_the_old_curve_and_nothing_else(
    tmp_path: Path, model: DynamicVisionTransformer, results: ExitResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = budgeted_curve(results, results)
    for name in ("curve.csv", "curve.png"):
        (tmp_path / name).write_text("old")

    def full(*_: Any) -> None:
        raise DiskFullError("disk full")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DiskFullError):
        write_curve(tmp_path / "curve.csv", curve)
    with pytest.raises(DiskFullError):
        plot_curve(tmp_path / "curve.png", curve, results, model.card)
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {
        "curve.csv": b"old",
        "curve.png": b"old",
    }
