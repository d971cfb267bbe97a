"""`python -m training.ablate`: trains every row of a study with every seed, and makes its tables and plots.

Cells (a configuration and a seed) are trained one after another, or several at once, each in a process of its own, all
rows of one seed before the next seed. It can be stopped at any point and begun again: what is done is kept in the
folder of the study, and a cell that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from dvt_tf import datasets
from dvt_tf.cost import count_macs
from dvt_tf.presets import get_preset
from dvt_tf.processor import available_cores
from training import study_report
from training.cell_processes import STOPPED, CellProcess, Cores, shares_of_cores, trained
from training.cell_training import config_of, described, images_of, recipe_of, scenes_of, start_of, train_cell, work_of
from training.cells import (
    KEPT,
    RESULTS_FILE,
    RUNS,
    Cell,
    Outcome,
    outcomes,
    refuse_others,
    write_results,
)
from training.devices import make_strategy
from training.locks import held
from training.recipe import Recipe, load_recipe
from training.replicas import refuse_more_replicas, refuse_uneven
from training.reporting import duration, name_lines
from training.stopping import Stopped
from training.studies import CONFIGURATIONS, STUDIES, configurations_of

BAD_INPUT, INTERRUPTED = 2, 130  # exit statuses
LOCK = ".lock"  # held by who trains a study's cells
_FAILURES = 3  # cells in a row, after which the next is not tried


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.ablate", description=__doc__)
    parser.add_argument(
        "--study",
        required=True,
        nargs="+",
        action="extend",
        choices=(*STUDIES, "all"),
        metavar="STUDY",
        help=f"what to compare, one or several of {', '.join(STUDIES)}, or all; training/studies.py",
    )
    parser.add_argument(
        "--recipe", default="study", help="name under training/recipes, or a .toml file (default: study)"
    )
    parser.add_argument("--data", default="", metavar="SPEC", help="what to train on (default: what the recipe says)")
    parser.add_argument("--preset", default="", help="the cascade, in place of the recipe's")
    parser.add_argument(
        "--start-from",
        default="",
        metavar="DIR",
        help="begin with these weights; {configuration} and {seed} in it stand for those of the cell",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, as TOML: images=64000; as often as need be",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CONFIGURATION",
        help="of the study, this row; as often as need be",
    )
    parser.add_argument("--report", action="store_true", help="train nothing: make tables and plots of what is done")
    parser.add_argument(
        "--estimate",
        nargs="?",
        type=int,
        const=0,
        metavar="IMAGES",
        help="train nothing: say what the study takes, for data of so many training images (default: those of --data)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=62.0,
        help="for --estimate: 10^12 floating-point operations a second that a device reaches in training "
        "(default %(default)g, a fifth of an A100's bfloat16 peak)",
    )
    parser.add_argument(
        "--keep-runs", action="store_true", help="keep the model and the state of every cell, in OUT/runs"
    )
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="of drawn data: draw the scenes anew in every cell, not once for all cells of a seed into OUT/scenes; "
        "takes no room, and longer",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="cells trained at once, each on its share of the cores (default %(default)s): faster without a GPU where "
        "the cascade is small",
    )
    parser.add_argument(
        "--cpu-replicas",
        type=int,
        default=1,
        metavar="N",
        help="without a GPU: N parts of every batch of a cell at once, at most one a core (default %(default)s)",
    )
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def cells_of(names: Sequence[str], seeds: int) -> list[Cell]:
    """All rows of seed 0, then of seed 1, ...: so that a study that is stopped has whole tables of fewer seeds."""
    return [Cell(name, seed) for seed in range(seeds) for name in names]


def _shares_scenes(out: Path, cell: Cell, cells: Sequence[Cell], done: Collection[Cell]) -> bool:
    """Whether there are scenes to share, or another cell to share them with: drawing ahead for one alone is slower."""
    others = any(other.seed == cell.seed and other not in {cell, *done} for other in cells)
    return others or scenes_of(out, cell.seed).is_dir()


def run_study(options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """What the command does -> what it says in the end."""
    recipe = load_recipe(options.recipe, changes=options.set)
    if options.preset:
        get_preset(options.preset)  # refuses an unknown name
        recipe = dataclasses.replace(recipe, preset=options.preset)
    data = options.data or recipe.data
    if not data:
        raise ValueError(f"recipe {options.recipe} names no data of its own; add --data SPEC")
    if options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; it must be at least 1")
    studies = [name for name in STUDIES if {name, "all"} & set(options.study)]
    names = configurations_of(studies)
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        raise ValueError(f"--only {unknown[0]}: no row of the study; its rows are {', '.join(names)}")
    cells = cells_of([name for name in names if name in (options.only or names)], options.seeds)
    for name in names:
        recipe_of(recipe, Cell(name, 0))  # refuses what the preset cannot be before anything is trained
    if options.estimate is not None:
        return _estimate(recipe, data, cells, options.estimate, options.rate)
    start_of(Cell("", 0), options.start_from)
    _refuse_others(options, recipe, data)
    if options.cell:
        name, _, seed = options.cell.rpartition("_seed")
        if options.at_once > 1:
            name_lines(options.cell)
        strategy = make_strategy("auto", options.cpu_replicas)  # before anything else asks for devices
        train_cell(recipe, data, options.out, Cell(name, int(seed)), strategy, options.start_from, options.redraw)
        if not options.keep_runs:
            shutil.rmtree(options.out / RUNS / options.cell, ignore_errors=True)
        return ""
    failed = {} if options.report else _train_all(recipe, cells, options, arguments)
    found = outcomes(options.out, cells_of(names, options.seeds))
    if not found and not failed:
        raise ValueError(f"{options.out}: no cell of the study is done yet; leave out --report to train them")
    if found:
        _refuse_others(options, recipe, data)  # again, as the images may have changed while cells were trained
        _report(options.out, studies, found, data)
    if failed:
        told = "; ".join(f"{cell.name} ({why})" for cell, why in failed.items())
        raise ValueError(f"not trained: {told}; nothing of the others is lost, and the same command tries again")
    count = len(cells_of(names, options.seeds))
    return f"{len(found)} of {count} cells are done: {options.out / study_report.REPORT_FILE}"


def _refuse_others(options: argparse.Namespace, recipe: Recipe, data: str) -> None:
    found = _everything(options.out)
    now = {cell: described(recipe, cell, data, options.start_from) for cell in found}
    refuse_others(options.out, found, now, report=options.report)


def _report(out: Path, studies: Sequence[str], found: dict[Cell, Outcome], data: str) -> None:
    write_results(out, _everything(out))
    groups = datasets.sources(data, "test")
    if groups is not None:  # a recipe may test on the first images alone
        groups = groups[: len(next(iter(found.values())).correct["test"])]
    study_report.write(out, studies, found, data, groups)


def _everything(out: Path) -> dict[Cell, Outcome]:
    """What the folder has of all studies and seeds."""
    seeds = [int(path.stem.rpartition("_seed")[2]) for path in (out / KEPT).glob("*_seed*.safetensors")]
    return outcomes(out, cells_of(list(CONFIGURATIONS), 1 + max(seeds, default=0)))


def _train_all(
    recipe: Recipe, cells: Sequence[Cell], options: argparse.Namespace, arguments: Sequence[str]
) -> dict[Cell, str]:
    """Trains the cells that are not done -> those that could not be, and why.

    Raises:
        Stopped: a signal asked it to stop; the cells under way are saved. ValueError: another process trains there,
            there are too few cores, or a batch does not divide among the replicas.
    """
    shares = shares_of_cores(options.at_once)
    least = min(available_cores() if share is None else len(share) for share in shares)
    if options.cpu_replicas > least and options.at_once > 1:
        raise ValueError(
            f"--cpu-replicas {options.cpu_replicas} with --at-once {options.at_once}: a cell has {least} of the cores, "
            "and as many replicas at most"
        )
    refuse_more_replicas(options.cpu_replicas, least)
    refuse_uneven(recipe.batch_size, options.cpu_replicas)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with held(options.out / LOCK, wait=False) as lock:
            return _train_missing(recipe, cells, options, arguments, shares, lock)
    except BlockingIOError:
        raise ValueError(
            f"{options.out}: a study is being trained there by another process; wait for it, or give another --out"
        ) from None


def _train_missing(
    recipe: Recipe,
    cells: Sequence[Cell],
    options: argparse.Namespace,
    arguments: Sequence[str],
    shares: Sequence[Cores],
    lock: int,
) -> dict[Cell, str]:
    work = {cell: work_of(recipe_of(recipe, cell), 1) for cell in cells}
    done = outcomes(options.out, cells)
    _remove_scenes(options.out, cells, done)  # an earlier command may have been killed before it came to it
    failed: dict[Cell, str] = {}
    begun: dict[Cell, float] = {}
    seconds: dict[Cell, float] = {}  # that cells took which ended here; before, what the epochs of the others took
    in_epochs = {cell: outcome.seconds for cell, outcome in done.items()}
    waiting = [cell for cell in cells if cell not in done]

    def begin(cell: Cell, cores: Cores) -> CellProcess:
        left = sum(amount for other, amount in work.items() if other not in {*done, *failed})
        rate = len(shares) * _rate(seconds or in_epochs, work)
        told = f", {duration(left / rate)} left in all" if rate else ""
        number = cells.index(cell) + 1
        print(f"cell {number} of {len(cells)}: {cell.configuration}, seed {cell.seed}{told}", flush=True)
        redraw = [] if _shares_scenes(options.out, cell, cells, {*done, *failed}) else ["--redraw"]
        begun[cell] = time.monotonic()
        return CellProcess(cell, [*arguments, *redraw, "--cell", cell.name], cores, lock)

    in_a_row = 0
    with closing(trained(waiting, begin, shares)) as ends:
        for cell, why in ends:
            in_a_row = in_a_row + 1 if why else 0
            if why:
                failed[cell] = why
                print(f"training.ablate: {cell.name} could not be trained ({why})", file=sys.stderr, flush=True)
                if in_a_row == _FAILURES and waiting:
                    failed[waiting[0]] = f"and those after it: not tried after {_FAILURES} failures in a row"
                    waiting.clear()
                continue
            done = outcomes(options.out, cells)
            seconds[cell] = max(time.monotonic() - begun[cell], done[cell].seconds)  # resumed: mostly trained before
            _remove_scenes(options.out, cells, done)
            try:
                write_results(options.out, _everything(options.out))
            except OSError as error:  # a table that the next cell, or the report, writes anew
                print(f"training.ablate: {RESULTS_FILE} could not be written ({error})", file=sys.stderr, flush=True)
    return failed


def _remove_scenes(out: Path, cells: Sequence[Cell], done: Collection[Cell]) -> None:
    """Of the seeds whose cells are all done."""
    for seed in {cell.seed for cell in cells} - {cell.seed for cell in cells if cell not in done}:
        shutil.rmtree(scenes_of(out, seed), ignore_errors=True)


def _rate(seconds: Mapping[Cell, float], work: Mapping[Cell, float]) -> float:
    """The work of a cell per second, the median of those that took so long: one may have been paused."""
    rates = [work[cell] / took for cell, took in seconds.items() if took]
    return statistics.median(rates) if rates else 0.0


def _estimate(recipe: Recipe, data: str, cells: Sequence[Cell], count: int, rate: float) -> str:
    from training.data import open_data

    if not rate > 0:
        raise ValueError(f"--rate is {rate:g}; it must be above 0")
    images = images_of(recipe, count or open_data(recipe, data).count)
    lines = [f"{recipe.preset}, {images:,} images a cell; {rate:g} x 10^12 operations a second, six a multiply-add:"]
    total = 0.0
    for name in dict.fromkeys(cell.configuration for cell in cells):
        own = recipe_of(recipe, Cell(name, 0))
        hours = work_of(own, images) / (rate * 1e12) / 3600
        seeds = sum(cell.configuration == name for cell in cells)
        total += hours * seeds
        lines.append(f"  {name:<28}{count_macs(config_of(own))[-1] / 1e9:9.4f} GFLOPs {hours:10.1f} h x {seeds}")
    return "\n".join([*lines, f"  {len(cells)} cells {total:.0f} device hours"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad input is one line on stderr and status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_arguments(arguments)
    from training.saving import Diverged

    try:
        said: Any = run_study(options, arguments)
        if said:
            print(said)
    except Stopped as stopped:
        print(f"training.ablate: {stopped}")
        return STOPPED if options.cell else 0
    except (ValueError, OSError, Diverged) as error:
        whose = f"{options.cell}: " if options.cell else ""  # one of several that may say something
        print(f"training.ablate: {whose}{' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
