"""The plain Keras port that the folded form is timed against: the model's own logits, and a table of the times."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import baseline
from benchmarks.inference import up_to_exit
from benchmarks.port import Port
from dvt_tf.cascade import DynamicVisionTransformer
from tests.cascades import random_images, small_cascade


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [
        {},  # 28 pixels to 3 patches is padded
        {"embedding": "tokens_to_token", "token_grids": (2, 3, 4), "position_embedding": "sinusoid"},
        {"token_grids": (2, 5, 7)},  # windows of two cells and of three
        {"token_grids": (4,)},
        {"qkv_bias": False, "depth": 3},
    ],
    ids=str,
)
def test_every_logit_is_the_models(fields: dict[str, Any]) -> None:
    model = small_cascade(**fields)
    images = random_images(5, model.config.image_size)
    port, expected = Port(model), model(images)
    found = port(tf.constant(images))
    assert set(found) == set(expected)
    for k in range(model.num_exits):
        logits = expected[f"exit_{k + 1}"]
        np.testing.assert_allclose(found[f"exit_{k + 1}"], logits, atol=2e-5)
        # as the benchmark runs it, in a graph that does not know the size of a batch
        np.testing.assert_allclose(up_to_exit(port, k, tf.constant(images))(), logits, atol=2e-5)


def test_the_bundled_model() -> None:
    model = DynamicVisionTransformer.from_preset("dvt_tiny_digits")
    images = random_images(2, model.config.image_size)
    expected = model(images)
    for key, logits in Port(model)(tf.constant(images)).items():
        np.testing.assert_allclose(logits, expected[key], atol=2e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_reuse": "none"}, "feature_reuse is 'none'"),
        ({"relationship_reuse": "deep"}, "relationship_reuse is 'deep'"),
        ({"relationship_source": "shallow"}, "relationship_source is 'shallow'"),
        ({"dtype": "mixed_bfloat16"}, "float32 only, and the model in bfloat16"),
    ],
    ids=str,
)
def test_what_it_does_not_handle_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Port(small_cascade(**fields))


@pytest.mark.long
def test_the_table_of_the_baseline(tmp_path: Path) -> None:
    small_cascade(token_grids=(2, 3), depth=1).save_to_preset(tmp_path / "model")
    baseline.main(str(tmp_path / "model"), batch=2, rounds=1, out=tmp_path / "out")
    times, best = (
        list(csv.reader((tmp_path / "out" / f"baseline_{number}.csv").read_text().splitlines())) for number in (1, 2)
    )
    assert times[0] == ["threads", "exit", "port, ms an image", "float32 / port", "bfloat16 / port"]
    assert [row[:2] for row in times[1:]] == [["all", "1"], ["all", "2"], ["1", "1"], ["1", "2"]]
    assert best[0] == ["exit", "port, ms", "float32, ms", "bfloat16, ms", "float32 / port", "bfloat16 / port"]
    assert [row[0] for row in best[1:]] == ["1", "2"]
    assert "Batches of 2" in (tmp_path / "out" / "baseline.md").read_text()
