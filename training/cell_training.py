"""How a cell of a study is trained, what that takes, and what must be the same for its result to be used again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from dvt_tf import datasets
from dvt_tf.cost import count_macs
from dvt_tf.presets import CascadeConfig, get_preset
from training.cells import KEPT, RUNS, SPLITS, Cell, Outcome, digest_of, keep_history, save_outcome, seconds_of
from training.recipe import Recipe
from training.schedule import Plan
from training.studies import CONFIGURATIONS

_SCENES = "scenes"  # folder of a study, while it is trained
_BATCH = 100  # images, where nothing is trained
_BACKWARD = 2  # a step's gradient costs twice what its forward pass does


def recipe_of(recipe: Recipe, cell: Cell) -> Recipe:
    """The recipe of one cell. With a seed come the order of the data, its augmentation and the fresh weights."""
    overrides = {**recipe.overrides, **CONFIGURATIONS[cell.configuration].overrides(config_of(recipe))}
    return dataclasses.replace(recipe, overrides=overrides, seed=cell.seed)


def config_of(recipe: Recipe) -> CascadeConfig:
    """What a recipe trains."""
    overrides = dict(recipe.overrides)
    if "token_grids" in overrides:
        overrides["token_grids"] = tuple(overrides["token_grids"])
    return dataclasses.replace(get_preset(recipe.preset).config, **overrides)


def work_of(recipe: Recipe, images: int) -> float:
    """Floating-point operations that training takes: two a multiply-add, forward and backward."""
    return 2.0 * (1 + _BACKWARD) * count_macs(config_of(recipe))[-1] * images


def images_of(recipe: Recipe, count: int) -> int:
    """Images that a recipe shows, of data with `count` training images."""
    return Plan.of(recipe, count).steps * recipe.batch_size


def described(recipe: Recipe, cell: Cell, data: str, start_from: str) -> dict[str, Any]:
    """How a cell is trained: what must be the same wherever its result is used."""
    own = recipe_of(recipe, cell)
    fields = {**dataclasses.asdict(own), "config": dataclasses.asdict(config_of(own)), "data": data}
    del fields["remat"], fields["overrides"]  # how a step is computed, not what; and what config says
    return {**fields, "start_from": start_from}


def train_cell(
    recipe: Recipe,
    data: str,
    out: Path,
    cell: Cell,
    strategy: tf.distribute.Strategy,
    start_from: str = "",
    redraw: bool = False,
) -> None:
    """Trains one cell, or goes on with it, and keeps what it says of the calibration and test splits.

    Args:
        strategy: made by `make_strategy`.
        redraw: whether drawn scenes are drawn as they are needed, not once for all cells of a seed; so they are, too,
            where there is no room for them.

    Raises:
        ValueError, FileNotFoundError: as `train`, or one of the splits is not there; nothing is trained then.
        OSError: as `train`, or the scenes cannot be written.
    """
    from dvt_tf.cascade import DynamicVisionTransformer, preset_card
    from dvt_tf.results import exit_results
    from training.damaged import on_one_line
    from training.data import SceneData, open_data
    from training.reporting import HISTORY_FILE, made_by, read_history, starts_of
    from training.run import MODEL, card_for, train

    begun_by = made_by(strategy.num_replicas_in_sync)  # at the beginning: the code may be changed later
    own, run = recipe_of(recipe, cell), out / RUNS / cell.name
    found = open_data(own, data)
    if not isinstance(found, SceneData):  # which are drawn in any case
        card = card_for(preset_card(own.preset, get_preset(own.preset)), own, found.classes)
        for split in SPLITS:  # that one is not there is better known before the training than after it
            datasets.load(data, split, card, _BATCH)
    if isinstance(found, SceneData) and not redraw:
        found.keep(scenes_of(out, cell.seed), Plan.of(own, found.count))
    train(own, data, run, strategy, resume=True, start_from=start_of(cell, start_from), found=found)
    model = DynamicVisionTransformer.from_preset(run / MODEL)
    damaged: list[str] = []  # the same in every cell, so that pairs stay pairs
    scored = {
        split: exit_results(
            model, datasets.load(data, split, model.card, _BATCH, damaged.extend, limit=own.test_images)
        )
        for split in SPLITS
    }
    if damaged:
        print(f"left out, as damaged: {', '.join(sorted(set(map(on_one_line, damaged))))}", flush=True)
    told = {"described": described(recipe, cell, data, start_from), **begun_by}
    told["earlier"] = earlier_starts(starts_of(run), tuple(begun_by))
    if origin := model.card["provenance"].get("started_from_weights"):
        told["started_from_weights"] = origin
    outcome = Outcome(
        scored["test"].gmacs,
        {split: results.confidences for split, results in scored.items()},
        {split: results.correct for split, results in scored.items()},
        images_of(own, found.count),
        seconds_of(read_history(run / HISTORY_FILE)),
        told,
        {split: digest_of(results.labels) for split, results in scored.items() if results.labels is not None},
    )
    keep_history(run, out, cell)
    save_outcome(outcome, out / KEPT / f"{cell.name}.safetensors")


def earlier_starts(starts: Sequence[Mapping[str, Any]], fields: Collection[str]) -> list[dict[str, Any]]:
    """Of the starts of a run that the last one built on: from which step they were, and what they say in these fields.

    One that was stopped before it had saved a step, or whose steps were done again, is left out.
    """
    found: list[dict[str, Any]] = []
    bound = starts[-1]["from_step"]
    for start in reversed(starts[:-1]):
        if start["from_step"] < bound:
            bound = start["from_step"]
            found.insert(0, {key: start[key] for key in ("from_step", *fields) if key in start})
    return found


def scenes_of(out: Path, seed: int) -> Path:
    """The folder of the scenes that all cells of a seed share."""
    return out / _SCENES / f"seed{seed}"


def start_of(cell: Cell, start_from: str) -> str:
    """The model folder that a cell starts from, "" for none; ValueError where a brace in it stands for nothing."""
    try:
        return start_from.format(configuration=cell.configuration, seed=cell.seed)
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"--start-from {start_from!r}: only {{configuration}} and {{seed}} can stand in braces ({error})"
        ) from None
