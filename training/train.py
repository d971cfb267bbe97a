"""`python -m training.train`: trains a cascade by a recipe through `keras.Model.fit` and saves a model folder."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from tensorflow import keras

from dvt_tf import DynamicVisionTransformer, datasets, digits
from dvt_tf.checkpoints import assign_state, state_of
from dvt_tf.evaluation import exit_results, summary
from dvt_tf.preprocessing import normalise
from dvt_tf.thresholds import cheapest_within
from training.augment import Augmentation
from training.callbacks import HistoryFile, SaveState, ShadowWeights, Validation
from training.data import digits_batches
from training.objective import CascadeTrainer, compile_trainer
from training.optimizers import make_optimizer
from training.recipe import Recipe, load_recipe
from training.schedule import Plan
from training.state import STATE_FILE, load_state

STRATEGIES = ("auto", "one", "mirrored")
MAX_DROP = 0.002  # accuracy given up on the val split, as a share, for the card's thresholds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--recipe", required=True, help="name under training/recipes, or a .toml file")
    parser.add_argument("--data", default="", help="what to train on: digits (default: what the recipe says)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run: state, history.csv and the model")
    parser.add_argument(
        "--start-from", default="", metavar="DIR|PRESET", help="begin with this model's weights, not with fresh ones"
    )
    parser.add_argument(
        "--strategy", default="auto", choices=STRATEGIES, help="auto: all GPUs there are, else one device"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's saved state, if there is one")
    parser.add_argument(
        "--smoke", action="store_true", help="the recipe's [smoke] variant: under a minute, learns nothing"
    )
    return parser.parse_args(arguments)


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The distribution strategy of a run; one device is the small case of many."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (name == "auto" and len(tf.config.list_logical_devices("GPU")) > 1):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def train(
    recipe: Recipe,
    data: str,
    out: Path,
    strategy_name: str = "auto",
    resume: bool = False,
    stop_after: int | None = None,
    start_from: str = "",
) -> DynamicVisionTransformer:
    """Runs a recipe, or goes on with it, and saves the shadow weights as a model folder at `out`/model.

    Args:
        recipe: what to do. data: `"digits"`. out: the run's folder.
        strategy_name: one of `STRATEGIES`. resume: whether to go on from `out`.
        start_from: a model folder or preset whose weights to begin with; "" for fresh ones.
        stop_after: leave after that many epochs of this call, as if interrupted.

    Raises:
        ValueError: the data is unknown, the recipe asks for what is not done with it, or `out` holds a run and `resume`
            is False, or one of another recipe.
    """
    if data != "digits":
        raise ValueError(f"--data {data!r} cannot be trained on yet; there is digits")
    refuse_what_digits_ignore(recipe)
    plan = Plan.of(recipe)
    state_path = out / STATE_FILE
    if state_path.exists() and not resume:
        raise ValueError(f"{out} already holds a run; add --resume to go on with it, or give another --out")
    out.mkdir(parents=True, exist_ok=True)
    described = json.dumps(dataclasses.asdict(recipe), sort_keys=True)
    _keep_freed_memory()
    strategy = make_strategy(strategy_name)
    if recipe.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide among {strategy.num_replicas_in_sync} replicas"
        )
    keras.utils.set_random_seed(recipe.seed)
    with strategy.scope():
        cascade = DynamicVisionTransformer.from_preset(
            (recipe.follow_start and start_from) or recipe.preset,
            load_weights=False,
            dtype=recipe.precision,
            seed=recipe.seed,
            **recipe.overrides,
        )
        cascade.card = {**cascade.card, "preprocessing": {**cascade.card["preprocessing"], **recipe.preprocessing}}
        trainer = CascadeTrainer(
            cascade, recipe.token_loss > 0, recipe.distillation, recipe.frozen, dtype=recipe.precision
        )
        trainer.build()
        optimizer = make_optimizer(recipe, trainer)
        compile_trainer(trainer, optimizer, recipe)
    started_from = start_weights(cascade, start_from) if start_from else {}
    epoch, start = 0, None
    if state_path.exists():
        epoch, start = load_state(state_path, trainer, optimizer, described)
        print(f"going on after epoch {epoch} of {plan.epochs}")
    shadow = ShadowWeights(cascade, recipe.ema_decay, start, epoch * plan.steps_per_epoch, recipe.ema_warmup)
    scenes = digits.digit_scenes("val", recipe.validation_images or None)
    images = normalise(tf.constant(scenes.images, tf.float32), cascade.card)
    last = plan.epochs if stop_after is None else min(plan.epochs, epoch + stop_after)
    if epoch < last:
        trainer.fit(
            digits_batches(recipe, cascade.config, cascade.card, epoch * plan.steps_per_epoch),
            initial_epoch=epoch,
            epochs=last,
            steps_per_epoch=plan.steps_per_epoch,
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[
                shadow,
                Validation(shadow, cascade, images, scenes.labels, recipe.validate_every, plan.epochs),
                SaveState(state_path, trainer, shadow, described),
                HistoryFile(out / "history.csv", recipe.batch_size * plan.steps_per_epoch, epoch),
            ],
        )
    with shadow.swapped():
        cascade.card = {**cascade.card, "provenance": {**provenance(recipe, data), **started_from}}
        cascade.save_to_preset(out / "model")
    # Read back in float32, as it will be used: thresholds chosen at the training precision would be slightly off.
    finished = DynamicVisionTransformer.from_preset(out / "model")
    if last == plan.epochs:
        choose_thresholds(finished, data)
        finished.save_to_preset(out / "model")
    return finished


def refuse_what_digits_ignore(recipe: Recipe) -> None:
    """Digit scenes vary by themselves and are validated on scenes of their own: what a recipe says else has no effect.

    Raises:
        ValueError: the recipe sets such a field; the message names it.
    """
    neutral = Recipe(
        recipe.preset,
        epochs=1,
        augmentation=Augmentation(label_smoothing=recipe.augmentation.label_smoothing),
    )
    for field in ("augmentation", "held_out", "repeated_augmentation", "choose_by"):
        if getattr(recipe, field) != getattr(neutral, field):
            raise ValueError(f"recipe field {field} has no effect on digits; leave it out")


def start_weights(cascade: DynamicVisionTransformer, start_from: str) -> dict[str, Any]:
    """Gives the cascade the weights of a model of the same architecture -> what the card then says of its origin.

    Raises:
        ValueError: no such model, or its weights do not fit.
    """
    origin = DynamicVisionTransformer.from_preset(start_from)
    assign_state(cascade, state_of(origin), f"--start-from {start_from}")
    return {"started_from": origin.card["provenance"]}


def choose_thresholds(model: DynamicVisionTransformer, data: str) -> None:
    """Sets the card's thresholds from the val split, and its figures from the test split."""
    batches = datasets.load(data, "val", model.card, batch_size=100)
    held_out = exit_results(model, batches)
    best = cheapest_within(held_out.confidences, held_out.correct, held_out.gmacs, MAX_DROP)
    method = f"cheapest of a grid of quantiles that loses at most {100 * MAX_DROP:g} points against the last exit"
    thresholds = {
        "values": [float(value) for value in best.thresholds],
        "method": method,
        "data": f"{data}@val, {len(held_out.labels)} images",
    }
    model.card = {**model.card, "thresholds": thresholds}
    scored = exit_results(model, datasets.load(data, "test", model.card, batch_size=100))
    model.card = {**model.card, "figures": {"data": f"{data}@test", **summary(scored, model.card)}}


def provenance(recipe: Recipe, data: str) -> dict[str, Any]:
    """Where weights come from, for the card."""
    packages = ("tensorflow", "keras", "numpy")
    return {
        "trained_by": "python -m training.train",
        "data": data,
        "recipe": dataclasses.asdict(recipe),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "license": "Apache-2.0",
    }


def _keep_freed_memory() -> None:
    """Has glibc keep large freed blocks: the step's big tensors are else mapped and faulted in anew every time."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def main() -> int:
    """The command; bad input is one line on stderr and status 2."""
    arguments = parse_arguments()
    try:
        recipe = load_recipe(arguments.recipe, arguments.smoke)
        data, start_from = arguments.data or recipe.data, arguments.start_from
        if not data:
            raise ValueError(f"recipe {arguments.recipe} names no data of its own; add --data SPEC")
        train(recipe, data, arguments.out, arguments.strategy, arguments.resume, start_from=start_from)
    except (ValueError, OSError) as error:
        print(f"training.train: {error}", file=sys.stderr)
        return 2
    print(f"model saved in {arguments.out / 'model'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
