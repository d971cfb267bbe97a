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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from rich.console import Console
from rich.table import Table

from dvt_tf import datasets
from dvt_tf.files import written_whole
from dvt_tf.processor import available_cores
from training.benchmark_pipelines import Pipelines, Row, choose_files, make_photos, model_of
from training.recipe import load_recipe
from training.reporting import versions
from training.sources import FolderSource

DEFAULT_RECIPE = "imagenet_t2t_vit_12"
DEFAULT_BATCH = 128  # images of one GPU in the recipes for ImageNet
DEFAULT_NEED = 8000.0
GPUS = 8
BAD_INPUT = 2
UNDISTURBED = 0.95  # of a core that the whole of a pipeline on one core keeps busy, where nothing else runs


@dataclasses.dataclass
class Figures:
    """What was measured of a row, one entry per round: images per second, and processor time by time."""

    images_per_second: list[float] = dataclasses.field(default_factory=list)
    cores_busy: list[float] = dataclasses.field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second, the median of the rounds."""
        return statistics.median(self.images_per_second)


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


def describe_machine() -> dict[str, Any]:
    """The processor's name, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")  # of Linux
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {"cpu": name, "cores": available_cores()}


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
        with written_whole(options.out) as file:
            file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


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
