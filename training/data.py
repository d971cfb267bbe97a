"""What a run trains on: batches as a pure function of (seed, step), so that a resumed run sees what it would have."""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from dvt_tf import datasets
from dvt_tf import scenes as scenes_module
from dvt_tf.preprocessing import normalise
from dvt_tf.presets import CascadeConfig
from dvt_tf.scenes import MIN_SIZE
from training.augment import Augmentation
from training.damaged import DamagedImages
from training.image_data import ImageData
from training.kept_scenes import KeptScenes, SceneBatch
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
    """Scenes of an embedded data set, drawn on the fly without end, or ahead where several runs see the same ones."""

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
        for field in ("resize_short_side", "interpolation"):
            if field in recipe.preprocessing:
                raise ValueError(f"recipe field preprocessing.{field} has no effect on {name}; leave it out")
        self.recipe, self.name = recipe, name
        self.data = datasets.EMBEDDED[name]
        self.classes = self.data.class_names
        self.damaged = DamagedImages(0, 0.0)
        self._kept: KeptScenes | None = None

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
        label_bank = datasets.label_table(self.classes, card, self.name)
        label_bank = tf.gather(tf.constant(label_bank), self.data.training_labels())
        recipe, batch = self.recipe, self.recipe.batch_size
        own = slice(batch * part // parts, batch * (part + 1) // parts)

        def prepare(step: tf.Tensor, scenes: SceneBatch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            seed = tf.stack([recipe.seed, tf.cast(step, tf.int32)])
            label, box = tf.gather(label_bank, scenes.which)[own], scenes.box[own]
            smoothing = recipe.augmentation.label_smoothing
            images, targets = mix_batch(
                normalise(scenes.pixels[own], card), label, seed, config.num_classes, label_smoothing=smoothing
            )
            wanted = dict.fromkeys(exit_names(config.num_exits), targets)
            if recipe.token_loss:
                for i, grid in enumerate(config.token_grids):
                    wanted[f"tokens_{i + 1}"] = token_targets(box, label, grid, config.num_classes, config.image_size)
            return images, wanted

        steps = tf.data.Dataset.range(first_step, plan.steps, output_type=tf.int64)
        scenes = self._kept.read(first_step) if self._kept else self._drawn(steps)
        return tf.data.Dataset.zip((steps, scenes)).map(prepare, num_parallel_calls=1, deterministic=True).prefetch(2)

    def keep(self, folder: Path, plan: Plan) -> None:
        """Draws the scenes of a plan ahead, into files from which `batches` then reads them; about 37 KB a scene.

        What is there already is not drawn again. Two processes draw at once, one from each end; others wait for them.
        Scenes of another seed, recipe or version of the drawing are removed from the folder, unless a process still
        reads them. Where they would take more than half of what is free, that is said, and they are drawn as they are
        needed.

        Raises:
            OSError: a file cannot be written.
        """
        kept = KeptScenes(folder / self._stream(), self.recipe.batch_size, plan.steps)
        if kept.keep(self._arrays):
            self._kept = kept

    def _arrays(self, steps: Sequence[int]) -> Iterator[SceneBatch]:
        return self._drawn(tf.data.Dataset.from_tensor_slices(np.array(steps, np.int64))).as_numpy_iterator()

    def _stream(self) -> str:
        """What decides which scenes are drawn, as a name: the seed, fields of the recipe and the code that draws."""
        recipe = self.recipe
        fields = (recipe.batch_size, recipe.curriculum_images, recipe.curriculum_min_size, recipe.curriculum_clutter)
        digest = hashlib.sha256(repr((self.name, fields)).encode())
        for code in (scenes_module, sys.modules[self.data.draw.__module__], SceneData._drawn):
            digest.update(inspect.getsource(code).encode())
        return f"seed{recipe.seed}_{digest.hexdigest()[:12]}"

    def _drawn(self, steps: tf.data.Dataset) -> tf.data.Dataset:
        """A `SceneBatch` for each of these steps, int64."""
        recipe, batch, objects = self.recipe, self.recipe.batch_size, len(self.data.training_labels())

        def draw(step: tf.Tensor) -> SceneBatch:
            seed = tf.stack([recipe.seed, tf.cast(step, tf.int32)])
            which_seed = tf.random.experimental.stateless_fold_in(seed, PURPOSE_WHICH)
            which = tf.random.stateless_uniform((batch,), which_seed, 0, objects, tf.int32)
            seen = tf.cast(step * batch, tf.float32)
            stage = tf.minimum(seen / recipe.curriculum_images, 1.0) if recipe.curriculum_images else tf.constant(1.0)
            start = math.log(recipe.curriculum_min_size)
            scenes = self.data.draw(
                which,
                tf.random.experimental.stateless_fold_in(seed, PURPOSE_SCENE),
                tf.exp(start + stage * (math.log(MIN_SIZE) - start)),
                recipe.curriculum_clutter + stage * (1.0 - recipe.curriculum_clutter),
            )
            return SceneBatch(which, scenes["box"], tf.cast(scenes["pixels"], tf.uint8))

        return steps.map(draw, num_parallel_calls=1, deterministic=True)

    def validation(self, card: Mapping[str, Any], batch_size: int, limit: int = 0) -> tf.data.Dataset:
        """See `TrainingData`: the val split's scenes."""
        return datasets.load(self.name, "val", card, batch_size, limit=limit)
