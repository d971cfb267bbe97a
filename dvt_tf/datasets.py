"""`SPEC[@SPLIT]` to batches of (images, labels), in a fixed order, each once: embedded data, folders, shards, TFDS.

The splits are train, val, calibration and test. Where a folder (or the shards made of it) has no calibration or test
folder of its own, they come out of val by a stable hash of CLASS/FILENAME: 40 % calibration, 40 % test, 20 % val. Of a
TFDS data set the same is done with its `validation` split (`test` where it has none), by its example ids, as TFDS's
`test` often has no labels.

A damaged image is an error that names it, raised when its batch is read: a figure is never computed over images that
were left out unless whoever asks for it takes note of them, and no image is ever shown to a model as something else.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf import folders, preprocessing, tfds_data
from dvt_tf.digits import DIGITS
from dvt_tf.scenes import SCENES, EmbeddedData
from dvt_tf.shapes import SHAPES
from dvt_tf.shards import read_shard_set, records

OnDamaged = Callable[[list[str]], None]
SPLITS = ("train", "val", "calibration", "test")
EMBEDDED: dict[str, EmbeddedData] = {"digits": DIGITS, "shapes": SHAPES}
KINDS = f"{', '.join(EMBEDDED)}, folder:PATH, shards:PATH, tfds:NAME or images:PATH"
_OF_A_PATH = ("folder", "shards", "images")
_C_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_DAMAGED = "damaged or unreadable image in the data:"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """A parsed SPEC: its kind, path or name after the colon ("" for embedded data), and its split if one was given."""

    kind: str
    location: str = ""
    split: str | None = None

    def __str__(self) -> str:
        where = f":{self.location}" if self.location else ""
        return f"{self.kind}{where}" + (f"@{self.split}" if self.split else "")


def parse_spec(text: str | DataSpec) -> DataSpec:
    """Parse `digits`, `shapes`, `folder:PATH`, `shards:PATH` or `tfds:NAME`, each with `@SPLIT` or without.

    An `@` belongs to the path where the folder of that whole name exists. A path loses what says nothing, such as a
    slash at its end, so that one folder is written in one way.

    Raises:
        ValueError: an unknown kind or split, or nothing after the colon; the message lists what there is.
    """
    if isinstance(text, DataSpec):
        return text
    for kind in _OF_A_PATH:
        path = text.removeprefix(f"{kind}:")
        if path not in ("", text) and Path(path).is_dir():
            return DataSpec(kind, str(Path(path)))
    body, at, split = text.rpartition("@")
    if not at:
        body, split = text, ""
    kind, colon, location = body.partition(":")
    if kind not in (*EMBEDDED, "folder", "shards", "tfds", "images") or (kind in EMBEDDED and colon):
        raise ValueError(f"unknown data {text!r}; it can be {KINDS}, each with @SPLIT or without")
    if kind not in EMBEDDED and not location:
        raise ValueError(f"data {text!r} names nothing after {kind}:; it can be {KINDS}")
    if at:
        _check_split(split, text)
    return DataSpec(kind, str(Path(location)) if kind in _OF_A_PATH else location, split or None)


def load(
    spec: str | DataSpec,
    split: str | None,
    card: Mapping[str, Any],
    batch_size: int,
    on_damaged: OnDamaged | None = None,
    limit: int = 0,
) -> tf.data.Dataset:
    """The examples of one split, ready for a model.

    Args:
        spec: what to read.
        split: train, val, calibration or test; None for the one that the spec names. `train` of embedded
            data is a fixed sample of its scenes.
        card: the model's card; its preprocessing is applied, and its class names give the labels.
        batch_size: at least 1; the last batch holds what is left.
        on_damaged: called with the names of damaged images, which are then left out; without it they are an error.
        limit: at most so many of them, of a folder from all over it; 0 for all.

    Returns:
        Batches of images float32 (B, S, S, 3), normalised, and labels int32 (B,), indices into the card's class names.
        Reading a damaged image raises tf.errors.InvalidArgumentError, whose plain words `damaged_data_message` gives;
        reading a damaged shard DataLossError.

    Raises:
        ValueError: a bad spec, split or batch size, no images, or classes that are not the card's.
        FileNotFoundError: the folder, or the split's folder in it, does not exist.
    """
    spec = parse_spec(spec)
    split = split or spec.split
    if split is None:
        raise ValueError(f"data {spec} names no split; add @SPLIT, one of {', '.join(SPLITS)}")
    _check_split(split, str(spec))
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it must be at least 1")
    if spec.kind in EMBEDDED:
        return _load_scenes(spec.kind, split, card, batch_size, limit)
    if spec.kind == "images":
        paths = folders.unlabelled_files(spec.location, split)
        batches = path_batches(paths, [0] * len(paths), batch_size, limit)
        return prepare_batches(batches, np.array([-1], np.int32), card, on_damaged)
    batches = file_batches(spec, split, batch_size, limit)
    return prepare_batches(batches, label_table(class_names(spec, split), card, str(spec)), card, on_damaged)


def file_batches(spec: str | DataSpec, split: str, batch_size: int, limit: int = 0) -> tf.data.Dataset:
    """The image files of one split of a folder, of shards or of TFDS, undecoded, in a fixed order.

    Returns:
        Batches of contents string (B,), names string (B,) and classes int32 (B,), indices into `class_names`. Contents
        are as the graph decodes them, "" for a file that cannot be read.
    """
    spec = parse_spec(spec)
    if spec.kind == "folder":
        paths, names = folders.folder_files(spec.location, split)
        number = {name: index for index, name in enumerate(class_names(spec, split))}
        return path_batches(paths, [number[name] for name in names], batch_size, limit)
    examples = _shard_examples if spec.kind == "shards" else _tfds_examples
    return at_most(examples(spec.location, split), limit).batch(batch_size)


def at_most(examples: tf.data.Dataset, limit: int) -> tf.data.Dataset:
    """The first `limit` examples; all of them for 0."""
    return examples.take(limit) if limit else examples


def path_batches(paths: Sequence[Path], classes: Sequence[int], batch_size: int, limit: int = 0) -> tf.data.Dataset:
    """Batches as of `file_batches` of files that are named, in any format that Pillow reads."""
    # They come class by class: some of them are taken from everywhere.
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(limit or len(paths), len(paths))).astype(int))
    names = [os.fsencode(paths[index]) for index in chosen]
    files = tf.data.Dataset.from_tensor_slices((names, np.asarray(classes, np.int32)[chosen]))

    @tf.autograph.experimental.do_not_convert
    def read(batch: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        contents = tf.numpy_function(folders.read_files, [batch], tf.string)
        return tf.ensure_shape(contents, [None]), batch, classes

    return files.batch(batch_size).map(read, num_parallel_calls=2)


def prepare_batches(
    batches: tf.data.Dataset, labels: np.ndarray, card: Mapping[str, Any], on_damaged: OnDamaged | None = None
) -> tf.data.Dataset:
    """Batches of `file_batches` -> batches for a model, as `load` describes them; `labels` is of `label_table`."""
    table = tf.constant(labels, tf.int32)

    def report(names: np.ndarray) -> np.int32:
        assert on_damaged is not None
        on_damaged([os.fsdecode(name) for name in names])
        return np.int32(len(names))

    @tf.autograph.experimental.do_not_convert
    def prepare(contents: tf.Tensor, names: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, valid = preprocessing.preprocess(contents, card)
        labels = tf.gather(table, classes)
        if on_damaged is None:
            damaged = tf.strings.reduce_join(tf.boolean_mask(names, ~valid)[:3], separator=", ")
            # \x1f, which TensorFlow escapes as \037, ends the message that it wraps in words of its own.
            message = tf.strings.join([_DAMAGED, " ", damaged, "\x1f"])
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [message])]):
                return tf.identity(images), labels
        count = tf.cond(
            tf.reduce_all(valid),
            lambda: tf.constant(0),
            lambda: tf.ensure_shape(tf.numpy_function(report, [tf.boolean_mask(names, ~valid)], tf.int32), []),
        )
        with tf.control_dependencies([count]):
            return tf.boolean_mask(images, valid), tf.boolean_mask(labels, valid)

    prepared = batches.map(prepare, num_parallel_calls=2)
    if on_damaged is not None:
        prepared = prepared.filter(lambda images, labels: tf.size(labels) > 0)
    return prepared.prefetch(1)


def is_labelled(spec: str | DataSpec) -> bool:
    """Whether the examples have labels; of those that have none, `load` gives the label -1."""
    return parse_spec(spec).kind != "images"


def without_split(spec: str | DataSpec) -> str:
    """The data as a person writes it, whatever split was named."""
    return str(dataclasses.replace(parse_spec(spec), split=None))


def sources(spec: str | DataSpec, split: str) -> np.ndarray | None:
    """(N,) int32, what each example of a split was made of, where several are of one: the handwriting of digit scenes.

    None where every example stands for itself.
    """
    kind = parse_spec(spec).kind
    return EMBEDDED[kind].sources(split) if kind in EMBEDDED else None


def embedded_for(card: Mapping[str, Any]) -> list[str]:
    """The embedded data sets that have a card's classes."""
    return [name for name, data in EMBEDDED.items() if set(data.class_names) == set(card["class_names"])]


def class_names(spec: str | DataSpec, split: str | None = None) -> tuple[str, ...]:
    """The class names of a data set, sorted for folders and in its own order for the others; raises as `load` does.

    Of a folder it is those of one split, by default the one that the spec names or else val.
    """
    spec = parse_spec(spec)
    if spec.kind in EMBEDDED:
        return EMBEDDED[spec.kind].class_names
    if spec.kind == "folder":
        root = Path(spec.location)
        return tuple(
            folder.name
            for folder in folders.class_folders(root / folders.source_split(root, split or spec.split or "val"))
        )
    if spec.kind == "shards":
        return read_shard_set(spec.location).class_names
    if spec.kind == "images":
        raise ValueError(f"{spec} has no labels, and so no classes; it can be calibrated on, and no more")
    builder = tfds_data.builder_of(spec.location)
    return tuple(builder.info.features[tfds_data.keys_of(builder, spec.location)[1]].names)


def damaged_data_message(error: Exception) -> str | None:
    """The plain words for what reading a damaged image, or a damaged file of many, raises; None for any other error."""
    if isinstance(error, (tf.errors.DataLossError, tf.errors.NotFoundError)):
        graph = r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*"  # where in it TensorFlow was
        told = " ".join(re.sub(graph, "", error.message, flags=re.DOTALL).split())
        return f"a file of the data is damaged or gone ({told}); of shards, python -m training.shard --check says which"
    found = re.search(re.escape(_DAMAGED) + r" (.*?)\\037", str(error))
    if found is None:
        return None
    # TensorFlow puts the bytes of the names in C's escapes, its older releases also those that are letters.
    names = re.sub(
        rb"\\([0-7]{3}|.)",
        lambda escape: bytes([int(escape[1], 8)]) if len(escape[1]) == 3 else _C_ESCAPES.get(escape[1], escape[1]),
        os.fsencode(found.group(1)),
    )
    return f"{_DAMAGED} {os.fsdecode(names)}"


def _check_split(split: str, spec: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {spec}; the splits are {', '.join(SPLITS)}")


def label_table(found: Sequence[str], card: Mapping[str, Any], where: str) -> np.ndarray:
    """The label, int32, of each class of a data set: the card has the say, and the data must have its names or its ids.

    Args:
        found: the data's class names. where: what an error message calls the data.

    Raises:
        ValueError: the data lacks a class of the card's, or has another.
    """
    wanted = list(card["class_names"])
    ids = list(card.get("class_ids") or ())
    if len(set(ids) & set(found)) > len(set(wanted) & set(found)):
        wanted = ids
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    if missing or extra:
        faults = [f"{len(extra)} that the model has not ({_first(extra)})"] if extra else []
        faults += [f"lacks {len(missing)} of the model's ({_first(missing)})"] if missing else []
        raise ValueError(f"{where} has {len(found)} classes, the model {len(wanted)}: it has {' and '.join(faults)}")
    return np.array([wanted.index(name) for name in found], np.int32)


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _load_scenes(kind: str, split: str, card: Mapping[str, Any], batch_size: int, limit: int) -> tf.data.Dataset:
    data = EMBEDDED[kind]
    table = label_table(data.class_names, card, kind)
    scenes = data.split_scenes(split, min(limit or SCENES[split], SCENES[split]))
    examples = tf.data.Dataset.from_tensor_slices((scenes.images, table[scenes.labels]))

    def prepare(pixels: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return preprocessing.normalise(preprocessing.crop_pixels(pixels, card), card), label

    return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(1)


def _shard_examples(root: str, split: str) -> tf.data.Dataset:
    """(contents, name, class) of one split of shards; calibration and test come out of val as those of a folder."""
    shards = read_shard_set(root).splits
    source = split if split in shards or split not in ("calibration", "test") else "val"
    if source not in shards:
        raise ValueError(f"shards:{root} has no split {split!r}; it has {', '.join(shards)}")
    examples = records([str(shard.path) for shard in shards[source]])
    if source == "val":
        derived = [name for name in ("calibration", "test") if name not in shards]
        examples = examples.filter(lambda contents, label, name: _is_of_split(name, split, derived))
    return examples.map(lambda contents, label, name: (contents, name, label))


def _tfds_examples(name: str, split: str) -> tf.data.Dataset:
    """(contents, name, class) of one split of a TFDS data set; the last three come out of its validation split."""
    builder = tfds_data.prepared_builder(name)
    held_out = next((part for part in ("validation", "test") if part in builder.info.splits), None)
    source = "train" if split == "train" else held_out
    if source is None or source not in builder.info.splits:
        raise ValueError(f"tfds:{name} has no labelled {split} data; its splits are {', '.join(builder.info.splits)}")
    examples = tfds_data.examples_of(builder, name, source)
    if split == "train":
        return examples
    return examples.filter(lambda contents, name, label: _is_of_split(name, split, ("calibration", "test")))


def _is_of_split(name: tf.Tensor, split: str, derived: Sequence[str]) -> tf.Tensor:
    """Whether the example of that name belongs to a split that comes out of val: bool ()."""
    found = tf.numpy_function(lambda name: folders.hashed_split(os.fsdecode(name), derived) == split, [name], tf.bool)
    return tf.ensure_shape(found, [])
