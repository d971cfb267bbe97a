"""`python -m training.preview`: a picture of augmented batches, to look at before training on them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from dvt_tf import datasets, folders, image_files
from dvt_tf.cascade import find_preset, preset_card
from dvt_tf.checkpoints import read_card
from dvt_tf.files import written_whole
from dvt_tf.preprocessing import PreprocessingSettings, crop_pixels, decode_image
from training import crops
from training.augment import CROPS, Augmentation, augment_image, mix
from training.draws import sub_seed

DEFAULT_MODEL = "dvt_t2t_vit_12"
NAME_LENGTH = 14  # characters of a name that are shown
CELL = 1.5  # inches
_AUGMENT, _MIX = 1, 2  # what a draw is for


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; the fields of `Augmentation` are flags of the same names."""
    parser = argparse.ArgumentParser(prog="python -m training.preview", description=__doc__)
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="SPEC|FILE",
        help="digits, shapes, folder:PATH[@SPLIT], or image files",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.png", help="the picture")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="whose card says size, mean and deviation (default %(default)s)"
    )
    parser.add_argument("--images", type=int, default=4, help="how many, one a row (default %(default)s)")
    parser.add_argument(
        "--draws", type=int, default=6, help="batches drawn of them, one a column (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another one gives other draws")
    fields = parser.add_argument_group("augmentation", "as in a recipe; what is not given stays off")
    fields.add_argument("--crop", choices=CROPS)
    fields.add_argument("--scale", type=float, nargs=2, metavar=("FROM", "TO"), help="area of a random crop")
    fields.add_argument("--ratio", type=float, nargs=2, metavar=("FROM", "TO"), help="its width / height")
    fields.add_argument("--interpolation", choices=crops.INTERPOLATIONS)
    fields.add_argument("--flip", action="store_true", default=None, help="mirror half of the images")
    fields.add_argument("--randaugment", metavar="SPEC", help="such as rand-m9-mstd0.5-inc1")
    fields.add_argument("--erase", type=float, help="probability of a box of noise")
    fields.add_argument("--mixup", type=float, help="alpha of mixup")
    fields.add_argument("--cutmix", type=float, help="alpha of CutMix")
    fields.add_argument("--switch", type=float, help="probability of CutMix where there are both")
    fields.add_argument("--label-smoothing", type=float, help="share of the targets spread over all classes")
    return parser.parse_args(arguments)


def read_pictures(data: Sequence[str], count: int) -> tuple[list[np.ndarray], list[str]]:
    """The first pictures of a data set or of the files named, one of each class in turn, and what each shows.

    Returns:
        Pictures uint8 (H, W, 3), at most `count`, and their class names or the files' names.

    Raises:
        ValueError, OSError: nothing there, or a file that is no image.
    """
    if len(data) == 1 and data[0].partition("@")[0] in datasets.EMBEDDED:
        spec = datasets.parse_spec(data[0])
        embedded = datasets.EMBEDDED[spec.kind]
        scenes = embedded.split_scenes(spec.split or "train", count)
        return list(scenes.images), [embedded.class_names[label] for label in scenes.labels]
    if len(data) == 1 and data[0].startswith("folder:"):
        spec = datasets.parse_spec(data[0])
        paths, names = folders.folder_files(spec.location, spec.split or "train")
        # They come sorted by class, so that the first few would all be of one.
        first_of = {name: index for index, name in reversed(list(enumerate(names)))}
        order = sorted(range(len(paths)), key=lambda index: index - first_of[names[index]])[:count]
        paths, names = [paths[index] for index in order], [names[index] for index in order]
    else:
        paths = image_files.list_image_files(data)
        names = [path.stem for path in paths]
    pictures = []
    for path in paths[:count]:
        pixels, readable = decode_image(tf.constant(image_files.read_image_bytes(path)))
        if not readable:
            raise ValueError(f"{path}: is no image that can be read")
        pictures.append(pixels.numpy())
    return pictures, names[:count]


def augmented_batches(
    pictures: Sequence[np.ndarray], augmentation: Augmentation, card: dict[str, Any], draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Several batches of the same pictures, each with other draws, through `tf.data` as in training.

    Returns:
        pixels: float32 (draws, B, S, S, 3), 0 to 1.
        targets: float32 (draws, B, B): how much of each picture's label each image has.
    """
    count = len(pictures)

    def examples() -> Any:
        for draw in range(draws):
            for index, picture in enumerate(pictures):
                yield picture, draw, index

    def augment(pixels: tf.Tensor, draw: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        own = sub_seed(tf.stack([seed, draw]), _AUGMENT)
        return augment_image(pixels, sub_seed(own, index), augmentation, card), draw, index

    def mix_all(images: tf.Tensor, draw: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return mix(images, index, sub_seed(tf.stack([seed, draw[0]]), _MIX), augmentation, count)

    scalar = tf.TensorSpec([], tf.int32)
    dataset = tf.data.Dataset.from_generator(
        examples, output_signature=(tf.TensorSpec([None, None, 3], tf.uint8), scalar, scalar)
    )
    batches = list(dataset.map(augment).batch(count).map(mix_all).as_numpy_iterator())
    settings = PreprocessingSettings.from_card(card)
    images, targets = (np.stack(part) for part in zip(*batches, strict=True))
    mean, std = np.array(settings.mean, np.float32), np.array(settings.std, np.float32)
    return np.clip(images * std + mean, 0, 1), targets


def draw_grid(
    path: Path,
    originals: Sequence[np.ndarray],
    names: Sequence[str],
    pixels: np.ndarray,
    targets: np.ndarray,
    spread: float = 0.0,
) -> None:
    """A PNG with a row per picture: as evaluation sees it, then every draw, titled with its target.

    Args:
        originals: float (S, S, 3) each, 0 to 1. names: of the pictures. pixels, targets: see `augmented_batches`.
        spread: what label smoothing gives every target; labels that have no more are not named.
    """
    from matplotlib.figure import Figure

    draws, count = pixels.shape[:2]
    figure = Figure(figsize=(CELL * (draws + 1), (CELL + 0.3) * count), layout="constrained")
    cells = figure.subplots(count, draws + 1, squeeze=False)
    shown = [name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…" for name in names]
    for row in range(count):
        for column, cell in enumerate(cells[row]):
            cell.set_axis_off()
            if column == 0:
                cell.imshow(originals[row])
                cell.set_title(shown[row], fontsize=8, fontweight="bold")
            else:
                cell.imshow(pixels[column - 1, row])
                cell.set_title(_shares(targets[column - 1, row], shown, spread), fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def preview(options: argparse.Namespace) -> None:
    """Reads, augments and draws; raises ValueError or OSError naming what was wrong."""
    for name in ("images", "draws"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if not 0 <= options.seed < 2**31:
        raise ValueError(f"--seed is {options.seed}; it must be at least 0 and below 2^31")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Augmentation)}
    augmentation = Augmentation(**{name: value for name, value in given.items() if value is not None})
    folder, preset = find_preset(options.model)
    card = read_card(folder) if preset is None else preset_card(options.model, preset)
    pictures, names = read_pictures(options.data, options.images)
    originals = [crop_pixels(tf.constant(picture), card).numpy() / 255 for picture in pictures]
    pixels, targets = augmented_batches(pictures, augmentation, card, options.draws, options.seed)
    draw_grid(options.out, originals, names, pixels, targets, augmentation.label_smoothing / len(pictures))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad input is one line on stderr and status 2."""
    options = parse_arguments(arguments)
    try:
        preview(options)
    except (ValueError, OSError) as error:
        print(f"training.preview: {error}", file=sys.stderr)
        return 2
    print(f"drawn in {options.out}")
    return 0


def _shares(target: np.ndarray, names: Sequence[str], spread: float) -> str:
    """The labels of a target in percent, the largest first."""
    named = [index for index in np.argsort(-target, kind="stable")[:2] if target[index] > spread + 0.005]
    return "\n".join(f"{100 * target[index]:.0f} % {names[index]}" for index in named)


if __name__ == "__main__":
    sys.exit(main())
