"""Per-exit results against a direct computation, and their file: whole or not at all, and only for its own model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from dvt_tf import files
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import weights_digest
from dvt_tf.cost import count_macs
from dvt_tf.results import FORMAT, ExitResults, exit_results, load_results, save_results
from tests.cascades import random_images, small_cascade
from tests.exit_results import made_up, without_labels


@pytest.fixture(scope="module")
def model() -> DynamicVisionTransformer:
    return small_cascade(num_classes=20, depth=1)


@pytest.fixture(scope="module")
def results(model: DynamicVisionTransformer) -> ExitResults:
    return exit_results(model, batches(random_images(50), np.arange(50) % 20), data="random", split="val")


def batches(images: np.ndarray, labels: np.ndarray, size: int = 16) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


def test_results_are_what_the_model_says(model: DynamicVisionTransformer, results: ExitResults) -> None:
    logits = np.stack([value.numpy() for value in model(random_images(50)).values()], 1).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.arange(50) % 20
    np.testing.assert_array_equal(results.labels, labels)
    np.testing.assert_allclose(results.confidences, probabilities.max(-1), atol=1e-5)
    np.testing.assert_array_equal(results.predictions, logits.argmax(-1))
    np.testing.assert_array_equal(results.correct, logits.argmax(-1) == labels[:, None])
    best = np.argsort(-logits, -1)[..., :5]
    np.testing.assert_array_equal(results.in_top5, (best == labels[:, None, None]).any(-1))
    np.testing.assert_allclose(results.top1(), (logits.argmax(-1) == labels[:, None]).mean(0))
    np.testing.assert_allclose(results.top5(), (best == labels[:, None, None]).any(-1).mean(0))
    assert 0 < np.mean(results.top5()) < 1
    np.testing.assert_allclose(results.gmacs, np.asarray(count_macs(model)) / 1e9)
    ordered = -np.sort(-logits, -1)
    np.testing.assert_allclose(results.top_logits, ordered[..., :16], atol=1e-5)
    np.testing.assert_allclose(results.rest, np.log(np.exp(ordered[..., 16:]).sum(-1)), atol=1e-5)
    np.testing.assert_allclose(results.label_logits, logits[np.arange(50), :, labels], atol=1e-5)
    assert (results.confidences.dtype, results.predictions.dtype) == (np.float32, np.int32)
    assert results.where == "random@val"
    assert results.about["weights"] == weights_digest(model)
    assert (len(results), results.num_exits, results.num_classes) == (50, 3, 20)


def test_few_classes_are_kept_whole() -> None:
    results = exit_results(small_cascade(num_classes=3, depth=1), batches(random_images(6), np.arange(6) % 3))
    assert results.top5() == [1.0, 1.0, 1.0]
    assert results.top_logits.shape == (6, 3, 3)
    assert np.all(results.rest == -np.inf)


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
    assert results.in_top5 is not None
    assert results.in_top5[:, 0].tolist() == [True] * 6 + [False]
    assert results.predictions[:, 2].tolist() == [0] * 7


def test_progress_counts_the_images(model: DynamicVisionTransformer) -> None:
    seen: list[int] = []
    exit_results(model, batches(random_images(10), np.zeros(10, np.int64), size=4), on_batch=seen.append)
    assert seen == [4, 4, 2]


@pytest.mark.parametrize("label", [-1, 20, 2**31 - 1])
def test_a_label_without_a_class_is_refused(model: DynamicVisionTransformer, label: int) -> None:
    with pytest.raises(ValueError, match=r"labels outside 0\.\.19"):
        exit_results(model, batches(random_images(2), np.array([0, label])))


def test_no_images_are_refused(model: DynamicVisionTransformer) -> None:
    with pytest.raises(ValueError, match="no image to evaluate"):
        exit_results(model, [])


def test_without_labels_there_is_no_right_or_wrong(model: DynamicVisionTransformer) -> None:
    found = exit_results(model, batches(random_images(4), np.full(4, -1)), data="images:x", labelled=False)
    assert (found.labels, found.in_top5, found.label_logits) == (None, None, None)
    with pytest.raises(ValueError, match="images:x has no labels"):
        _ = found.correct


def assert_same(found: ExitResults, expected: ExitResults) -> None:
    for field in dataclasses.fields(ExitResults):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_what_is_saved_is_read_back(tmp_path: Path, labelled: bool, grouped: bool) -> None:
    results = made_up(30, classes=25, sources=np.arange(30, dtype=np.int32) // 3 if grouped else None)
    if not labelled:
        results = dataclasses.replace(results, **without_labels(results))
    save_results(results, tmp_path / "results.safetensors")
    assert_same(load_results(tmp_path / "results.safetensors"), results)
    assert [path.name for path in tmp_path.iterdir()] == ["results.safetensors"]


def test_rows_can_be_taken() -> None:
    results = made_up(10, sources=np.arange(10, dtype=np.int32))
    some = results.take(np.array([7, 2]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.sources, [7, 2])
    np.testing.assert_array_equal(some.top_logits, results.top_logits[[7, 2]])
    np.testing.assert_array_equal(some.correct, results.correct[[7, 2]])
    np.testing.assert_array_equal(some.gmacs, results.gmacs)


def test_results_belong_to_a_models_weights(tmp_path: Path, model: DynamicVisionTransformer) -> None:
    path = tmp_path / "results.safetensors"
    save_results(exit_results(model, batches(random_images(4), np.zeros(4, np.int64))), path)
    assert len(load_results(path, model)) == 4
    other = small_cascade(num_classes=20, depth=1)
    other.transformers[1].head.bias.assign_add(tf.fill([20], 1e-6))
    with pytest.raises(ValueError, match="holds results of other weights"):
        load_results(path, other)


def damage_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_format(path: Path) -> None:
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)


def damage_missing(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.pop("confidences"))


def damage_type(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.update(labels=arrays["labels"].astype(np.float32)))


def damage_shape(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.update(labels=arrays["labels"][:-1]))


def damage_about(path: Path) -> None:
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(arrays, path, metadata={"format": FORMAT, "results": "{"})


def damage_nan(path: Path) -> None:
    def put_nan(arrays: dict[str, np.ndarray]) -> None:
        arrays["confidences"][7, 1] = np.nan

    rewrite(path, put_nan)


def rewrite(path: Path, change: object) -> None:
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    change(arrays)  # type: ignore[operator]
    safetensors.numpy.save_file(arrays, path, metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_bytes, "is not a readable results file"),
        (damage_format, f"holds no exit results of this format .{FORMAT}."),
        (damage_missing, "confidences is missing or of a wrong type"),
        (damage_type, "labels is missing or of a wrong type"),
        (damage_shape, r"labels is \(29,\) and should be \(30,\)"),
        (damage_about, "what it says of itself cannot be read"),
        (damage_nan, "the confidence of image 7 at exit 2 is not a number"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "results.safetensors"
    save_results(made_up(30), path)
    damage(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        load_results(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_results(tmp_path / "results.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.safetensors"
    save_results(made_up(30), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        save_results(made_up(40), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
