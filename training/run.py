"""A training run: from a recipe and data, through `keras.Model.fit`, to a model folder, exactly resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf import DynamicVisionTransformer, datasets
from dvt_tf.calibration import calibrated, chosen
from dvt_tf.checkpoints import assign_state, state_of, weights_digest
from dvt_tf.evaluation import summary
from dvt_tf.freed_memory import keep_freed_memory
from dvt_tf.results import exit_results
from dvt_tf.thresholds import cheapest_within
from training import devices, reporting
from training.damaged import on_one_line
from training.data import TrainingData, open_data
from training.objective import CascadeTrainer, compile_trainer
from training.optimizers import make_optimizer, of_a_head
from training.recipe import Recipe
from training.replicas import refuse_uneven
from training.saving import EpochLogs, SaveState
from training.schedule import Plan, make_schedule
from training.shadow import ShadowWeights
from training.state import STATE_FILE, Progress, load_state
from training.stopping import Stopped, StopRequest
from training.validation import Validation

MODEL, BEST = "model", "best"  # folders of a run
MAX_DROP = 0.002  # accuracy given up on held-out images, as a share, for the card's thresholds
SAVE_MINUTES = 10.0
LOST_MACHINE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_BATCH = 100  # images, where nothing is trained


def train(
    recipe: Recipe,
    data: str,
    out: Path,
    strategy: str | tf.distribute.Strategy = "auto",
    resume: bool = False,
    start_from: str = "",
    save_minutes: float = SAVE_MINUTES,
    stop_after: int = 0,
    found: TrainingData | None = None,
) -> DynamicVisionTransformer:
    """Runs a recipe, or goes on with it, and saves the shadow weights as a model folder at `out`/model.

    Args:
        recipe: what to do. data: SPEC of what to train on. out: the run's folder.
        strategy: one of `devices.STRATEGIES`, or made by `make_strategy`.
        resume: whether to go on from what `out` holds.
        start_from: a model folder or preset whose weights to begin with; "" for fresh ones.
        save_minutes: between two saves within an epoch.
        stop_after: stop after that many steps, as if asked to by a signal; 0 for never.
        found: the data, opened with this recipe, where the caller has done so.

    Raises:
        ValueError, FileNotFoundError: the data or what to start from is not there or does not fit, or `out` holds a run
            and `resume` is False, or one of another recipe, data or start.
        Stopped: it was asked to stop, and has saved its state. Diverged: the loss is no number any more.
        OSError: the state cannot be saved; the one before is kept.
    """
    if (out / STATE_FILE).exists() and not resume:
        raise ValueError(f"{out} already holds a run; add --resume to go on with it, or give another --out")
    if isinstance(strategy, str):
        strategy = devices.make_strategy(strategy)
    refuse_uneven(recipe.batch_size, strategy.num_replicas_in_sync)
    found = found or open_data(recipe, data)
    plan = Plan.of(recipe, found.count)
    keep_freed_memory()
    trainer = make_trainer(recipe, found.classes, plan, strategy, start_from)
    cascade = trainer.cascade
    started_from = start_weights(cascade, start_from) if start_from else {}
    cascade.card = {**cascade.card, "provenance": {**provenance(recipe, data), **started_from}}
    out.mkdir(parents=True, exist_ok=True)
    run = Run(recipe, data, found, plan, strategy, out, trainer)
    run.begin()
    with StopRequest() as stop:
        try:
            run.fit(stop, save_minutes, stop_after)
        except LOST_MACHINE as error:
            if stop.signal:
                raise Stopped(f"stopped by {stop.signal}, after another machine; add --resume to go on") from error
            raise
    return run.finish() if run.chief else cascade


class Run:
    """One run on the way from its first step, or from where it was stopped, to a finished model."""

    def __init__(
        self,
        recipe: Recipe,
        data: str,
        found: TrainingData,
        plan: Plan,
        strategy: tf.distribute.Strategy,
        out: Path,
        trainer: CascadeTrainer,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.found = found
        self.plan = plan
        self.strategy = strategy
        self.out = out
        self.trainer = trainer
        self.cascade = trainer.cascade
        self.chief = devices.is_chief(strategy)
        self.described = {**dataclasses.asdict(recipe), "data": _identity(data, found)}
        if origin := self.cascade.card["provenance"].get("started_from_weights"):
            self.described["started_from_weights"] = origin
        del self.described["remat"]  # how a step is computed, not what: it may differ from start to start
        self.progress = Progress()
        self.shadow: ShadowWeights

    def begin(self) -> None:
        """Takes up the state that there is, and says in run.json that it goes on.

        Raises:
            ValueError: the state is damaged, or of another run; or machines would go on from different steps.
        """
        state = self.out / STATE_FILE
        averages = None
        if state.exists():
            self.progress, averages = load_state(state, self.trainer, self.trainer.optimizer, self.described)
            print(f"going on after step {self.progress.step} of {self.plan.steps}", flush=True)
        devices.refuse_different_steps(self.strategy, self.progress.step)
        self.shadow = ShadowWeights(
            self.cascade, self.recipe.ema_decay, averages, self.progress.step, self.recipe.ema_warmup
        )
        if self.chief:
            self.found.damaged.list_in(self.out, anew=not self.progress.step)
            told = devices.describe_devices(self.strategy)
            described = {**self.described, "remat": self.recipe.remat}
            replicas = self.strategy.num_replicas_in_sync
            reporting.describe_run(self.out, described, told, replicas, self.progress.step)

    def fit(self, stop: StopRequest, save_minutes: float, stop_after: int = 0) -> None:
        """Takes the steps that are left; raises as `train` says."""
        plan, step = self.plan, self.progress.step
        if step >= plan.steps:
            return
        epoch, within = divmod(step, plan.steps_per_epoch)
        callbacks = self._callbacks(stop, save_minutes, stop_after)
        try:
            if within:  # the rest of an epoch, which is shorter
                self._fit(epoch, epoch + 1, step, plan.steps_per_epoch - within, callbacks)
                epoch += 1
            if epoch < plan.epochs:
                self._fit(epoch, plan.epochs, epoch * plan.steps_per_epoch, plan.steps_per_epoch, callbacks)
        finally:
            for callback in callbacks:
                if isinstance(callback, reporting.ProgressBar):
                    callback.close()

    def _fit(self, first: int, end: int, step: int, steps_per_epoch: int, callbacks: list[Any]) -> None:
        def make_batches(part: int, parts: int) -> tf.data.Dataset:
            return self.found.batches(self.cascade.config, self.cascade.card, self.plan, step, part, parts)

        self.trainer.fit(
            devices.distribute(self.strategy, self.recipe.batch_size, make_batches),
            initial_epoch=first,
            epochs=end,
            steps_per_epoch=steps_per_epoch,
            verbose=0,
            callbacks=callbacks,
        )

    def _callbacks(self, stop: StopRequest, save_minutes: float, stop_after: int) -> list[keras.callbacks.Callback]:
        """In the order in which they read and extend the logs."""
        recipe, plan, step = self.recipe, self.plan, self.progress.step
        epoch, within = divmod(step, plan.steps_per_epoch)
        logs = EpochLogs(self.progress.partial, within, plan.steps_per_epoch)
        validation = Validation(
            self.shadow,
            self.cascade,
            self.found.validation(self.cascade.card, recipe.batch_size, recipe.validation_images),
            recipe.batch_size,
            self.strategy,
            recipe.validate_every,
            plan.epochs,
            self.progress.best,
            self._save_best if self.chief else None,
        )
        save = SaveState(
            self.out if self.chief else None,
            self.trainer,
            self.shadow,
            logs,
            validation,
            self.found.damaged,
            stop,
            plan,
            self.described,
            step,
            60 * save_minutes,
            stop_after,
            devices.on_any_machine(self.strategy),
        )
        if not self.chief:
            return [logs, self.shadow, validation, save]
        schedule, per_epoch = make_schedule(recipe, plan), plan.steps_per_epoch
        history = reporting.HistoryFile(
            self.out / reporting.HISTORY_FILE,
            recipe.batch_size * per_epoch,
            epoch,
            lambda epoch: float(schedule((epoch + 1) * per_epoch - 1)),
        )
        board = keras.callbacks.TensorBoard(str(self.out / "tensorboard"), write_graph=False, profile_batch=0)
        bar = reporting.ProgressBar(plan, recipe.batch_size, step)
        return [logs, self.shadow, validation, bar, history, board, save]

    def _save_best(self) -> None:
        reporting.refuse_vanished(self.out)
        self.cascade.save_to_preset(self.out / BEST)

    def finish(self) -> DynamicVisionTransformer:
        """Saves the model, with thresholds from the images held out and figures from the test split."""
        if self.recipe.choose_by == "best":
            chosen = DynamicVisionTransformer.from_preset(self.out / BEST)
            assign_state(self.cascade, state_of(chosen), str(self.out / BEST))
        else:
            self.shadow.put_into_model()
        self.cascade.save_to_preset(self.out / MODEL)
        reporting.plot_history(self.out / reporting.HISTORY_FILE, self.out / reporting.CURVES_FILE)
        # Read back in float32, as it will be used: thresholds chosen at the training precision would be slightly off.
        finished = DynamicVisionTransformer.from_preset(self.out / MODEL)
        complete_card(finished, self.recipe, self.data, self.found)
        finished.save_to_preset(self.out / MODEL)
        return finished


def make_trainer(
    recipe: Recipe, classes: tuple[str, ...], plan: Plan, strategy: tf.distribute.Strategy, start_from: str = ""
) -> CascadeTrainer:
    """The compiled model of a recipe, with fresh weights.

    Args:
        classes: what the data calls them.
        start_from: whose architecture it has where the recipe says follow_start.

    Raises:
        ValueError: the recipe's number of classes is not the data's.
    """
    wanted = recipe.overrides.get("num_classes", len(classes))
    if wanted != len(classes):
        raise ValueError(f"the recipe's num_classes is {wanted}, and the data has {len(classes)} classes")
    keras.utils.set_random_seed(recipe.seed)
    with strategy.scope():
        cascade = DynamicVisionTransformer.from_preset(
            (recipe.follow_start and start_from) or recipe.preset,
            load_weights=False,
            dtype=recipe.precision,
            seed=recipe.seed,
            **{**recipe.overrides, "num_classes": len(classes)},
        )
        cascade.card = card_for(cascade.card, recipe, classes)
        cascade.remat = recipe.remat
        trainer = CascadeTrainer(
            cascade, recipe.token_loss > 0, recipe.distillation, recipe.frozen, dtype=recipe.precision
        )
        trainer.build()
        compile_trainer(trainer, make_optimizer(recipe, trainer, plan), recipe)
    return trainer


def start_weights(cascade: DynamicVisionTransformer, start_from: str) -> dict[str, Any]:
    """Gives the cascade the weights of a model of the same architecture -> what the card then says of its origin.

    Where the classes are others, the heads stay as they are.

    Raises:
        ValueError: no such model, or its weights do not fit.
    """
    origin = DynamicVisionTransformer.from_preset(start_from)
    state = state_of(origin)
    if origin.card["class_names"] != cascade.card["class_names"]:
        state |= {name: value for name, value in state_of(cascade).items() if of_a_head(name)}
    assign_state(cascade, state, f"--start-from {start_from}")
    return {"started_from": origin.card["provenance"], "started_from_weights": weights_digest(origin)}


def complete_card(model: DynamicVisionTransformer, recipe: Recipe, data: str, found: TrainingData) -> None:
    """Sets the card's thresholds from the images held out, and its figures from the test split."""
    where, split = (data, "train, held out") if recipe.held_out else (data, "val")
    held_out = exit_results(model, found.validation(model.card, _BATCH, recipe.test_images), data=where, split=split)
    best = cheapest_within(held_out.confidences, held_out.correct, held_out.gmacs, MAX_DROP)
    method = f"cheapest that loses at most {100 * MAX_DROP:g} points against the last exit"
    model.card = calibrated(model.card, chosen(held_out, best, method), held_out)
    left_out: list[str] = []
    try:
        batches = datasets.load(data, "test", model.card, _BATCH, left_out.extend, recipe.test_images)
        scored = exit_results(model, batches)
    except (ValueError, FileNotFoundError) as error:
        print(f"training.train: the model's card has no figures of a test split ({error})", file=sys.stderr)
        return
    figures = {"data": f"{data}@test", **summary(scored, model.card)}
    if left_out:
        figures["left_out"] = sorted(set(map(on_one_line, left_out)))
    model.card = {**model.card, "figures": figures}


def provenance(recipe: Recipe, data: str) -> dict[str, Any]:
    """Where weights come from, for the card."""
    return {
        "trained_by": "python -m training.train",
        "data": data,
        "recipe": dataclasses.asdict(recipe),
        "versions": reporting.versions(),
        "license": "Apache-2.0",
    }


def card_for(card: dict[str, Any], recipe: Recipe, classes: tuple[str, ...]) -> dict[str, Any]:
    """A card with the recipe's preprocessing and, unless it knows the data's classes by name or id, with these."""
    card = {**card, "preprocessing": {**card["preprocessing"], **recipe.preprocessing}}
    if set(classes) in (set(card["class_names"]), set(card.get("class_ids", ()))):
        return card
    return {**{key: value for key, value in card.items() if key != "class_ids"}, "class_names": list(classes)}


def _identity(data: str, found: TrainingData) -> dict[str, Any]:
    """What data must have in common with those that a run began with; where they lie is no part of it."""
    classes = hashlib.sha256("\n".join(found.classes).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return {"kind": datasets.parse_spec(data).kind, "training_images": found.count, "classes": classes}
