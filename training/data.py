"""What a run trains on: batches as a pure function of (seed, step), so that a resumed run sees what it would have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import tensorflow as tf

from dvt_tf import datasets
from dvt_tf.preprocessing import normalise
from dvt_tf.presets import CascadeConfig
from dvt_tf.scenes import MIN_SIZE
from training.augment import Augmentation
from training.damaged import DamagedImages
from training.image_data import ImageData
from training.mix import mix_batch
from training.objective import exit_names, token_targets
from training.recipe import Recipe
from training.schedule import Plan

PURPOSE_WHICH, PURPOSE_SCENE = 1, 2  # what a draw is for


class TrainingData(Protocol):
    """Training images and those to validate on.

    classes: what the data calls them. count: training images; 0 where they are drawn and never end. damaged: those met.
    """

    classes: tuple[str, ...]
    count: int
    damaged: DamagedImages

    def batches(
        self,
        config: CascadeConfig,
        card: Mapping[str, Any],
        plan: Plan,
        first_step: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> tf.data.Dataset:
        """Training batches from step `first_step` to the end of the plan.

        Args:
            config, card: of the model that is trained.
            part, parts: which part of every batch, of how many, where several machines share it.

        Returns:
            Batches of B / parts images (.., S, S, 3) float32, normalised, and their targets: {"exit_k": (.., classes)
            float32} and, with a token loss, {"tokens_k": (.., g g, classes + 1) float32}.
        """

    def validation(self, card: Mapping[str, Any], batch_size: int, limit: int = 0) -> tf.data.Dataset:
        """Batches (images, labels int32 (B,)) that nothing is trained on; `limit` images, 0 for all."""


def open_data(recipe: Recipe, spec: str) -> TrainingData:
    """The data of a SPEC as a recipe trains on it.

    Raises:
        ValueError, FileNotFoundError: it is not there, is not fit to train on, or does not go with the recipe.
    """
    parsed = datasets.parse_spec(spec)
    if parsed.split:
        raise ValueError(f"--data {spec}: training chooses the splits by itself; leave out @{parsed.split}")
    if not datasets.is_labelled(parsed):
        raise ValueError(f"--data {spec}: has no labels, and training needs them")
    return SceneData(recipe, parsed.kind) if parsed.kind in datasets.EMBEDDED else ImageData(recipe, parsed)


class SceneData:
    """Scenes of an embedded data set, drawn on the fly without end."""

    count = 0

    def __init__(self, recipe: Recipe, name: str) -> None:
        neutral = Recipe(
            recipe.preset,
            epochs=1,
            augmentation=Augmentation(label_smoothing=recipe.augmentation.label_smoothing),
        )
        # Scenes vary by themselves and are validated on scenes of their own: what a recipe says else has no effect.
        for field in ("augmentation", "held_out", "repeated_augmentation"):
            if getattr(recipe, field) != getattr(neutral, field):
                raise ValueError(f"recipe field {field} has no effect on {name}; leave it out")
        self.recipe, self.name = recipe, name
        self.data = datasets.EMBEDDED[name]
        self.classes = self.data.class_names
        self.damaged = DamagedImages(0, 0.0)

    def batches(
        self,
        config: CascadeConfig,
        card: Mapping[str, Any],
        plan: Plan,
        first_step: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> tf.data.Dataset:
        """See `TrainingData`."""
        labels = self.data.training_labels()
        label_bank = tf.gather(tf.constant(datasets.label_table(self.classes, card, self.name)), labels)
        recipe, batch = self.recipe, self.recipe.batch_size
        own = slice(batch * part // parts, batch * (part + 1) // parts)

        def draw(step: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            seed = tf.stack([recipe.seed, tf.cast(step, tf.int32)])
            which_seed = tf.random.experimental.stateless_fold_in(seed, PURPOSE_WHICH)
            which = tf.random.stateless_uniform((batch,), which_seed, 0, len(labels), tf.int32)
            seen = tf.cast(step * batch, tf.float32)
            stage = tf.minimum(seen / recipe.curriculum_images, 1.0) if recipe.curriculum_images else tf.constant(1.0)
            start = math.log(recipe.curriculum_min_size)
            scenes = self.data.draw(
                which,
                tf.random.experimental.stateless_fold_in(seed, PURPOSE_SCENE),
                tf.exp(start + stage * (math.log(MIN_SIZE) - start)),
                recipe.curriculum_clutter + stage * (1.0 - recipe.curriculum_clutter),
            )
            label, box = tf.gather(label_bank, which)[own], scenes["box"][own]
            smoothing = recipe.augmentation.label_smoothing
            images, targets = mix_batch(
                normalise(scenes["pixels"][own], card), label, seed, config.num_classes, label_smoothing=smoothing
            )
            wanted = dict.fromkeys(exit_names(config.num_exits), targets)
            if recipe.token_loss:
                for i, grid in enumerate(config.token_grids):
                    wanted[f"tokens_{i + 1}"] = token_targets(box, label, grid, config.num_classes, config.image_size)
            return images, wanted

        steps = tf.data.Dataset.range(first_step, plan.steps, output_type=tf.int64)
        return steps.map(draw, num_parallel_calls=1, deterministic=True).prefetch(2)

    def validation(self, card: Mapping[str, Any], batch_size: int, limit: int = 0) -> tf.data.Dataset:
        """See `TrainingData`: the val split's scenes."""
        return datasets.load(self.name, "val", card, batch_size, limit=limit)
