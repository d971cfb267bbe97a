"""Training batches: a pure function of (seed, step), so that a resumed run sees what an unbroken one would have."""

from __future__ import annotations

import math

import tensorflow as tf

from dvt_tf import digits
from dvt_tf.preprocessing import normalise
from dvt_tf.presets import CascadeConfig
from training.objective import token_targets
from training.recipe import Recipe
from training.schedule import Plan

PURPOSE_WHICH, PURPOSE_SCENE = 1, 2  # what a draw is for


def digits_batches(recipe: Recipe, config: CascadeConfig, card: dict, first_step: int = 0) -> tf.data.Dataset:
    """Endless training scenes, drawn on the fly, from step `first_step` on.

    Returns batches of (images (B, 112, 112, 3) float32 normalised, labels), labels being {"exit_k": (B,) int32} and,
    where the recipe has a token loss, {"tokens_k": (B, g g, classes + 1) float32}.
    """
    glyphs, labels, _ = digits.source_digits("train")
    glyph_bank, label_bank = tf.constant(glyphs), tf.constant(labels)
    batch = recipe.batch_size

    def draw(step: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        seed = tf.stack([recipe.seed, tf.cast(step, tf.int32)])
        which_seed = tf.random.experimental.stateless_fold_in(seed, PURPOSE_WHICH)
        which = tf.random.stateless_uniform((batch,), which_seed, 0, len(labels), tf.int32)
        seen = tf.cast(step * batch, tf.float32)
        stage = tf.minimum(seen / recipe.curriculum_images, 1.0) if recipe.curriculum_images else tf.constant(1.0)
        start = math.log(recipe.curriculum_min_size)
        scenes = digits.draw_scenes(
            glyph_bank,
            which,
            tf.random.experimental.stateless_fold_in(seed, PURPOSE_SCENE),
            min_size=tf.exp(start + stage * (math.log(digits.MIN_SIZE) - start)),
            max_clutter=recipe.curriculum_clutter + stage * (1.0 - recipe.curriculum_clutter),
        )
        label = tf.gather(label_bank, which)
        wanted = {f"exit_{i + 1}": label for i in range(config.num_exits)}
        if recipe.token_loss:
            for i, grid in enumerate(config.token_grids):
                wanted[f"tokens_{i + 1}"] = token_targets(
                    scenes["box"], label, grid, config.num_classes, config.image_size
                )
        return normalise(scenes["pixels"], card), wanted

    steps = tf.data.Dataset.range(first_step, Plan.of(recipe).steps, output_type=tf.int64)
    return steps.map(draw, num_parallel_calls=1, deterministic=True).prefetch(2)
