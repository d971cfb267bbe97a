"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.checkpoints import named_weights
from training.recipe import Recipe


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then a cosine to the final rate (Loshchilov and Hutter, 2017).

    Args:
        peak, final: learning rates. warmup, steps: optimizer steps.
    """

    def __init__(self, peak: float, final: float, warmup: int, steps: int) -> None:
        self.peak = peak
        self.final = final
        self.warmup = warmup
        self.steps = steps

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(tf.convert_to_tensor(step), tf.float32)
        rising = self.peak * (step + 1) / max(self.warmup, 1)
        progress = tf.clip_by_value((step - self.warmup) / max(self.steps - self.warmup, 1), 0.0, 1.0)
        falling = self.final + (self.peak - self.final) * 0.5 * (1 + tf.cos(math.pi * progress))
        return tf.where(step < self.warmup, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "final": self.final, "warmup": self.warmup, "steps": self.steps}


def decays(name: str, weight: Any) -> bool:
    """Whether weight decay applies: to matrices, not to biases, norms, the class token and position embeddings."""
    return len(weight.shape) > 1 and not name.endswith(("class_token", "positions", "bias1", "bias2"))


def make_optimizer(recipe: Recipe, model: keras.Model) -> keras.optimizers.Optimizer:
    """AdamW with the recipe's schedule, for the weights of a built model."""
    optimizer = keras.optimizers.AdamW(
        learning_rate=WarmupCosine(
            recipe.learning_rate,
            recipe.final_learning_rate,
            math.ceil(recipe.warmup_images / recipe.batch_size),
            recipe.steps,
        ),
        weight_decay=recipe.weight_decay,
        beta_2=recipe.beta_2,
        global_clipnorm=recipe.clip_norm or None,
    )
    optimizer.exclude_from_weight_decay(var_list=[w for name, w in named_weights(model) if not decays(name, w)])
    optimizer.build(model.trainable_variables)
    return optimizer
