"""The images of a test set: their labels, thumbnails for a gallery, and each as a file to run."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from dvt_tf import datasets, folders, preprocessing
from dvt_tf.scenes import SCENES

SHOWN = 300  # images in the gallery
SIDE = 48  # pixels of a thumbnail
SPRITE_COLUMNS = 20
SPRITE_QUALITY = 82  # of WebP
BATCH = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of a split, in the order of its results.

    labels: (N,) int32, in the card's classes. thumbnails: (G, SIDE, SIDE, 3) uint8, of the images that are shown.
    read: an image's index -> the contents of a file with it.
    """

    labels: np.ndarray
    thumbnails: np.ndarray
    read: Callable[[int], bytes]


def evenly(count: int, shown: int = SHOWN) -> np.ndarray:
    """Which of `count` images to show, (G,) int: `shown` of them from all over, or all of fewer."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int))


def images_of(data: str, card: Mapping[str, Any], count: int, shown: np.ndarray) -> Images:
    """The first `count` images of the data's split (of a folder: from all over it), as `datasets.load` orders them.

    Raises:
        ValueError: there are not so many, or one to be shown is damaged. FileNotFoundError: the data is not there.
    """
    spec, split = parsed(data)
    table = datasets.label_table(datasets.class_names(spec, split), card, spec)
    kind = datasets.parse_spec(spec).kind
    if kind in datasets.EMBEDDED:
        return _scene_images(kind, split, table, count, shown)
    if kind == "folder":
        return _folder_images(spec, split, table, card, count, shown)
    names: list[bytes] = []
    classes: list[int] = []
    kept: dict[int, bytes] = {}
    for contents, name, number in datasets.file_batches(spec, split, BATCH, count).as_numpy_iterator():
        kept |= {len(names) + i: contents[i] for i in range(len(name)) if len(names) + i in shown}
        names.extend(name)
        classes.extend(number)
    _check_count(data, len(names), count)
    thumbnails = _thumbnails_of([kept[index] for index in shown], [os.fsdecode(names[index]) for index in shown], card)

    def read(index: int) -> bytes:
        if index in kept:
            return kept[index]
        [(contents, _, _)] = datasets.file_batches(spec, split, 1, count).skip(index).take(1).as_numpy_iterator()
        return contents[0]

    return Images(table[classes], thumbnails, read)


def _scene_images(kind: str, split: str, table: np.ndarray, count: int, shown: np.ndarray) -> Images:
    _check_count(f"{kind}@{split}", SCENES[split], count, fewer=True)
    draw = datasets.EMBEDDED[kind].split_scenes
    scenes = draw(split, count)
    kept = {int(index): scenes.images[index] for index in shown}

    def read(index: int) -> bytes:
        pixels = kept.get(index)
        return _png(draw(split, count).images[index] if pixels is None else pixels)

    return Images(table[scenes.labels], np.stack([thumbnail(pixels) for pixels in kept.values()]), read)


def _folder_images(
    spec: str, split: str, table: np.ndarray, card: Mapping[str, Any], count: int, shown: np.ndarray
) -> Images:
    paths, classes = folders.folder_files(datasets.parse_spec(spec).location, split)
    _check_count(f"{spec}@{split}", len(paths), count, fewer=True)
    if count < len(paths):  # some of them: which, only the batches say
        batches = datasets.file_batches(spec, split, BATCH, count).as_numpy_iterator()
        place = {os.fsencode(path): index for index, path in enumerate(paths)}
        chosen = [place[name] for _, names, _ in batches for name in names]
        paths, classes = [paths[i] for i in chosen], [classes[i] for i in chosen]
    number = {name: index for index, name in enumerate(datasets.class_names(spec, split))}
    names = [os.fsencode(paths[index]) for index in shown]
    contents = folders.read_files(np.array(names, object)).tolist()
    thumbnails = _thumbnails_of(contents, [str(paths[index]) for index in shown], card)
    return Images(table[[number[name] for name in classes]], thumbnails, lambda index: paths[index].read_bytes())


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> (SIDE, SIDE, 3) uint8."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def sprite_url(thumbnails: np.ndarray) -> str:
    """(G, SIDE, SIDE, 3) uint8 -> all of them in one WebP picture, row by row, as a data URL."""
    rows = -(-len(thumbnails) // SPRITE_COLUMNS)
    cells = np.zeros((rows * SPRITE_COLUMNS, SIDE, SIDE, 3), np.uint8)
    cells[: len(thumbnails)] = thumbnails
    sheet = cells.reshape(rows, SPRITE_COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet.reshape(rows * SIDE, SPRITE_COLUMNS * SIDE, 3))
    picture.save(buffer, format="WEBP", quality=SPRITE_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def parsed(data: str) -> tuple[str, str]:
    """SPEC[@SPLIT] -> SPEC and its split, which is test unless another is named."""
    spec = datasets.parse_spec(data)
    return datasets.without_split(spec), spec.split or "test"


def _thumbnails_of(contents: Sequence[bytes], names: Sequence[str], card: Mapping[str, Any]) -> np.ndarray:
    found = []
    for start in range(0, len(contents), BATCH):
        pixels, valid = preprocessing.decode_and_crop(tf.constant(list(contents[start : start + BATCH])), card)
        if not np.all(valid.numpy()):
            damaged = names[start + int(np.argmin(valid.numpy()))]
            raise ValueError(f"damaged or unreadable image in the data: {damaged}")
        found += [thumbnail(image) for image in np.clip(np.rint(pixels.numpy()), 0, 255).astype(np.uint8)]
    return np.stack(found)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _check_count(data: str, there: int, wanted: int, fewer: bool = False) -> None:
    if there < wanted or (there > wanted and not fewer):
        raise ValueError(f"the results are of {wanted:,} images, and {data} has {there:,}: they are of other data")
