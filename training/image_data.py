"""Training batches of image files: read, decoded, augmented and mixed, each a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from dvt_tf import datasets
from dvt_tf.datasets import DataSpec
from dvt_tf.preprocessing import decode_image_or_nothing
from dvt_tf.presets import CascadeConfig
from training.augment import augment_image, mix
from training.damaged import DamagedImages
from training.draws import sub_seed
from training.objective import exit_names
from training.recipe import Recipe
from training.schedule import Plan
from training.sources import open_source

_PASS, _AUGMENT, _MIX = 1, 2, 3  # what a draw is for
plain = tf.autograph.experimental.do_not_convert  # nothing to convert, which takes seconds


class ImageData:
    """The images of a folder, of shards or of TFDS, as a recipe trains on them.

    Args:
        recipe: its seed, batch, augmentation, repetition and held_out are followed.
        spec: `folder:PATH`, `shards:PATH` or `tfds:NAME`.

    Raises:
        ValueError, FileNotFoundError: as `open_source` does; a recipe that asks for what only scenes know; fewer than
            two classes; train and val with different classes; or nothing to validate on.
    """

    def __init__(self, recipe: Recipe, spec: DataSpec) -> None:
        for field in ("token_loss", "curriculum_images"):
            if getattr(recipe, field):
                raise ValueError(
                    f"recipe field {field} needs to know where in an image its object is: only digits and shapes do"
                )
        self.recipe = recipe
        self.spec = spec
        self.source = open_source(spec, recipe.held_out)
        self.classes = self.source.classes
        self.count = self.source.count
        odd = [name for name in self.classes if name != name.encode("utf-8", "replace").decode()]
        if odd:
            raise ValueError(f"{spec}: the class name {odd[0]!r} is no text in UTF-8; rename its folder")
        if len(self.classes) < 2:
            raise ValueError(f"{spec} has one class only, {self.classes[0]}; training needs at least two")
        if not recipe.held_out:
            self._check_val()
        self.damaged = DamagedImages(self.count, recipe.max_damaged)
        self.damaged_in_validation = DamagedImages(self.count, share=1.0)  # named, but no reason to stop

    def _check_val(self) -> None:
        """So that a run does not end at its first validation."""
        try:
            found = datasets.class_names(self.spec, "val")
            if next(iter(datasets.file_batches(self.spec, "val", 1)), None) is None:
                raise ValueError(f"{self.spec}: no image of its val split")
        except (FileNotFoundError, ValueError) as error:
            hint = "or let the recipe hold out images: held_out = 0.1"
            raise ValueError(f"nothing to validate on ({error}); {hint}") from error
        extra, missing = (sorted(set(a) - set(b)) for a, b in ((found, self.classes), (self.classes, found)))
        told = [
            f"only {where} has {', '.join(names[:5])}" for where, names in (("val", extra), ("train", missing)) if names
        ]
        if told:
            raise ValueError(f"{self.spec}: train and val have different classes: {'; '.join(told)}")

    def batches(
        self,
        config: CascadeConfig,
        card: Mapping[str, Any],
        plan: Plan,
        first_step: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> tf.data.Dataset:
        """See `training.data.TrainingData`; all exits learn the same targets."""
        recipe, source = self.recipe, self.source
        labels = tf.constant(datasets.label_table(self.classes, card, str(self.spec)))
        batch, times = recipe.batch_size, recipe.repeated_augmentation
        per_epoch = batch * plan.steps_per_epoch  # positions of an epoch: images, each `times` over
        passes = math.ceil(per_epoch / (self.count * times))
        first_epoch, first = divmod(first_step * batch, per_epoch)

        @plain
        def epoch_positions(epoch: tf.Tensor) -> tf.data.Dataset:
            begin = tf.where(tf.equal(epoch, first_epoch), tf.constant(first, tf.int64), 0)
            unique = begin // times

            @plain
            def one_pass(number: tf.Tensor) -> tf.data.Dataset:
                seed = tf.stack([tf.constant(recipe.seed), tf.cast(epoch * passes + number, tf.int32)])
                skip = tf.where(tf.equal(number, unique // self.count), unique % self.count, 0)
                tf.random.set_seed(1)  # this graph's: `shuffle` mixes it in, and would fail if the process's were 0
                return source.references(sub_seed(seed, _PASS), skip)

            found = tf.data.Dataset.range(unique // self.count, passes).flat_map(one_pass)
            if times > 1:
                found = found.flat_map(plain(lambda *one: tf.data.Dataset.from_tensors(one).repeat(times)))
            found = found.skip(begin % times).take(per_epoch - begin)
            return tf.data.Dataset.zip((tf.data.Dataset.range(epoch * per_epoch + begin, 2**62), found))

        @plain
        def of_this_part(position: tf.Tensor, found: Any) -> tf.Tensor:
            return tf.equal(position % batch * parts // batch, part)

        @plain
        def example(position: tf.Tensor, found: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            reference, name, number = found
            step, row = position // batch, tf.cast(position % batch, tf.int32)
            pixels, valid = decode_image_or_nothing(reference, source.read)
            seed = sub_seed(sub_seed(self._step_seed(step), _AUGMENT), row)
            image = augment_image(pixels, seed, recipe.augmentation, card)
            return image, tf.gather(labels, number), valid, name, step

        @plain
        def whole(
            images: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor, names: tf.Tensor, steps: tf.Tensor
        ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            images, labels = self._without_damaged(images, labels, valid, names)
            seed = sub_seed(self._step_seed(steps[0]), _MIX)
            images, targets = mix(images, labels, seed, recipe.augmentation, config.num_classes)
            return images, dict.fromkeys(exit_names(config.num_exits), targets)

        positions = tf.data.Dataset.range(first_epoch, plan.epochs).flat_map(epoch_positions)
        if parts > 1:
            positions = positions.filter(of_this_part)
        examples = positions.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return examples.batch(batch // parts, drop_remainder=True).map(whole).prefetch(2)

    def validation(self, card: Mapping[str, Any], batch_size: int, limit: int = 0) -> tf.data.Dataset:
        """See `training.data.TrainingData`: images held out of the training images, or the val split."""
        if self.recipe.held_out:
            classes, batches = self.classes, self.source.held_out(batch_size, limit)
        else:
            classes = datasets.class_names(self.spec, "val")
            batches = datasets.file_batches(self.spec, "val", batch_size, limit)
        labels = datasets.label_table(classes, card, str(self.spec))
        return datasets.prepare_batches(batches, labels, card, self.damaged_in_validation.add)

    def _step_seed(self, step: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self.recipe.seed), tf.cast(step, tf.int32)])

    def _without_damaged(
        self, images: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor, names: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Puts the next good image of the batch in the place of each that is damaged, and takes note of these."""

        def replaced() -> tuple[tf.Tensor, tf.Tensor]:
            good = tf.where(valid)[:, 0]
            damaged = tf.boolean_mask(names, ~valid)
            count = tf.numpy_function(self.damaged.report, [damaged, tf.size(good) == 0], tf.int32)
            with tf.control_dependencies([count]):
                good = tf.cond(tf.size(good) > 0, lambda: good, lambda: tf.zeros([1], tf.int64))
            rows = tf.range(tf.size(valid, tf.int64))
            follows = tf.searchsorted(good, rows) % tf.size(good)
            rows = tf.gather(good, follows)
            return tf.gather(images, rows), tf.gather(labels, rows)

        return tf.cond(tf.reduce_all(valid), lambda: (images, labels), replaced)
