"""`python -m training.benchmark`: images per second per core of the training input pipeline, part by part.

Each row adds a part to the row above, so that the difference of the two is what the part costs. The code is that of
`training.image_data`. Files are read again and again, so reading is from memory: a disk or a network comes on top.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from dvt_tf import datasets
from dvt_tf.cascade import find_preset, preset_card
from dvt_tf.checkpoints import read_card
from dvt_tf.preprocessing import PreprocessingSettings, decode_image_or_nothing, preprocess
from dvt_tf.presets import CascadeConfig
from training.augment import Augmentation, augment_image, mix
from training.draws import sub_seed
from training.recipe import Recipe, load_recipe
from training.reporting import versions
from training.sources import FolderSource

DEFAULT_RECIPE = "imagenet_t2t_vit_12"
DEFAULT_BATCH = 128  # images of one GPU in the recipes for ImageNet
DEFAULT_NEED = 8000.0
GPUS = 8
BAD_INPUT = 2
UNDISTURBED = 0.95  # of a core that the whole of a pipeline on one core keeps busy, where nothing else runs
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


@dataclasses.dataclass
class Figures:
    """What was measured of a row, one entry per round: images per second, and processor time by time."""

    images_per_second: list[float] = dataclasses.field(default_factory=list)
    cores_busy: list[float] = dataclasses.field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second, the median of the rounds."""
        return statistics.median(self.images_per_second)


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


def measure(rows: Sequence[Row], batch: int, batches: int, rounds: int) -> list[Figures]:
    """Times every row in every round, in turn, so that what else the machine does falls on all of them."""
    # Opening a pipeline takes seconds and its first batch is slow: both before the first round.
    opened = [None if row.all_cores else _opened(row.dataset) for row in rows]
    found = [Figures() for _ in rows]
    for _ in range(rounds):
        for row, iterator, figures in zip(rows, opened, found, strict=True):
            rest = 0
            if iterator is None:
                # What works ahead must have come to its end before the next row's turn, so it is opened for each. It
                # has one batch more: at the end of the time too, the next one is on its way.
                rest = 1
                iterator = _opened(row.dataset.take(1 + batches + rest))
            begin, busy = time.perf_counter(), time.process_time()
            for _ in range(batches):
                next(iterator)
            seconds, busy = time.perf_counter() - begin, time.process_time() - busy
            figures.images_per_second.append(batch * batches / seconds)
            figures.cores_busy.append(busy / seconds)
            for _ in range(rest):
                next(iterator)
    return found


def _opened(dataset: tf.data.Dataset) -> Iterator[Any]:
    """The batches after the first."""
    iterator = iter(dataset)
    next(iterator)
    return iterator


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


def describe_machine() -> dict[str, Any]:
    """The processor's name, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")  # of Linux
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return {"cpu": name, "cores": len(allowed(0)) if allowed else os.cpu_count() or 1}


def report(rows: Sequence[Row], found: Sequence[Figures], needed: float) -> dict[str, Any]:
    """The figures as they go into a file; `needed` images a second is what the cores are counted for."""
    entries: list[dict[str, Any]] = []
    for row, figures in zip(rows, found, strict=True):
        milliseconds = 1000 / figures.rate
        before = entries[-1]["milliseconds"] if entries else 0.0
        entries.append(
            {
                "part": row.part,
                "all_cores": row.all_cores,
                "images_per_second": figures.rate,
                "lowest": min(figures.images_per_second),
                "highest": max(figures.images_per_second),
                "rounds": figures.images_per_second,
                "milliseconds": milliseconds,
                "milliseconds_of_this_part": milliseconds - before if row.adds else None,
                "cores_busy": statistics.median(figures.cores_busy),
            }
        )
    whole = [entry for entry, row in zip(entries, rows, strict=True) if row.adds][-1]["images_per_second"]
    feeding = {
        "gpus": GPUS,
        "images_per_second": needed,
        "images_per_second_per_core": whole,
        "cores": math.ceil(needed / whole),
    }
    return {"rows": entries, "feeding": feeding}


def print_report(figures: dict[str, Any]) -> None:
    """The table, and how many cores would be needed."""
    machine = figures["machine"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    for column in ("images/s", "min..max", "ms/image", "of this part", "cores busy"):
        table.add_column(column, justify="right")
    for row in figures["rows"]:
        if row["all_cores"]:
            table.add_section()
        own = row["milliseconds_of_this_part"]
        table.add_row(
            row["part"] + (f", on {machine['cores']} cores" if row["all_cores"] else ""),
            f"{row['images_per_second']:,.1f}",
            f"{row['lowest']:,.1f}..{row['highest']:,.1f}",
            f"{row['milliseconds']:.3f}",
            "" if own is None else f"{own:.3f}",
            f"{row['cores_busy']:.2f}",
        )
    # In a pipe there is no width to keep to.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=10_000)
    files, versions_of = figures["files"], figures["versions"]
    console.print(
        f"recipe {figures['recipe']}, {figures['image_size']} x {figures['image_size']} pixels, "
        f"batch {figures['batch']}, from {files['count']} files of {files['kilobytes']:.0f} kB on average "
        f"({files['data']})\n{machine['cpu']}, {machine['cores']} cores; TensorFlow {versions_of['tensorflow']}; "
        f"one core a row but for the last; median of {figures['rounds']} rounds of {figures['images']} images",
        markup=False,
    )
    console.print(table)
    busy = [row["cores_busy"] for row in figures["rows"] if row["milliseconds_of_this_part"] is not None][-1]
    if busy < UNDISTURBED:
        console.print(f"disturbed: something else took {1 - busy:.0%} of the core's time from all of training's parts")
    feeding = figures["feeding"]
    console.print(
        f"cores to feed {feeding['gpus']} GPUs: {feeding['cores']:,}, for {feeding['images_per_second']:,.0f} images/s "
        f"in all (an assumption: --images-per-second) at {feeding['images_per_second_per_core']:,.1f} images/s a core"
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmark", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--recipe", default=DEFAULT_RECIPE, help="name under training/recipes, or a .toml file (default %(default)s)"
    )
    parser.add_argument(
        "--data", default="", metavar="folder:PATH", help="images to read (default: JPEGs made of two sample photos)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=256,
        help="timed per row and round, rounded up to whole batches (default %(default)s)",
    )
    parser.add_argument("--batch", type=int, default=DEFAULT_BATCH, help="images in a batch (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each row is timed (default %(default)s)")
    parser.add_argument(
        "--images-per-second",
        type=float,
        default=DEFAULT_NEED,
        help=f"what {GPUS} GPUs are assumed to take in all (default %(default)g)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="the figures as JSON")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes; raises ValueError or OSError naming what was wrong."""
    for name in ("images", "batch", "rounds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if not 0 < options.images_per_second < math.inf:
        raise ValueError(f"--images-per-second is {options.images_per_second:g}; it must be a number above 0")
    recipe = load_recipe(options.recipe)
    config, card = model_of(recipe)
    if options.out:
        if options.out.is_dir():
            raise ValueError(f"--out {options.out} is a folder; it must be a file")
        options.out.parent.mkdir(parents=True, exist_ok=True)  # fails before the minutes of measuring
    with tempfile.TemporaryDirectory(prefix="training_benchmark_") as temporary:
        source = open_folder(options.data, Path(temporary))
        paths = choose_files(source, options.images, recipe.seed)
        sizes = [os.path.getsize(path) for path in paths]
        rows = Pipelines(source, paths, recipe, config, card, options.batch).rows()
        batches = math.ceil(options.images / options.batch)
        found = measure(rows, options.batch, batches, options.rounds)
    figures = {
        "machine": describe_machine(),
        "versions": {"python": platform.python_version(), **versions()},
        "recipe": options.recipe,
        "augmentation": dataclasses.asdict(recipe.augmentation),
        "image_size": config.image_size,
        "files": {
            "data": options.data or "made of two sample photos",
            "count": len(paths),
            "kilobytes": statistics.mean(sizes) / 1000,
        },
        "batch": options.batch,
        "images": batches * options.batch,
        "rounds": options.rounds,
        **report(rows, found, options.images_per_second),
    }
    print_report(figures)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def open_folder(data: str, temporary: Path) -> FolderSource:
    """The training images of `folder:PATH`, or of photos made in a temporary folder if that is empty.

    Raises:
        ValueError, OSError: anything else, or no images there.
    """
    if not data:
        make_photos(temporary)
        return FolderSource(temporary, held_out=0.0)
    spec = datasets.parse_spec(data)
    if spec.kind != "folder" or spec.split:
        raise ValueError(f"--data {data}: it must be folder:PATH, whose train split is read")
    return FolderSource(Path(spec.location), held_out=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad input is one line on stderr and status 2."""
    options = parse_arguments(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"training.benchmark: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
