"""Where training images come from, file by file in a new order every pass: folders, shards, TFDS.

The order of a pass is a pure function of the run's seed and the number of the pass, and any part of it can be skipped,
so a resumed run goes on with the very image that it was stopped before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from dvt_tf import datasets, folders, image_files, tfds_data
from dvt_tf.datasets import DataSpec
from dvt_tf.shards import names_in, read_shard_set, records
from training.draws import sub_seed

# Shards and TFDS are read in sequence: an image is drawn from so many undecoded ones that were read ahead.
SHUFFLE_BUFFER = 8192
PARALLEL_FILES = 8
_ORDER, _BUFFER = 11, 12  # what a draw is for


class Source(Protocol):
    """Training images and, of the same kind, those that are held out.

    classes: as the data calls them. count: training images, without those held out.
    """

    classes: tuple[str, ...]
    count: int

    def references(self, seed: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        """One pass in the order of a seed, (2,) int32, from its `skip`-th image on, int64 ().

        Returns (reference string, name string, class int32), scalars, for `read`.
        """

    def read(self, reference: tf.Tensor) -> tf.Tensor:
        """The contents of a file that the graph decodes, string (): raises, or gives "", where it cannot be read."""

    def held_out(self, batch_size: int, limit: int = 0) -> tf.data.Dataset:
        """The images held out, or `limit` of them, in a fixed order, as `datasets.file_batches` has them."""


def open_source(spec: DataSpec, held_out: float) -> Source:
    """The training images of a SPEC, but for a share of them, which is held out by a stable hash.

    Raises:
        ValueError, FileNotFoundError: as `datasets.load` does; or no image is left to hold out or to train on.
    """
    source: Source
    if spec.kind == "folder":
        source = FolderSource(Path(spec.location), held_out)
    elif spec.kind == "shards":
        source = ShardSource(spec.location, held_out)
    else:
        source = TfdsSource(spec.location, held_out)
    if source.count < 1:
        raise ValueError(f"{spec}: held_out = {held_out:g} leaves no image to train on")
    return source


def is_held_out(name: str, share: float) -> bool:
    """Whether the image of that name (CLASS/FILENAME) is among a share that is held out: the same for good."""
    digest = hashlib.sha256(b"held out " + name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


class FolderSource:
    """PATH/train/CLASS/FILE, read wherever it lies: every pass is shuffled through and through."""

    def __init__(self, root: Path, held_out: float) -> None:
        paths, names = folders.folder_files(root, "train")
        self.classes = datasets.class_names(DataSpec("folder", str(root)), "train")
        number = {name: index for index, name in enumerate(self.classes)}
        kept: list[tuple[Path, int]] = []
        self._held_out: list[tuple[Path, int]] = []
        for path, name in zip(paths, names, strict=True):
            aside = held_out > 0 and is_held_out(f"{name}/{path.name}", held_out)
            (self._held_out if aside else kept).append((path, number[name]))
        bare = sorted(set(self.classes) - {self.classes[index] for _, index in kept})
        if bare:
            raise ValueError(f"{root / 'train'}: no image to train on of class {', '.join(bare[:5])}")
        _refuse_no_held_out(self._held_out, held_out, f"folder:{root}")
        self.count = len(kept)
        self._paths = tf.constant([os.fsencode(path) for path, _ in kept])
        self._classes = tf.constant([index for _, index in kept], tf.int32)

    def references(self, seed: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        @tf.autograph.experimental.do_not_convert
        def pick(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            last = tf.constant(self.count - 1, tf.int64)
            index = tf.random.experimental.index_shuffle(position, sub_seed(seed, _ORDER), last)
            path = tf.gather(self._paths, index)
            return path, path, tf.gather(self._classes, index)

        return tf.data.Dataset.range(skip, self.count).map(pick)

    def read(self, reference: tf.Tensor) -> tf.Tensor:
        contents = tf.io.read_file(reference)
        begins = [
            tf.strings.substr(contents, 0, len(magic)) == tf.constant(magic) for magic in image_files.GRAPH_FORMATS
        ]

        def by_pillow() -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(folders.read_files, [reference[None]], tf.string), [1])[0]

        return tf.cond(tf.reduce_any(begins), lambda: contents, by_pillow)

    def held_out(self, batch_size: int, limit: int = 0) -> tf.data.Dataset:
        paths, classes = zip(*self._held_out, strict=True)
        return datasets.path_batches(paths, classes, batch_size, limit)


class _Sequence:
    """What is read one after another: shuffled within what was read ahead."""

    def _shuffled(self, examples: tf.data.Dataset, seed: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        draw = tf.random.stateless_uniform((), sub_seed(seed, _BUFFER), 1, 2**31 - 1, tf.int32, alg="philox")
        shuffled = examples.shuffle(SHUFFLE_BUFFER, seed=tf.cast(draw, tf.int64), reshuffle_each_iteration=False)
        return shuffled.skip(skip)

    def read(self, reference: tf.Tensor) -> tf.Tensor:
        return reference  # it is the contents already


class ShardSource(_Sequence):
    """TFRecord files that `python -m training.shard` wrote: files in a new order every pass, several at a time."""

    def __init__(self, root: str, held_out: float) -> None:
        shard_set = read_shard_set(root)
        if "train" not in shard_set.splits:
            raise ValueError(f"shards:{root} has no split 'train'; it has {', '.join(shard_set.splits)}")
        shards = shard_set.splits["train"]
        self.classes = shard_set.class_names
        self._share = held_out
        aside = sum(is_held_out(name, held_out) for shard in shards for name in names_in(shard)) if held_out else 0
        _refuse_no_held_out(range(aside), held_out, f"shards:{root}")
        self.count = sum(shard.examples for shard in shards) - aside
        self._paths = tf.constant([os.fsencode(shard.path) for shard in shards])

    def references(self, seed: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        files = self._paths.shape[0]
        order = tf.random.experimental.index_shuffle(tf.range(files), sub_seed(seed, _ORDER), files - 1)
        examples = records(tf.gather(self._paths, order), parallel=min(PARALLEL_FILES, files))
        examples = examples.map(lambda contents, label, name: (contents, name, label))
        return self._shuffled(self._part(examples, held_out=False), seed, skip)

    def held_out(self, batch_size: int, limit: int = 0) -> tf.data.Dataset:
        examples = records(self._paths).map(lambda contents, label, name: (contents, name, label))
        return datasets.at_most(self._part(examples, held_out=True), limit).batch(batch_size)

    def _part(self, examples: tf.data.Dataset, held_out: bool) -> tf.data.Dataset:
        if not self._share:
            return examples

        @tf.autograph.experimental.do_not_convert
        def wanted(contents: tf.Tensor, name: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            found = tf.numpy_function(
                lambda name: is_held_out(os.fsdecode(name), self._share) == held_out, [name], tf.bool
            )
            return tf.ensure_shape(found, [])

        return examples.filter(wanted)


class TfdsSource(_Sequence):
    """The train split of a TFDS data set; its end is held out, as its examples were shuffled when they were written."""

    def __init__(self, name: str, held_out: float) -> None:
        builder = tfds_data.prepared_builder(name)
        if "train" not in builder.info.splits:
            raise ValueError(f"tfds:{name} has no train split; its splits are {', '.join(builder.info.splits)}")
        self.classes = datasets.class_names(DataSpec("tfds", name))
        every = int(builder.info.splits["train"].num_examples)
        self.count = every - round(held_out * every)
        _refuse_no_held_out(range(every - self.count), held_out, f"tfds:{name}")
        self._examples = tfds_data.examples_of(builder, name, f"train[:{self.count}]")
        self._rest = tfds_data.examples_of(builder, name, f"train[{self.count}:]") if held_out else None

    def references(self, seed: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        return self._shuffled(self._examples, seed, skip)

    def held_out(self, batch_size: int, limit: int = 0) -> tf.data.Dataset:
        assert self._rest is not None, "nothing was held out"
        return datasets.at_most(self._rest, limit).batch(batch_size)


def _refuse_no_held_out(aside: Sequence[Any], share: float, where: str) -> None:
    if share and not len(aside):
        raise ValueError(f"{where}: held_out = {share:g} of the training images is not one image")
