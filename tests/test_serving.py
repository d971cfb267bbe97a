"""The SavedModel: the rows that Python gives, broken ones beside them, and versions that are whole or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvt_tf import serving
from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cli import main
from dvt_tf.exit_rule import NEVER
from dvt_tf.preprocessing import preprocess
from dvt_tf.warmup import WARMUP_FILE
from tests import images
from tests.cascades import small_cascade

SIGNATURES = ("serving_default", "with_thresholds", "pixels")


def broken_files() -> list[bytes]:
    """What is no image that the graph reads, each in its own way."""
    jpeg = images.file_bytes(images.picture(), "JPEG")
    png = images.file_bytes(images.picture(), "PNG")
    return [
        b"",
        jpeg[: len(jpeg) // 2],
        png[: len(png) // 2],
        png[:16] + bytes(200),
        images.file_bytes(images.picture(), "WEBP"),
        images.declares("PNG", 30_000, 30_000),
        b"no image at all",
    ]


def good_files(count: int, seed: int = 0) -> list[bytes]:
    """Pictures in the formats that the graph reads."""
    random = np.random.default_rng(seed)
    kinds = ("PNG", "JPEG", "BMP", "GIF")
    coarse = [Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)) for _ in range(count)]
    pictures = [one.resize((40 + 3 * i, 50), Image.Resampling.BILINEAR) for i, one in enumerate(coarse)]
    return [images.file_bytes(one, kinds[i % 4]) for i, one in enumerate(pictures)]


@pytest.fixture(scope="module")
def model() -> DynamicVisionTransformer:
    model = small_cascade(head=2.0)
    names = [f"clasß {i}" for i in range(7)]
    model.card = {**model.card, "class_names": names, "thresholds": {"values": [0.7, 0.55], "method": "", "data": ""}}
    return model


@pytest.fixture(scope="module")
def exported(model: DynamicVisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.export(model, tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def served(exported: Path) -> Any:
    return tf.saved_model.load(str(exported))


def ask(served: Any, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
    answer = served.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in answer.items()}


def check_rows(answer: dict[str, np.ndarray], rows: Any, expected: dict[str, Any], card: dict[str, Any]) -> None:
    names = np.array([name.encode() for name in card["class_names"]], object)
    np.testing.assert_allclose(answer["probabilities"][rows], expected["probabilities"], atol=1e-5)
    np.testing.assert_allclose(answer["confidence"][rows], expected["confidence"], atol=1e-5)
    np.testing.assert_array_equal(answer["exit"][rows], expected["exit"])
    np.testing.assert_allclose(answer["gmacs"][rows], expected["gmacs"])
    np.testing.assert_array_equal(answer["label"][rows], names[np.argmax(expected["probabilities"], -1)])
    assert answer["valid"][rows].all()


def check_nothing(answer: dict[str, np.ndarray], rows: Any) -> None:
    """Rows that are no images."""
    np.testing.assert_array_equal(answer["label"][rows], np.full(len(answer["label"][rows]), b"", object))
    np.testing.assert_allclose(answer["probabilities"][rows], 1 / 7)
    np.testing.assert_allclose(answer["confidence"][rows], 1 / 7)
    assert not answer["exit"][rows].any()
    assert not answer["gmacs"][rows].any()
    assert not answer["valid"][rows].any()


def test_signatures_are_those_that_clients_know(served: Any) -> None:
    assert set(served.signatures) == set(SIGNATURES)
    inputs = {
        "serving_default": {"image_bytes": ((None,), tf.string)},
        "with_thresholds": {"image_bytes": ((None,), tf.string), "thresholds": ((None, 2), tf.float32)},
        "pixels": {"images": ((None, 24, 24, 3), tf.uint8)},
    }
    outputs = {
        "label": ((None,), tf.string),
        "probabilities": ((None, 7), tf.float32),
        "confidence": ((None,), tf.float32),
        "exit": ((None,), tf.int32),
        "gmacs": ((None,), tf.float32),
        "valid": ((None,), tf.bool),
    }
    size = served.signatures["pixels"].structured_input_signature[1]["images"].shape[1]
    inputs["pixels"]["images"] = ((None, size, size, 3), tf.uint8)
    for name in SIGNATURES:
        function = served.signatures[name]
        found = {key: (tuple(spec.shape), spec.dtype) for key, spec in function.structured_input_signature[1].items()}
        assert found == inputs[name]
        given = {key: (tuple(spec.shape), spec.dtype) for key, spec in function.structured_outputs.items()}
        assert given == outputs


def test_rows_are_those_of_python_with_broken_ones_beside_them(model: DynamicVisionTransformer, served: Any) -> None:
    good, bad = good_files(12), broken_files()
    files = [part for pair in zip(good, [*bad, *bad]) for part in pair]
    rows = np.arange(0, len(files), 2)
    answer = ask(served, "serving_default", image_bytes=files)
    inputs, valid = preprocess(good, model.card)
    assert valid.numpy().all()
    expected = {key: value.numpy() for key, value in AdaptiveClassifier(model)(inputs).items()}
    assert len(set(expected["exit"])) == 3
    check_rows(answer, rows, expected, model.card)
    check_nothing(answer, np.arange(1, len(files), 2))


def test_every_row_has_thresholds_of_its_own(model: DynamicVisionTransformer, served: Any) -> None:
    good = good_files(9, seed=1)
    thresholds = np.array([[0.0, 0.0], [NEVER, 0.0], [NEVER, NEVER]] * 3, np.float32)
    answer = ask(served, "with_thresholds", image_bytes=good, thresholds=thresholds)
    assert answer["exit"].tolist() == [1, 2, 3] * 3
    inputs, _ = preprocess(good, model.card)
    expected = AdaptiveClassifier(model)(inputs, thresholds)
    check_rows(answer, slice(None), {key: value.numpy() for key, value in expected.items()}, model.card)
    # What is no threshold never lets an image leave.
    odd = np.array([[np.nan, 0.0], [-1.0, 0.0], [-np.inf, np.nan]], np.float32)
    assert ask(served, "with_thresholds", image_bytes=good[:3], thresholds=odd)["exit"].tolist() == [2, 2, 3]
    for rows in (thresholds[:-1], [*thresholds, thresholds[0]]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="one row of thresholds for each image"):
            ask(served, "with_thresholds", image_bytes=good, thresholds=rows)


def test_pixels_are_taken_as_they_are(model: DynamicVisionTransformer, served: Any) -> None:
    size = model.config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)
    answer = ask(served, "pixels", images=pixels)
    files = [images.file_bytes(Image.fromarray(one), "PNG") for one in pixels]
    from_files = ask(served, "serving_default", image_bytes=files)
    for name, value in answer.items():
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, from_files[name], atol=1e-6)
        else:
            np.testing.assert_array_equal(value, from_files[name])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_where_nothing_is_an_image_nothing_is_answered(served: Any, count: int) -> None:
    answer = ask(served, "serving_default", image_bytes=np.array([b""] * count, object))
    assert {name: len(value) for name, value in answer.items()} == dict.fromkeys(answer, count)
    check_nothing(answer, slice(None))


def test_a_batch_answers_as_each_row_alone(served: Any) -> None:
    files = [*good_files(5, seed=2), *broken_files()]
    thresholds = np.random.default_rng(0).random((len(files), 2)).astype(np.float32)
    together = ask(served, "with_thresholds", image_bytes=files, thresholds=thresholds)
    for row, contents in enumerate(files):
        alone = ask(served, "with_thresholds", image_bytes=[contents], thresholds=thresholds[row : row + 1])
        for name, value in alone.items():
            if value.dtype == np.float32:
                np.testing.assert_allclose(together[name][row], value[0], atol=1e-5)
            else:
                assert together[name][row] == value[0]


def test_no_transformer_runs_for_rows_that_are_gone(model: DynamicVisionTransformer) -> None:
    """Counted in the graph that is exported: each Transformer's rows, by an operation of its own."""
    seen: list[list[int]] = [[] for _ in range(3)]
    graph = serving.serving_module(model)
    transformers = graph.form.transformers
    originals = [transformer.run for transformer in transformers]

    def counting(k: int) -> Any:
        def run(images: tf.Tensor, *rest: Any) -> Any:
            tf.numpy_function(lambda rows: seen[k].append(int(rows)), [tf.shape(images)[0]], [])
            return originals[k](images, *rest)

        return run

    for k, transformer in enumerate(transformers):
        transformer.run = counting(k)
    try:
        good = good_files(4)
        rows = np.array([[0.0, 0.0], [NEVER, 0.0], [NEVER, 0.0], [NEVER, NEVER]], np.float32)
        graph.with_thresholds(tf.constant([*good, b""]), tf.constant([*rows, rows[-1]]))
        graph.with_thresholds(tf.constant([b"", b"x"]), tf.constant(rows[:2]))
        graph.with_thresholds(tf.constant(good[:2]), tf.zeros((2, 2)))
    finally:
        for transformer, original in zip(transformers, originals, strict=True):
            transformer.run = original
    assert seen == [[4, 2], [3], [1]]


# What else is in the folder


def test_the_card_goes_along(model: DynamicVisionTransformer, exported: Path) -> None:
    card = json.loads((exported / "assets" / "config.json").read_text(encoding="utf-8"))
    assert card == model.card


def test_warm_up_requests_run_every_exit(model: DynamicVisionTransformer, served: Any, exported: Path) -> None:
    ran: set[tuple[str, int]] = set()
    requests = serving.warmup_requests(model)
    for signature, inputs in requests:
        answer = ask(served, signature, **inputs)
        assert answer["valid"].all()
        ran |= {(signature, int(exit_)) for exit_ in answer["exit"]}
    assert {("with_thresholds", k) for k in (1, 2, 3)} <= ran
    assert {signature for signature, _ in ran} == set(SIGNATURES)
    records = list(tf.data.TFRecordDataset(str(exported / WARMUP_FILE)).as_numpy_iterator())
    assert len(records) == len(requests) <= 1000


def test_warm_up_records_are_the_servers_messages(model: DynamicVisionTransformer, exported: Path) -> None:
    messages = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = tf.data.TFRecordDataset(str(exported / WARMUP_FILE)).as_numpy_iterator()
    for record, (signature, inputs) in zip(records, serving.warmup_requests(model), strict=True):
        log = messages.PredictionLog.FromString(record)
        request = log.predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("tiny", signature)
        assert set(request.inputs) == set(inputs)
        for name, value in inputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), value)
        assert log.SerializeToString(deterministic=True) == record  # nothing was read over


def test_nothing_of_keras_is_in_the_graph(exported: Path) -> None:
    """Objects of Keras's would need Keras, and its version, to be loaded again."""
    contents = (exported / "saved_model.pb").read_bytes()
    assert b"_tf_keras_" not in contents
    assert not (exported / "keras_metadata.pb").exists()


def test_one_exit_alone_is_served_too(tmp_path: Path) -> None:
    single = small_cascade(token_grids=(2,))
    served = tf.saved_model.load(str(serving.export(single, tmp_path / "single")))
    answer = ask(served, "serving_default", image_bytes=[*good_files(2), b""])
    assert answer["exit"].tolist() == [1, 1, 0]
    rows = np.zeros((2, 0), np.float32)
    assert ask(served, "with_thresholds", image_bytes=good_files(2), thresholds=rows)["exit"].tolist() == [1, 1]


# Versions


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a graph takes seconds, and where its folder goes does not depend on it."""

    def write(model: DynamicVisionTransformer, folder: Path, name: str) -> None:
        (folder / "saved_model.pb").write_text(name)

    monkeypatch.setattr(serving, "_write", write)


@pytest.mark.usefixtures("quick")
def test_versions_count_up(model: DynamicVisionTransformer, tmp_path: Path) -> None:
    root = tmp_path / "some" / "where" / "tiny"
    assert serving.export(model, root) == root / "1"
    assert serving.export(model, root) == root / "2"
    assert serving.export(model, root, version=7) == root / "7"
    (root / "notes").mkdir()
    (root / "8").write_text("no version, and in its way")
    assert serving.export(model, root) == root / "9"
    assert serving.versions(root) == [1, 2, 7, 9]
    assert (root / "9").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in root.iterdir()) == ["1", "2", "7", "8", "9", "notes"]


@pytest.mark.usefixtures("quick")
def test_a_version_is_never_replaced(model: DynamicVisionTransformer, tmp_path: Path) -> None:
    serving.export(model, tmp_path / "tiny", version=3)
    before = (tmp_path / "tiny" / "3" / "saved_model.pb").stat().st_mtime_ns
    for version, message in ((3, "has a version 3 already"), (0, "whole number from 1"), (-1, "whole number from 1")):
        with pytest.raises(ValueError, match=message):
            serving.export(model, tmp_path / "tiny", version=version)
    with pytest.raises(ValueError, match="is a SavedModel itself"):
        serving.export(model, tmp_path / "tiny" / "3")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        serving.export(model, tmp_path / "file")
    assert (tmp_path / "tiny" / "3" / "saved_model.pb").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["3"]


def test_two_exports_at_a_time_get_a_version_each(
    model: DynamicVisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tiny"

    def write(model: DynamicVisionTransformer, folder: Path, name: str) -> None:
        (folder / "saved_model.pb").write_text("mine")
        (root / "1").mkdir()  # another one was faster
        (root / "1" / "saved_model.pb").write_text("other")

    numbered = serving.versions
    answers = iter([[], [1]])  # what was there when this one looked, and the second time
    monkeypatch.setattr(serving, "_write", write)
    monkeypatch.setattr(serving, "versions", lambda folder: next(answers))
    assert serving.export(model, root) == root / "2"
    assert numbered(root) == [1, 2]
    assert (root / "1" / "saved_model.pb").read_text() == "other"


def test_a_failed_export_leaves_nothing(
    model: DynamicVisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: DynamicVisionTransformer, folder: Path, name: str) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(serving, "_write", full)
    with pytest.raises(OSError, match="disk full"):
        serving.export(model, tmp_path / "tiny")
    assert list((tmp_path / "tiny").iterdir()) == []


@pytest.mark.long
@pytest.mark.one_stack
def test_killed_at_any_moment_no_half_version_is_seen(tmp_path: Path) -> None:
    """SIGKILL between the steps of writing: what is there under a number is whole, and the next export cleans up."""
    small_cascade(depth=1).save_to_preset(tmp_path / "model")
    root = tmp_path / "tiny"
    command = [sys.executable, "-m", "dvt_tf.cli", "export", "--model", str(tmp_path / "model"), "--out", str(root)]
    killed = 0
    for wanted in ("saved_model.pb", "assets", "assets.extra"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Killed as soon as it has come so far.
        while process.poll() is None and not list(root.glob(f".exporting.*/{wanted}")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        for number in serving.versions(root):
            tf.saved_model.load(str(root / str(number)))
    assert killed >= 2
    left = [path for path in root.iterdir() if path.name.startswith(".exporting.")]
    assert left  # or no moment in the middle was met
    long_ago = time.time() - 2 * 3600
    for path in left:
        for entry in (path, *path.rglob("*")):
            os.utime(entry, (long_ago, long_ago))
    subprocess.run(command, check=True, capture_output=True)
    assert not [path for path in root.iterdir() if path.name.startswith(".exporting.")]
    newest = tf.saved_model.load(str(root / str(serving.versions(root)[-1])))
    assert ask(newest, "serving_default", image_bytes=good_files(1))["valid"].all()


# The command


@pytest.mark.usefixtures("quick")
def test_the_command(tmp_path: Path, model: DynamicVisionTransformer, capsys: pytest.CaptureFixture[str]) -> None:
    model.save_to_preset(tmp_path / "model")
    command = ["export", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "tiny")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "tiny" / "1") in printed
    assert "serving_default, with_thresholds, pixels" in printed
    assert main([*command, "--version", "1"]) == 2
    assert "has a version 1 already" in capsys.readouterr().err
    assert main([*command, "--version", "5"]) == 0
    assert serving.versions(tmp_path / "tiny") == [1, 5]
    assert main(["export", "--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
