"""The export through TensorFlow's C API, in a process without Python's TensorFlow, and through its own tool."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.exit_rule import NEVER
from tests.serving.files import broken_files, good_files
from tests.serving.models import Alone, Exported, same
from tests.serving.running import ROOT

SIGNATURES = ("serving_default", "with_thresholds", "pixels")
THRESHOLDS = [[0.0, 0.0], [NEVER, 0.0], [0.6, 0.5], [NEVER, NEVER], [np.nan, 0.3], [-1.0, 0.0], [0.55, np.nan]]


@pytest.fixture(scope="module")
def inputs() -> list[tuple[str, dict[str, Any]]]:
    """Requests with broken rows among the good ones, by signature."""
    files = [part for pair in zip(good_files(16), broken_files() * 2, strict=True) for part in pair]
    rows = [THRESHOLDS[at % len(THRESHOLDS)] for at in range(len(files))]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), dtype=np.uint8)
    return [
        ("serving_default", {"image_bytes": files}),
        ("with_thresholds", {"image_bytes": files, "thresholds": rows}),
        ("pixels", {"images": pixels}),
        ("serving_default", {"image_bytes": []}),
        ("with_thresholds", {"image_bytes": [b"", b"no image"], "thresholds": [[0.0, 0.0]] * 2}),
    ]


@pytest.fixture(scope="module")
def found(exported: Exported, inputs: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What a process without TensorFlow's Python says of them."""

    def to_json(value: Any) -> Any:
        return base64.b64encode(value).decode() if isinstance(value, bytes) else np.asarray(value).tolist()

    requests = [
        {"signature": signature, "inputs": {name: [to_json(row) for row in rows] for name, rows in columns.items()}}
        for signature, columns in inputs
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.tf_c_api", str(exported.folder / "1")],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_row_is_that_of_python(
    found: dict[str, Any], inputs: list[tuple[str, dict[str, Any]]], alone: dict[int, Alone]
) -> None:
    exits, compared = set(), 0
    for (signature, columns), answer in zip(inputs, found["answers"], strict=True):
        images = columns.get("image_bytes", columns.get("images"))
        assert {len(value) for value in answer.values()} == {len(images)}
        for row, image in enumerate(images):
            thresholds = columns["thresholds"][row] if "thresholds" in columns else None
            if not alone[1].is_clear(image, thresholds):
                continue
            here = {name: value[row] for name, value in answer.items()}
            assert same(here, alone[1].ask(image, thresholds)), (signature, row, here)
            exits.add((signature, here["exit"]))
            compared += 1
    assert {(signature, exit_) for signature in SIGNATURES[:2] for exit_ in range(4)} <= exits
    assert compared >= 2 * 32 + 6


def test_the_process_was_tensorflow_and_nothing_else(found: dict[str, Any]) -> None:
    # It asserts itself that neither tensorflow nor keras was imported.
    assert found["version"] == tf.version.VERSION
    assert found["held"] == 0  # every string tensor was given back


def test_signatures_of_the_file(found: dict[str, Any]) -> None:
    outputs = {
        "label": ["object", [None]],
        "probabilities": ["float32", [None, 7]],
        "confidence": ["float32", [None]],
        "exit": ["int32", [None]],
        "gmacs": ["float32", [None]],
        "valid": ["bool", [None]],
    }
    image_bytes, thresholds = ["object", [None]], ["float32", [None, 2]]
    assert found["signatures"] == {
        "serving_default": {"inputs": {"image_bytes": image_bytes}, "outputs": outputs},
        "with_thresholds": {"inputs": {"image_bytes": image_bytes, "thresholds": thresholds}, "outputs": outputs},
        "pixels": {"inputs": {"images": ["uint8", [None, 28, 28, 3]]}, "outputs": outputs},
    }


def test_saved_model_cli(exported: Exported, alone: dict[int, Alone], tmp_path: Path) -> None:
    """Both at a time: each takes seconds to start."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    tool = str(Path(sys.executable).with_name("saved_model_cli"))
    export = ["--dir", str(exported.folder / "1")]
    signature = ["--tag_set", "serve", "--signature_def", "pixels"]
    values = ["--inputs", f"images={tmp_path / 'pixels.npy'}", "--outdir", str(tmp_path)]
    commands = [[tool, "show", *export, "--all"], [tool, "run", *export, *signature, *values]]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    (shown, errors), (_, errors_of_run) = [process.communicate() for process in processes]
    assert processes[0].returncode == 0, errors
    assert processes[1].returncode == 0, errors_of_run
    for name in SIGNATURES:
        assert f"signature_def['{name}']" in shown
    assert re.search(r"inputs\['thresholds'\] tensor_info:\s+dtype: DT_FLOAT\s+shape: \(-1, 2\)", shown)
    answer = {name: np.load(tmp_path / f"{name}.npy", allow_pickle=True) for name in alone[1].ask(pixels[0])}
    for row, image in enumerate(pixels):
        assert same({name: value[row] for name, value in answer.items()}, alone[1].ask(image))
