"""What is trained: the cascade with the losses of a recipe, as one `keras.Model` for `fit`."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights
from dvt_tf.layers.linear import Linear
from training.recipe import Recipe


class CascadeTrainer(keras.Model):
    """The cascade and the extra outputs that only training needs.

    The loss is the sum of the exits' cross-entropies (Wang et al., 2021, section 3.2). Optionally each patch token also
    says which class lies under it, or background (token labelling, Jiang et al., 2021, arXiv 2104.10858), through a
    Linear per Transformer that is thrown away after training; and optionally the earlier exits learn from the last.

    Args:
        cascade: the model that is trained and kept.
        token_labels: whether to add the token outputs.
        distillation: weight of the earlier exits' cross-entropy against the last exit's probabilities.
        frozen: weights of the cascade that are never updated, as a recipe names them.

    Call: images (B, S, S, 3) -> {"exit_k": (B, classes)} and, with token labels, {"tokens_k": (B, g g, classes + 1)}.
    """

    def __init__(
        self,
        cascade: DynamicVisionTransformer,
        token_labels: bool = False,
        distillation: float = 0.0,
        frozen: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cascade = cascade
        self.distillation = distillation
        self.frozen = tuple(frozen)
        self.frozen_ids: frozenset[int] = frozenset()
        self.token_heads = [
            Linear(cascade.config.num_classes + 1, dtype=self.dtype_policy, name=f"tokens_{i + 1}")
            for i in range(cascade.num_exits if token_labels else 0)
        ]

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # type: ignore[has-type]
            return
        self.cascade.build()
        for head in self.token_heads:
            head.build((None, None, self.cascade.config.dim))
        self.frozen_ids = frozenset(id(weight) for weight in frozen_weights(self.cascade, self.frozen).values())
        self.built = True

    @property
    def trainable_weights(self) -> list[Any]:
        return [weight for weight in super().trainable_weights if id(weight) not in self.frozen_ids]

    @property
    def trainable_variables(self) -> list[Any]:
        return self.trainable_weights

    def call(self, images: tf.Tensor, training: bool | None = None) -> dict[str, tf.Tensor]:
        seed = self.cascade.step_seed(self.optimizer) if training else None
        runs = self.cascade.run(images, training=training, seed=seed)
        outputs = {f"exit_{i + 1}": run.logits for i, run in enumerate(runs)}
        for i, (head, run) in enumerate(zip(self.token_heads, runs, strict=False)):
            outputs[f"tokens_{i + 1}"] = tf.cast(head(run.normalised[:, 1:]), tf.float32)
        if training and self.distillation:
            teacher = tf.stop_gradient(tf.nn.softmax(runs[-1].logits))
            for run in runs[:-1]:
                self.add_loss(
                    self.distillation * tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(teacher, run.logits))
                )
        return outputs


def frozen_weights(cascade: DynamicVisionTransformer, patterns: Sequence[str]) -> dict[str, Any]:
    """The weights that the patterns name, by name: each is a name or its beginning, * any one part between dots.

    Raises:
        ValueError: no weight has such a name.
    """
    weights, found = dict(named_weights(cascade)), {}
    for pattern in patterns:
        parts = pattern.split(".")
        named = {
            name: weight
            for name, weight in weights.items()
            if len(parts) <= name.count(".") + 1
            and all(fnmatch.fnmatchcase(own, part) for own, part in zip(name.split("."), parts, strict=False))
        }
        if not named:
            near = difflib.get_close_matches(pattern, weights, n=1, cutoff=0.0)[0]
            raise ValueError(f"frozen: {pattern!r} names no weight of this cascade; one that there is: {near}")
        found.update(named)
    return found


def token_targets(box: tf.Tensor, labels: tf.Tensor, grid: int, num_classes: int, image_size: int) -> tf.Tensor:
    """Targets of the token loss for objects in boxes.

    Args:
        box: (B, 4) float32 pixels: top, left, bottom, right. labels: (B,) int32.

    Returns:
        (B, grid * grid, num_classes + 1) float32, the last class being background. An image's targets sum to 1, half
        of it on the object whatever its size, each token's share following how much of it the box covers.
    """
    edges = tf.range(grid + 1, dtype=tf.float32) * (image_size / grid)

    def cover(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        inside = tf.minimum(high[:, None], edges[1:]) - tf.maximum(low[:, None], edges[:-1])
        return tf.nn.relu(inside) / (image_size / grid)  # (B, g), share of each row or column of tokens

    covered = cover(box[:, 0], box[:, 2])[:, :, None] * cover(box[:, 1], box[:, 3])[:, None, :]
    covered = tf.reshape(covered, (-1, grid * grid, 1))
    background = tf.nn.relu(1.0 - covered)  # rounding can leave a hair below zero
    objects = 0.5 * covered / tf.maximum(tf.reduce_sum(covered, 1, keepdims=True), 1e-6)
    background = 0.5 * background / tf.maximum(tf.reduce_sum(background, 1, keepdims=True), 1e-6)
    return tf.concat([objects * tf.one_hot(labels, num_classes)[:, None], background], -1)


@keras.utils.register_keras_serializable(package="dvt_tf")
def token_loss(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Weighted cross-entropy over tokens; targets as from `token_targets`, logits (B, T, C + 1) -> (B,)."""
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), (1, 2))


@keras.utils.register_keras_serializable(package="dvt_tf")
def cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of logits (B, C) against the shares (B, C) of each class in an image -> (B,)."""
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def exit_names(num_exits: int) -> list[str]:
    """What the exits are called in outputs, targets and logs: `exit_1` and so on."""
    return [f"exit_{i + 1}" for i in range(num_exits)]


def compile_trainer(trainer: CascadeTrainer, optimizer: keras.optimizers.Optimizer, recipe: Recipe) -> None:
    """Compiles with a loss and a top-1 metric per exit; targets are {"exit_k": (B, C)} and {"tokens_k": ...}."""
    exits = exit_names(trainer.cascade.num_exits)
    losses: dict[str, Any] = dict.fromkeys(exits, cross_entropy)
    weights = dict.fromkeys(exits, 1.0)
    for i in range(len(trainer.token_heads)):
        losses[f"tokens_{i + 1}"] = token_loss
        weights[f"tokens_{i + 1}"] = recipe.token_loss
    trainer.compile(
        optimizer=optimizer,
        loss=losses,
        loss_weights=weights,
        metrics={name: [keras.metrics.CategoricalAccuracy(name="top1")] for name in exits},
        jit_compile=False,
    )
    _create_metrics(trainer)


def _create_metrics(trainer: CascadeTrainer) -> None:
    """Lets Keras 2 create its metrics' variables now: those that the first step creates have the step traced twice."""
    config = trainer.cascade.config

    def update_once() -> None:
        zeros = {name: tf.zeros((1, config.num_classes)) for name in exit_names(config.num_exits)}
        for i in range(len(trainer.token_heads)):
            zeros[f"tokens_{i + 1}"] = tf.zeros((1, config.token_grids[i] ** 2, config.num_classes + 1))
        trainer.compute_loss(None, zeros, zeros, None)
        trainer.compute_metrics(None, zeros, zeros, None)

    tf.distribute.get_strategy().run(update_once)  # where the steps will update them
    trainer.reset_metrics()
