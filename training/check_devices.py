"""Three training steps on random images on every replica: whether the devices of a run work, before it begins."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.presets import get_preset
from training import devices
from training.recipe import Recipe
from training.replicas import refuse_uneven
from training.run import make_trainer
from training.schedule import Plan

STEPS = 3
CPU_IMAGES = 2  # of a replica; on a GPU they are the recipe's, so that its memory is tried too


def check_devices(recipe: Recipe, strategy: tf.distribute.Strategy) -> str:
    """Trains a few steps -> what to print: the devices, the images of each in a step, the losses.

    Raises:
        ValueError: the batch does not divide among the replicas, or a loss is no finite number.
    """
    refuse_uneven(recipe.batch_size, strategy.num_replicas_in_sync)
    replicas = strategy.num_replicas_in_sync
    gpus = tf.config.list_logical_devices("GPU")
    batch = recipe.batch_size if gpus else CPU_IMAGES * replicas
    classes = recipe.overrides.get("num_classes", get_preset(recipe.preset).config.num_classes)
    trainer = make_trainer(recipe, tuple(f"class_{i}" for i in range(classes)), Plan(STEPS, 1, 0, 0), strategy)
    config = trainer.cascade.config

    def make_batches(part: int, parts: int) -> tf.data.Dataset:
        random = np.random.default_rng(part)
        images = random.standard_normal((batch // parts, config.image_size, config.image_size, 3)).astype(np.float32)
        outputs = trainer(images[:1], training=False)
        targets = {
            # any shares that sum to 1
            name: np.full((batch // parts, *output.shape[1:]), 1 / math.prod(output.shape[1:]), np.float32)
            for name, output in outputs.items()
        }
        return tf.data.Dataset.from_tensors((images, targets)).repeat(STEPS)

    losses: list[float] = []
    trainer.fit(
        devices.distribute(strategy, batch, make_batches),
        steps_per_epoch=STEPS,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs["loss"]))],
    )
    if not all(map(math.isfinite, losses)):
        raise ValueError(f"the losses of three steps on random images are {losses}, not all of them finite numbers")
    lines = [devices.describe_devices(strategy)]
    weight = trainer.trainable_weights[0]
    variable = weight if callable(weight.value) else weight.value  # Keras 3 wraps it
    for number, own in enumerate(strategy.experimental_local_results(variable)):
        name = own.device.rpartition("/device:")[2]  # where the replica's weights lie
        peak = tf.config.experimental.get_memory_info(name)["peak"] / 2**30 if name.startswith("GPU") else None
        memory = f", {peak:.1f} GiB at most" if peak is not None else ""
        lines.append(f"  replica {number}: {name}, {batch // replicas} images a step{memory}")
    lines.append(f"{STEPS} steps of {recipe.preset} in {recipe.precision}: loss {losses[-1]:.3f} in the mean; all work")
    return "\n".join(lines)
