"""The trained objective: losses against hand-computed ones, token targets, and a gradient for every weight."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dvt_tf.checkpoints import named_weights
from tests.cascades import random_images, small_cascade
from training.objective import CascadeTrainer, compile_trainer, cross_entropy, token_loss, token_targets
from training.optimizers import WarmupCosine, decays, make_optimizer
from training.recipe import Recipe
from training.schedule import Plan

RECIPE = Recipe("dvt_tiny_digits", images=64, batch_size=4, steps_per_epoch=4, token_loss=0.5, warmup_images=8)


def labels_for(trainer: CascadeTrainer, labels: np.ndarray) -> dict[str, tf.Tensor]:
    config = trainer.cascade.config
    wanted = {f"exit_{i + 1}": tf.one_hot(labels, config.num_classes) for i in range(config.num_exits)}
    box = tf.constant(np.tile([2.0, 3.0, 20.0, 25.0], (len(labels), 1)), tf.float32)
    for i, grid in enumerate(config.token_grids[: len(trainer.token_heads)]):
        wanted[f"tokens_{i + 1}"] = token_targets(box, tf.constant(labels), grid, config.num_classes, config.image_size)
    return wanted


def test_every_weight_gets_a_gradient_from_the_whole_objective() -> None:
    trainer = CascadeTrainer(small_cascade(), token_labels=True, distillation=0.5)
    trainer.build()
    compile_trainer(trainer, make_optimizer(RECIPE, trainer, Plan.of(RECIPE)), RECIPE)
    images, labels = tf.constant(random_images(4)), np.array([0, 1, 2, 3], np.int32)
    wanted = labels_for(trainer, labels)
    with tf.GradientTape() as tape:
        outputs = trainer(images, training=True)
        loss = trainer.compute_loss(images, wanted, outputs)
    names = {id(w): name for name, w in named_weights(trainer)}
    weights = trainer.trainable_weights
    variables = [
        weight if isinstance(weight, tf.Variable) else weight.value for weight in weights
    ]  # Keras 3 wraps them
    for weight, gradient in zip(weights, tape.gradient(loss, variables), strict=True):
        assert gradient is not None, names[id(weight)]
        # A key's bias shifts all logits of a row alike, so its gradient is zero but for rounding.
        assert np.abs(np.asarray(gradient)).max() > 0, names[id(weight)]


@pytest.mark.long
def test_a_step_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = CascadeTrainer(small_cascade(), token_labels=True, distillation=0.5)
    trainer.build()
    compile_trainer(trainer, make_optimizer(RECIPE, trainer, Plan.of(RECIPE)), RECIPE)
    assert {float(value) for value in trainer.get_metrics_result().values()} == {0.0}  # no step, nothing counted
    traced = []
    call = CascadeTrainer.call
    monkeypatch.setattr(CascadeTrainer, "call", lambda self, *args, **how: traced.append(1) or call(self, *args, **how))
    labels = np.array([0, 1, 2, 3], np.int32)
    batch = tf.data.Dataset.from_tensors((tf.constant(random_images(4)), labels_for(trainer, labels)))
    trainer.fit(batch.repeat(), epochs=2, steps_per_epoch=2, verbose=0)
    assert len(traced) == 1


def test_the_loss_is_the_sum_of_the_exits() -> None:
    recipe = dataclasses.replace(RECIPE, token_loss=0.0)
    trainer = CascadeTrainer(small_cascade())
    trainer.build()
    compile_trainer(trainer, make_optimizer(recipe, trainer, Plan.of(recipe)), recipe)
    images, labels = tf.constant(random_images(4)), np.array([0, 1, 2, 3], np.int32)
    outputs = trainer(images, training=False)
    assert set(outputs) == {"exit_1", "exit_2", "exit_3"}
    expected = sum(
        -tf.nn.log_softmax(logits).numpy()[np.arange(4), labels].mean() for logits in trainer.cascade(images).values()
    )
    found = trainer.evaluate(images, labels_for(trainer, labels), batch_size=4, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_distillation_pulls_the_earlier_exits_towards_the_last() -> None:
    recipe = dataclasses.replace(RECIPE, token_loss=0.0)
    images, labels = tf.constant(random_images(4)), np.array([0, 1, 2, 3], np.int32)
    losses = []
    for weight in (0.0, 2.0):
        trainer = CascadeTrainer(small_cascade(), distillation=weight)
        trainer.build()
        compile_trainer(trainer, make_optimizer(recipe, trainer, Plan.of(recipe)), recipe)
        outputs = trainer(images, training=True)
        losses.append(float(trainer.compute_loss(images, labels_for(trainer, labels), outputs)))
    logits = [np.asarray(value) for value in trainer.cascade(images).values()]
    teacher = tf.nn.softmax(logits[-1]).numpy()
    extra = sum(-(teacher * tf.nn.log_softmax(own).numpy()).sum(-1).mean() for own in logits[:-1])
    assert losses[1] - losses[0] == pytest.approx(2.0 * extra, rel=1e-4)


@given(
    top=st.floats(0, 80), left=st.floats(0, 80), side=st.floats(8, 32), grid=st.integers(2, 14), label=st.integers(0, 9)
)
def test_token_targets_share_an_image_between_object_and_background(
    top: float, left: float, side: float, grid: int, label: int
) -> None:
    box = tf.constant([[top, left, top + side, left + side]], tf.float32)
    targets = token_targets(box, tf.constant([label]), grid, 10, 112).numpy()[0]
    assert targets.shape == (grid * grid, 11)
    assert targets.min() >= 0
    assert targets[:, label].sum() == pytest.approx(0.5, abs=1e-3)
    assert targets[:, 10].sum() == pytest.approx(0.5, abs=1e-3)
    cell = 112 / grid
    row, column = int(top / cell), int((left + side / 2) / cell)
    if top + side < (row + 1) * cell:  # the box is inside one row of tokens
        outside = np.delete(targets[:, label].reshape(grid, grid), row, 0)
        assert outside.sum() == pytest.approx(0, abs=1e-6)
    assert targets[:, label].reshape(grid, grid)[:, column].sum() > 0


def test_losses_by_hand() -> None:
    logits = np.array([[2.0, 0.0, -1.0]], np.float32)
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    wanted = np.array([0.05, 0.9, 0.05])
    found = cross_entropy(tf.constant(wanted[None], tf.float32), tf.constant(logits))
    assert float(found[0]) == pytest.approx(-(wanted * np.log(shares)).sum(), rel=1e-5)
    targets = np.array([[[0.5, 0.0, 0.0], [0.0, 0.2, 0.3]]], np.float32)
    both = np.stack([logits[0], logits[0]])[None]
    by_hand = -(targets[0] * np.log(shares)).sum()
    assert float(token_loss(tf.constant(targets), tf.constant(both))[0]) == pytest.approx(by_hand, rel=1e-5)


def test_the_schedule_rises_then_falls_by_a_cosine() -> None:
    schedule = WarmupCosine(peak=1.0, final=0.1, warmup=10, steps=110)
    rates = [float(schedule(step)) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55, abs=1e-5)
    assert rates[110] == rates[119] == pytest.approx(0.1)
    assert all(np.diff(rates[10:]) <= 0)


def test_weight_decay_is_for_matrices_only() -> None:
    cascade = small_cascade()
    spared = {name for name, weight in named_weights(cascade) if not decays(name, weight)}
    assert {name.rsplit(".", 1)[-1] for name in spared} == {
        "bias", "beta", "gamma", "bias1", "bias2", "class_token", "positions"
    }  # fmt: skip
