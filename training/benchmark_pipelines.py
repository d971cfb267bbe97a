"""What `training.benchmark` times: the training input pipeline, each time cut off after another part.

The code is that of `training.image_data`. Files are read again and again, so reading is from memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf.cascade import find_preset, preset_card
from dvt_tf.checkpoints import read_card
from dvt_tf.preprocessing import PreprocessingSettings, decode_image_or_nothing, preprocess
from dvt_tf.presets import CascadeConfig
from training.augment import Augmentation, augment_image, mix
from training.draws import sub_seed
from training.recipe import Recipe
from training.sources import FolderSource

PHOTO_WIDTH, PHOTO_HEIGHT, QUALITY = 500, 375, 90  # the size that is usual in ImageNet
CROPS_OF_A_PHOTO = 8
CROP_NAMES = {"random_resized": "random resized crop", "pad": "random crop in a frame", "none": "crop of evaluation"}
_ORDER, _AUGMENT, _MIX = range(3)  # what a draw is for
plain = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class Row:
    """A pipeline to time.

    Args:
        part: what it adds to the row above, or what it is.
        dataset: batches, without end.
        adds: whether it is the row above and something more.
        all_cores: whether it may use them all, not one.
    """

    part: str
    dataset: tf.data.Dataset
    adds: bool = True
    all_cores: bool = False


class Pipelines:
    """The pipelines over the same files, each cut off after another part.

    Args:
        source, paths: where files are read, and which.
        recipe: its seed and augmentation are followed.
        config, card: of the model that would be trained.
        batch: images in a batch.
    """

    def __init__(
        self,
        source: FolderSource,
        paths: Sequence[bytes],
        recipe: Recipe,
        config: CascadeConfig,
        card: dict[str, Any],
        batch: int,
    ) -> None:
        self.source = source
        self.recipe = recipe
        self.config = config
        self.card = card
        self.batch = batch
        self.files = tf.data.Dataset.from_tensor_slices(list(paths)).repeat().enumerate()

    def rows(self) -> list[Row]:
        """All there is to time, in the order of the table."""
        rows = [Row("read", self._one_core(self._read())), Row("+ decode", self._one_core(self._decoded()))]
        for part, augmentation in augmentation_parts(self.recipe.augmentation):
            rows.append(Row(f"+ {part}", self._one_core(self._augmented(augmentation))))
        mixed = " / ".join(name for name in ("mixup", "CutMix") if getattr(self.recipe.augmentation, name.lower()))
        rows.append(Row(f"+ {mixed or 'targets'}", self._one_core(self._mixed())))
        rows.append(Row("evaluation: read, preprocess", self._one_core(self._evaluated()), adds=False))
        everything = self._mixed(tf.data.AUTOTUNE).prefetch(2)
        rows.append(Row("training, all of it", everything, adds=False, all_cores=True))
        return rows

    def _one_core(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        # These would make parallel what is written one after another.
        options.experimental_optimization.apply_default_optimizations = False
        options.autotune.enabled = False
        return dataset.with_options(options)

    def _read(self) -> tf.data.Dataset:
        return self.files.map(plain(lambda position, path: self.source.read(path))).batch(self.batch)

    def _decoded(self) -> tf.data.Dataset:
        @plain
        def decoded(position: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels, valid = decode_image_or_nothing(path, self.source.read)
            return tf.shape(pixels), valid  # pictures of different sizes make no batch

        return self.files.map(decoded).batch(self.batch)

    def _augmented(self, augmentation: Augmentation, parallel: int | None = None) -> tf.data.Dataset:
        @plain
        def example(position: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, ...]:
            step, row = position // self.batch, tf.cast(position % self.batch, tf.int32)
            pixels, valid = decode_image_or_nothing(path, self.source.read)
            image = augment_image(pixels, sub_seed(self._step_seed(step, _AUGMENT), row), augmentation, self.card)
            return image, tf.cast(position % self.config.num_classes, tf.int32), valid, step

        in_order = True if parallel else None
        return self.files.map(example, num_parallel_calls=parallel, deterministic=in_order).batch(self.batch)

    def _mixed(self, parallel: int | None = None) -> tf.data.Dataset:
        augmentation = self.recipe.augmentation

        @plain
        def whole(images: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return mix(images, labels, self._step_seed(steps[0], _MIX), augmentation, self.config.num_classes)

        return self._augmented(augmentation, parallel).map(whole)

    def _evaluated(self) -> tf.data.Dataset:
        return self._read().map(plain(lambda contents: preprocess(contents, self.card)))

    def _step_seed(self, step: tf.Tensor, purpose: int) -> tf.Tensor:
        return sub_seed(tf.stack([tf.constant(self.recipe.seed), tf.cast(step, tf.int32)]), purpose)


def augmentation_parts(augmentation: Augmentation) -> list[tuple[str, Augmentation]]:
    """What `augment_image` does by a recipe, part by part: each part's name and the recipe's settings up to it."""
    off = dataclasses.replace(augmentation, flip=False, randaugment="", erase=0.0)
    # Whatever else is done, augment_image normalises: so it counts from the first part on.
    parts = [(f"{CROP_NAMES[augmentation.crop]}, normalise", off)]
    for name, field in (("flip", "flip"), ("RandAugment", "randaugment"), ("erase", "erase")):
        if getattr(augmentation, field):
            parts.append((name, dataclasses.replace(parts[-1][1], **{field: getattr(augmentation, field)})))
    return parts


def model_of(recipe: Recipe) -> tuple[CascadeConfig, dict[str, Any]]:
    """The configuration and the card of the model that a recipe trains, without making the model.

    Raises:
        ValueError, OSError: no such preset, or overrides that make no model.
    """
    folder, preset = find_preset(recipe.preset)
    card = read_card(folder) if preset is None else preset_card(recipe.preset, preset)
    config = CascadeConfig.from_dict({**card["config"], **recipe.overrides})
    entry = card["preprocessing"]
    resized = round(entry["resize_short_side"] * config.image_size / entry["image_size"])
    entry = {**entry, "image_size": config.image_size, "resize_short_side": resized, **recipe.preprocessing}
    card = {**card, "config": config.to_dict(), "preprocessing": entry}
    PreprocessingSettings.from_card(card)  # raises
    return config, card


def make_photos(root: Path) -> None:
    """A folder of JPEGs of the size that is usual in ImageNet: parts of the two photos that scikit-learn has."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    draws = np.random.default_rng(0)
    photos = load_sample_images()
    for name, pixels in zip(photos.filenames, photos.images, strict=True):
        folder = root / "train" / Path(name).stem
        folder.mkdir(parents=True)
        photo = Image.fromarray(pixels)
        for number in range(CROPS_OF_A_PHOTO):
            height = int(draws.integers(PHOTO_HEIGHT, photo.height + 1))
            width = min(height * PHOTO_WIDTH // PHOTO_HEIGHT, photo.width)
            top, left = (int(draws.integers(0, room + 1)) for room in (photo.height - height, photo.width - width))
            part = photo.crop((left, top, left + width, top + height))
            part = part.resize((PHOTO_WIDTH, PHOTO_HEIGHT), Image.Resampling.BICUBIC)
            part.save(folder / f"{number}.jpg", quality=QUALITY)


def choose_files(source: FolderSource, count: int, seed: int) -> list[bytes]:
    """Files of a folder, at most so many, drawn as training draws them.

    Raises:
        ValueError: one of them is no image that can be read, which would take less time than an image.
    """
    references = source.references(sub_seed(tf.constant([seed, 0]), _ORDER), tf.constant(0, tf.int64))
    paths = [path for path, _, _ in references.take(count).as_numpy_iterator()]
    decode = plain(lambda path: decode_image_or_nothing(path, source.read)[1])
    for path, valid in zip(paths, tf.data.Dataset.from_tensor_slices(paths).map(decode), strict=True):
        if not valid:
            raise ValueError(f"{os.fsdecode(path)}: is no image that can be read")
    return paths
