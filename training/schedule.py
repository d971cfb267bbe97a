"""How long a run is, in steps, and the learning rate of each."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf
from tensorflow import keras

from training.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe in steps.

    Args:
        steps_per_epoch: optimizer steps of an epoch.
        epochs: how many, those of the cool-down too.
        warmup_steps: over which the learning rate rises. cooldown_steps: the last ones, at the final rate.
    """

    steps_per_epoch: int
    epochs: int
    warmup_steps: int
    cooldown_steps: int

    @classmethod
    def of(cls, recipe: Recipe, training_images: int = 0) -> Plan:
        """The plan of a recipe for so many training images, those held out not counted.

        Their number may be left out where the recipe has `steps_per_epoch`.

        Raises:
            ValueError: it is needed, or the images do not fill one batch.
        """
        steps_per_epoch = recipe.steps_per_epoch or training_images // recipe.batch_size
        if not steps_per_epoch and not training_images:
            raise ValueError("a recipe without steps_per_epoch needs the number of training images")
        if not steps_per_epoch:
            raise ValueError(
                f"batch_size {recipe.batch_size} is more than the {training_images} training images there are; "
                f"make it at most {training_images}"
            )
        epochs = recipe.epochs or max(1, round(recipe.images / (recipe.batch_size * steps_per_epoch)))
        warmup_steps = recipe.warmup_epochs * steps_per_epoch or math.ceil(recipe.warmup_images / recipe.batch_size)
        return cls(
            steps_per_epoch, epochs + recipe.cooldown_epochs, warmup_steps, recipe.cooldown_epochs * steps_per_epoch
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A straight rise, then a cosine to the final rate (Loshchilov and Hutter, 2017), which then stays.

    Args:
        peak, final: learning rates. warmup: optimizer steps of the rise.
        steps: after how many steps the final rate is reached.
        start: learning rate that the rise begins at.
        epoch: steps for which a rate stays; 0 for another one every step.
        over_warmup: whether the cosine is counted from step 0, its beginning hidden, or from the end of the rise.
    """

    def __init__(
        self,
        peak: float,
        final: float,
        warmup: int,
        steps: int,
        start: float = 0.0,
        epoch: int = 0,
        over_warmup: bool = False,
    ) -> None:
        self.peak = peak
        self.final = final
        self.warmup = warmup
        self.steps = steps
        self.start = start
        self.epoch = epoch
        self.over_warmup = over_warmup

    def __call__(self, step: Any) -> tf.Tensor:
        step = self._begin(step)
        # By steps, the first one makes some way already; by epochs it does not, as published.
        rising = self.start + (self.peak - self.start) * (step if self.epoch else step + 1) / max(self.warmup, 1)
        hidden = 0 if self.over_warmup else self.warmup
        progress = tf.clip_by_value((step - hidden) / max(self.steps - hidden, 1), 0.0, 1.0)
        falling = self.final + (self.peak - self.final) * 0.5 * (1 + tf.cos(math.pi * progress))
        return tf.where(step < self.warmup, rising, falling)

    def scaled(self, rate: tf.Tensor, step: Any, scale: float) -> tf.Tensor:
        """What the rate of a step becomes under a peak of `scale` times this one, with the same start and end."""

        def between(end: float) -> tf.Tensor:
            return end + (rate - end) * ((scale * self.peak - end) / (self.peak - end))

        if not self.warmup:
            return between(self.final)
        return tf.where(self._begin(step) < self.warmup, between(self.start), between(self.final))

    def _begin(self, step: Any) -> tf.Tensor:
        """The step whose rate it is, float32."""
        step = tf.convert_to_tensor(step)
        if self.epoch:
            step = tf.cast(step, tf.int64)
            step = step - step % self.epoch
        return tf.cast(step, tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "final": self.final,
            "warmup": self.warmup,
            "steps": self.steps,
            "start": self.start,
            "epoch": self.epoch,
            "over_warmup": self.over_warmup,
        }


def make_schedule(recipe: Recipe, plan: Plan) -> WarmupCosine:
    """The learning rates of a run; where the recipe scales those of the body, of its heads."""
    return WarmupCosine(
        recipe.peak_learning_rate,
        recipe.final_learning_rate,
        plan.warmup_steps,
        plan.steps - plan.cooldown_steps,
        recipe.warmup_learning_rate,
        plan.steps_per_epoch if recipe.step_every == "epoch" else 0,
        recipe.cosine_over_warmup,
    )
