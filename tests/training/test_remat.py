"""Recomputing in the backward pass (`remat`): the same gradients and the same run, and nothing kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights
from dvt_tf.vision_transformer import recomputed
from tests.cascades import TOKENS_TO_TOKEN, random_images, small_cascade
from tests.training.folders import RECIPE, SMALL, make_folder
from training import train as program
from training.recipe import load_recipe
from training.run import make_trainer, train
from training.schedule import Plan
from training.stopping import Stopped

SEED = tf.constant([3, 5])


def plain(weight: Any) -> tf.Variable:
    """Keras 3 wraps it."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def gradients_of(model: DynamicVisionTransformer) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Images -> the gradient of every weight, with stochastic depth drawn from `SEED`; one for `strategy.run` too."""
    weights = {name: plain(weight) for name, weight in named_weights(model) if weight.trainable}

    def gradients(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = model(images, training=True, seed=SEED)
            loss = tf.add_n([tf.reduce_mean(tf.square(logits)) for logits in outputs.values()])
        return tape.gradient(loss, weights)

    return gradients


def assert_alike(found: dict[str, tf.Tensor], expected: dict[str, tf.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert max(float(tf.reduce_max(tf.abs(gradient))) for gradient in expected.values()) > 0.1
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-5, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("precision", "fields"),
    [
        ("float32", {}),
        ("mixed_bfloat16", TOKENS_TO_TOKEN),  # with dropout in its performers
        ("float32", {"relationship_source": "deep", "feature_reuse": "shallow"}),
        ("mixed_bfloat16", {"relationship_reuse": "none", "feature_reuse": "none"}),
    ],
    ids=str,
)
def test_gradients_are_the_same(precision: str, fields: dict[str, Any]) -> None:
    model = small_cascade(drop_path_rate=0.3, dtype=precision, **fields)
    images = tf.constant(random_images(4))
    expected = tf.function(gradients_of(model), autograph=False)(images)
    model.remat = True
    assert_alike(tf.function(gradients_of(model), autograph=False)(images), expected)


def test_gradients_are_the_same_without_a_graph() -> None:
    model = small_cascade(drop_path_rate=0.3)
    images = tf.constant(random_images(4))
    expected = gradients_of(model)(images)
    model.remat = True
    assert_alike(gradients_of(model)(images), expected)


@pytest.mark.long
def test_gradients_are_the_same_on_two_devices() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = small_cascade(drop_path_rate=0.3)
    images = tf.constant(random_images(4))
    found = []
    for model.remat in (False, True):
        on_replica = gradients_of(model)
        run = tf.function(lambda images: strategy.run(on_replica, (images,)), autograph=False)  # noqa: B023
        found.append(run(images))
    for device in range(2):
        own = [
            {name: strategy.experimental_local_results(value)[device] for name, value in one.items()} for one in found
        ]
        assert_alike(*own)


def test_what_lies_inside_blocks_and_mixing_is_computed_twice() -> None:
    model = small_cascade()
    counts = []
    for model.remat in (False, True):
        step = tf.function(gradients_of(model), autograph=False)
        graph = step.get_concrete_function(tf.constant(random_images(2))).graph
        kinds = [operation.type for operation in graph.get_operations()]
        counts.append(kinds.count("Softmax"))
    blocks = model.config.depth * model.num_exits
    assert counts == [blocks, 2 * blocks]


def test_it_is_no_part_of_what_is_saved() -> None:
    model = small_cascade()
    assert not model.remat
    model.remat = True
    assert "remat" not in json.dumps([model.get_config(), model.card])
    assert not DynamicVisionTransformer.from_config(model.get_config()).remat


def test_a_part_may_take_nothing_for_a_tensor_and_give_any_structure() -> None:
    factor = tf.Variable(3.0)

    def part(first: tf.Tensor, second: tf.Tensor | None, third: tf.Tensor) -> dict[str, Any]:
        assert second is None
        return {"outputs": [first * factor, third**2], "same": first}

    values = tf.constant(2.0), tf.constant(5.0)
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = recomputed(part)(values[0], None, values[1])
        total = found["outputs"][0] + found["outputs"][1]
    assert [float(value) for value in tape.gradient(total, [*values, factor])] == [3.0, 10.0, 2.0]


def test_the_recipe_says_so_and_the_command_has_a_flag_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not load_recipe("digits").remat
    recipe = dataclasses.replace(RECIPE, remat=True)
    trainer = make_trainer(recipe, tuple("abc"), Plan(1, 1, 0, 0), tf.distribute.OneDeviceStrategy("CPU:0"))
    assert trainer.cascade.remat
    with pytest.raises(ValueError, match="recipe field remat must be true or false, not 1"):
        dataclasses.replace(RECIPE, remat=1)
    given = []
    monkeypatch.setattr(program, "train", lambda recipe, *rest: given.append(recipe))
    for flags in ([], ["--remat"], ["--set", "remat=true"]):
        assert program.main(["--recipe", "digits", "--out", str(tmp_path), *flags]) == 0
    assert [recipe.remat for recipe in given] == [False, True, True]


@pytest.mark.long
@pytest.mark.one_stack
def test_a_run_may_go_on_with_it(tmp_path: Path) -> None:
    data = f"folder:{make_folder(tmp_path / 'pictures')}"
    recipe = dataclasses.replace(RECIPE, overrides={**SMALL, "drop_path_rate": 0.2}, epochs=1)
    train(recipe, data, tmp_path / "whole", "one")
    with pytest.raises(Stopped):
        train(recipe, data, tmp_path / "changed", "one", stop_after=2)
    train(dataclasses.replace(recipe, remat=True), data, tmp_path / "changed", "one", resume=True)
    expected = load_file(tmp_path / "whole" / "state.safetensors")
    for name, value in load_file(tmp_path / "changed" / "state.safetensors").items():
        np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=name)
    assert json.loads((tmp_path / "changed" / "run.json").read_text())["remat"]
