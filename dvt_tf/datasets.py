"""`SPEC[@SPLIT]` to batches of (images, labels), in a fixed order and every example once: digits, folders, TFDS.

The splits are train, val, calibration and test. Where a folder has no calibration or test folder of its own, they come
out of val by a stable hash of CLASS/FILENAME: 40 % calibration, 40 % test, 20 % val. Of a TFDS data set the same is
done with its `validation` split (`test` where it has none), by its example ids, as TFDS's `test` often has no labels.

A damaged image in a folder is an error that names it, raised when its batch is read: a figure is never computed over
images that were left out, and no image is ever shown to a model as something else.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf import digits, image_files, preprocessing

SPLITS = ("train", "val", "calibration", "test")
KINDS = "digits, folder:PATH or tfds:NAME"
_CALIBRATION_SHARE, _TEST_SHARE = 0.4, 0.4
_C_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_DAMAGED = "damaged or unreadable image in the data:"


@dataclass(frozen=True)
class DataSpec:
    """A parsed SPEC: its kind, the path or name after the colon ("" for digits), and its split if one was given."""

    kind: str
    location: str = ""
    split: str | None = None

    def __str__(self) -> str:
        where = f":{self.location}" if self.location else ""
        return f"{self.kind}{where}" + (f"@{self.split}" if self.split else "")


def parse_spec(text: str | DataSpec) -> DataSpec:
    """Parse `digits`, `folder:PATH` or `tfds:NAME`, each with `@SPLIT` or without.

    An `@` belongs to the path where the folder of that whole name exists.

    Raises:
        ValueError: an unknown kind or split, or nothing after the colon; the message lists what there is.
    """
    if isinstance(text, DataSpec):
        return text
    if text.startswith("folder:") and Path(text.removeprefix("folder:")).is_dir() and text != "folder:":
        return DataSpec("folder", text.removeprefix("folder:"))
    body, at, split = text.rpartition("@")
    if not at:
        body, split = text, ""
    kind, colon, location = body.partition(":")
    if kind not in ("digits", "folder", "tfds") or (kind == "digits" and colon):
        raise ValueError(f"unknown data {text!r}; it can be {KINDS}, each with @SPLIT or without")
    if kind != "digits" and not location:
        raise ValueError(f"data {text!r} names nothing after {kind}:; it can be {KINDS}")
    if at:
        _check_split(split, text)
    return DataSpec(kind, location, split or None)


def load(spec: str | DataSpec, split: str | None, card: Mapping[str, Any], batch_size: int) -> tf.data.Dataset:
    """The examples of one split, ready for a model.

    Args:
        spec: what to read.
        split: train, val, calibration or test; None for the one that the spec names. `train` of digits is a fixed
            sample of its scenes.
        card: the model's card; its preprocessing is applied, and its class names give the labels.
        batch_size: at least 1; the last batch holds what is left.

    Returns:
        Batches of images float32 (B, S, S, 3), normalised, and labels int32 (B,), indices into the card's class names.
        Reading a damaged image raises tf.errors.InvalidArgumentError, whose plain words `damaged_image_message` gives.

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
    if spec.kind == "digits":
        return _load_digits(split, card, batch_size)
    if spec.kind == "folder":
        return _load_folder(spec.location, split, card, batch_size)
    return _load_tfds(spec.location, split, card, batch_size)


def class_names(spec: str | DataSpec, split: str | None = None) -> tuple[str, ...]:
    """The class names of a data set, sorted for folders and in its own order for the others; raises as `load` does.

    Of a folder it is those of one split, by default the one that the spec names or else val.
    """
    spec = parse_spec(spec)
    if spec.kind == "digits":
        return digits.CLASS_NAMES
    if spec.kind == "folder":
        root = Path(spec.location)
        return tuple(folder.name for folder in _class_folders(root / _source_split(root, split or spec.split or "val")))
    return tuple(_tfds_label(_tfds_builder(spec.location), spec.location)[1].names)


def folder_files(root: str | Path, split: str) -> tuple[list[Path], list[str]]:
    """The image files of one split of a folder and the class name of each, sorted by class and name.

    Raises:
        FileNotFoundError: the folder, or the split's folder in it, does not exist.
        ValueError: no class folder or no image is in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    source = _source_split(root, split)
    derived = [name for name in ("calibration", "test") if not (root / name).is_dir()]
    paths, names = [], []
    for folder in _class_folders(root / source):
        for path in sorted(folder.iterdir()):
            if not (image_files.is_image_name(path) and path.is_file()):
                continue
            if source == "val" and hashed_split(f"{folder.name}/{path.name}", derived) != split:
                continue
            paths.append(path)
            names.append(folder.name)
    if not paths:
        share = f" (as its share of {root / 'val'})" if source != split else ""
        raise ValueError(f"{root}: no image found for split {split!r}{share}")
    return paths, names


def hashed_split(name: str, derived: Sequence[str] = ("calibration", "test")) -> str:
    """Which split a file of val belongs to, the same for good: calibration 40 %, test 40 %, val the rest.

    Args:
        name: what identifies the file: CLASS/FILENAME.
        derived: the splits to be taken out of val; one that is not among them leaves its share in val.
    """
    share = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    if share < _CALIBRATION_SHARE:
        wanted = "calibration"
    else:
        wanted = "test" if share < _CALIBRATION_SHARE + _TEST_SHARE else "val"
    return wanted if wanted in derived else "val"


def damaged_image_message(error: Exception) -> str | None:
    """The plain words in the error that reading a damaged image of a data set raises; None for any other error."""
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


def _check_classes(found: Sequence[str], card: Mapping[str, Any], where: str) -> dict[str, int]:
    """What the data calls a class -> label; the card has the say, and the data must have the same names, or its ids."""
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
    return {name: index for index, name in enumerate(wanted)}


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _load_digits(split: str, card: Mapping[str, Any], batch_size: int) -> tf.data.Dataset:
    label_of = _check_classes(digits.CLASS_NAMES, card, "digits")
    label_of_digit = np.array([label_of[name] for name in digits.CLASS_NAMES], np.int32)
    scenes = digits.digit_scenes(split)
    examples = tf.data.Dataset.from_tensor_slices((scenes.images, label_of_digit[scenes.labels]))

    def prepare(pixels: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return preprocessing.normalise(preprocessing.crop_pixels(pixels, card), card), label

    return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(1)


def _load_folder(root: str, split: str, card: Mapping[str, Any], batch_size: int) -> tf.data.Dataset:
    paths, names = folder_files(root, split)
    label_of = _check_classes(class_names(DataSpec("folder", root, split)), card, root)
    labels = np.array([label_of[name] for name in names], np.int32)
    files = tf.data.Dataset.from_tensor_slices(([os.fsencode(path) for path in paths], labels))

    def prepare(batch: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        contents = tf.ensure_shape(tf.numpy_function(_read_files, [batch], tf.string), [None])
        return _prepare_files(contents, batch, labels, card)

    return files.batch(batch_size).map(prepare, num_parallel_calls=2).prefetch(1)


def _load_tfds(name: str, split: str, card: Mapping[str, Any], batch_size: int) -> tf.data.Dataset:
    builder = _tfds_builder(name)
    image_key, label_feature = _tfds_label(builder, name)
    label_key = builder.info.supervised_keys[1]
    label_of = _check_classes(label_feature.names, card, f"tfds:{name}")
    label_table = tf.constant([label_of[class_name] for class_name in label_feature.names], tf.int32)
    import tensorflow_datasets as tfds

    builder.download_and_prepare()
    held_out = next((part for part in ("validation", "test") if part in builder.info.splits), None)
    source = "train" if split == "train" else held_out
    if source is None or source not in builder.info.splits:
        raise ValueError(f"tfds:{name} has no labelled {split} data; its splits are {', '.join(builder.info.splits)}")
    # Undecoded, so that its images take the same path as every other file; with ids, which place each in its split.
    examples = builder.as_dataset(
        split=source,
        shuffle_files=False,
        decoders={image_key: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1),
    )
    if split != "train":

        def is_of_split(identity: bytes) -> bool:
            return hashed_split(identity.decode()) == split

        examples = examples.filter(
            lambda example: tf.ensure_shape(tf.numpy_function(is_of_split, [example["tfds_id"]], tf.bool), [])
        )

    def prepare(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        labels = tf.gather(label_table, example[label_key])
        return _prepare_files(example[image_key], example["tfds_id"], labels, card)

    return examples.batch(batch_size).map(prepare, num_parallel_calls=2).prefetch(1)


def _prepare_files(
    contents: tf.Tensor, names: tf.Tensor, labels: tf.Tensor, card: Mapping[str, Any]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Strings (B,) to model input; an invalid one raises with the names of the first few."""
    images, valid = preprocessing.preprocess(contents, card)
    damaged = tf.strings.reduce_join(tf.boolean_mask(names, ~valid)[:3], separator=", ")
    # \x1f, which TensorFlow escapes as \037, ends the message that it wraps in words of its own.
    message = tf.strings.join([_DAMAGED, " ", damaged, "\x1f"])
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [message])]):
        return tf.identity(images), labels


def _read_files(paths: np.ndarray) -> np.ndarray:
    """Paths (B,) -> contents (B,) that the graph decodes, "" for what cannot be read."""

    def read(path: bytes) -> bytes:
        try:
            data = Path(os.fsdecode(path)).read_bytes()
            # What is damaged inside a format of the graph's own shows when it is decoded.
            return data if data.startswith(image_files.GRAPH_FORMATS) else image_files.to_graph_bytes(data)
        except (OSError, image_files.ImageError):
            return b""

    return np.array([read(path) for path in paths], dtype=object)


def _source_split(root: Path, split: str) -> str:
    """The folder that a split is read from: its own, or val."""
    if split not in ("calibration", "test") or (root / split).is_dir():
        return split
    return "val"


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; images are looked for in {folder}/CLASS/")
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"{folder}: no class folder in it; images are looked for in {folder}/CLASS/")
    return found


def _tfds_builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(name)
        except tfds.core.DatasetNotFoundError:
            raise ValueError(f"tfds:{name}: TensorFlow Datasets has no data set of that name") from None
    except ImportError as error:  # it imports some of what it needs only when it comes to need it
        package = (error.name or "tensorflow_datasets").split(".")[0]
        raise ValueError(f"tfds:{name} needs {package}: pip install tensorflow-datasets importlib_resources") from None


def _tfds_label(builder: Any, name: str) -> tuple[str, Any]:
    """The key of a data set's image and the feature of its label."""
    keys = builder.info.supervised_keys
    features = builder.info.features
    if not keys or not set(keys) <= set(features) or not hasattr(features[keys[1]], "names"):
        raise ValueError(f"tfds:{name} is no set of images with one class label each")
    return keys[0], features[keys[1]]
