"""A recipe: every choice of a training run, read from a TOML file and checked field by field."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvt_tf.presets import CascadeConfig
from training.augment import Augmentation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"
PREPROCESSING = ("resize_short_side", "interpolation", "mean", "std")
# The two ways to say how long something is.
LENGTHS = (("images", "epochs"), ("warmup_images", "warmup_epochs"))

_LARGEST_SEED = 2**31 - 1  # TensorFlow's stateless random numbers take int32

_CHOICES = {
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "optimizer": ("adamw", "sgd", "lamb"),
    "step_every": ("step", "epoch"),
    "weight_decay_of": ("matrices", "all"),
    "choose_by": ("last", "best"),
}
_AT_LEAST_1: tuple[str, ...] = ("batch_size", "repeated_augmentation", "validate_every")
_AT_LEAST_0: tuple[str, ...] = (
    "seed",
    "images",
    "epochs",
    "cooldown_epochs",
    "steps_per_epoch",
    "learning_rate_batch",
    "warmup_images",
    "warmup_epochs",
    "curriculum_images",
    "validation_images",
    "test_images",
)
_NUMBERS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("learning_rate", "beta_2"), lambda value: 0 < value < 1, "between 0 and 1"),
    (("ema_decay", "momentum", "held_out"), lambda value: 0 <= value < 1, "of at least 0 and below 1"),
    (("curriculum_clutter", "max_damaged"), lambda value: 0 <= value <= 1, "from 0 to 1"),
    (("body_learning_rate_scale",), lambda value: 0 < value <= 1, "above 0 and at most 1"),
    (("epsilon", "curriculum_min_size"), lambda value: value > 0, "above 0"),
    (
        ("warmup_learning_rate", "final_learning_rate", "weight_decay", "clip_norm", "token_loss", "distillation"),
        lambda value: value >= 0,
        "of at least 0",
    ),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    An epoch is one pass over the training images, without those that do not fill a batch, or `steps_per_epoch` steps
    where that is given. After every epoch the run is saved and history.csv has a row more.

    Args:
        preset: the cascade, a preset's name.
        overrides: fields of its `CascadeConfig` to change.
        follow_start: whether the cascade is that of the model that --start-from names, where one is named.
        data: SPEC of what to train on where the command names none; "" if it has to.
        preprocessing: entries of the card's preprocessing to change: resize_short_side, interpolation, mean, std.
        seed: of the initial weights, the data and stochastic depth.
        images: training images seen in all, rounded to whole epochs; or else
        epochs: how many until the learning rate has reached its end. One of these two is given.
        cooldown_epochs: more of them, at the final learning rate.
        batch_size: of all replicas together.
        steps_per_epoch: steps of an epoch; 0 for a pass over the training images.
        held_out: share of the training images that is not trained on but validated on, so that nothing is chosen by
            the images that the result is reported of.
        max_damaged: share of the training images that may be damaged: these are named in the log, and another image of
            the batch takes the place of each. Beyond it the run stops.
        precision: `float32`, `mixed_bfloat16` or `mixed_float16`.
        remat: whether the backward pass computes again what lies inside the blocks, the embedding and the mixing of
            relationships, for the memory of keeping it (Chen et al., 2016, arXiv 1604.06174). The gradients are the
            same, so that a resumed run may change it.
        optimizer: `adamw`, `sgd` (with momentum) or `lamb`.
        momentum: of SGD.
        beta_2: of AdamW and LAMB.
        epsilon: of AdamW and LAMB; Keras's AdamW adds it before the second moment is corrected for its start.
        learning_rate: at its peak, after warm-up.
        learning_rate_batch: the batch size that `learning_rate` is meant for: it is scaled by batch_size over this
            (Goyal et al., 2017, arXiv 1706.02677); 0 takes it as it is.
        body_learning_rate_scale: peak of everything but the heads, as a multiple of theirs; both begin warm-up and end
            at the same rate. Of SGD.
        warmup_learning_rate: what warm-up begins at.
        final_learning_rate: at the end of the cosine.
        warmup_images: images over which the learning rate rises in a straight line; or else
        warmup_epochs: how many.
        step_every: `step` or `epoch`: how often the rate changes. By epochs, the first one trains at
            `warmup_learning_rate`; by steps, the first one is already a step above it.
        cosine_over_warmup: whether the cosine is counted from the first step, its beginning hidden under the warm-up
            (as in timm), or from the end of warm-up.
        weight_decay: decoupled for AdamW; part of the update whose length LAMB fits to the weights'; added to the
            gradient for SGD.
        weight_decay_of: `matrices`, for all but biases, norms, class token and position embeddings; or `all`.
        frozen: weights that are never updated: names in the model's file or their beginnings, such as
            `transformers.*.norm`, * being any one part between two dots.
        clip_norm: global norm above which gradients are scaled down; 0 for never.
        ema_decay: of the shadow weights that are validated and saved; 0 validates and saves the weights themselves.
        ema_warmup: whether that decay is reached gradually, as short runs need it.
        augmentation: the table [augmentation]; its fields are those of `training.augment.Augmentation`.
        repeated_augmentation: times that each image of a batch is in it, augmented anew; an epoch has as many steps
            for any number, and so fewer different images (Hoffer et al., 2020, arXiv 1901.09335).
        token_loss: weight of the token-labelling loss (Jiang et al., 2021, arXiv 2104.10858); 0 leaves it out.
        distillation: weight of each earlier exit's cross-entropy against the last exit's probabilities.
        curriculum_images: images over which scenes go from large digits with little clutter to all of them.
        curriculum_min_size: smallest digit at the start, pixels.
        curriculum_clutter: most clutter at the start, 0 to 1.
        validate_every: epochs between two validations of the shadow weights.
        validation_images: how many of the held-out images, or of the val split; 0 for all.
        test_images: how many images the finished model is scored on, and how many its thresholds are chosen on; 0 for
            all of the test split, and all that are held out.
        choose_by: `last` keeps the model of the last epoch, `best` that of the epoch whose last exit was best in
            validation.

    Raises:
        ValueError: a field is out of range or does not go with another; the message names it and what it may be.
    """

    preset: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    follow_start: bool = False
    data: str = "digits"
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    images: int = 0
    epochs: int = 0
    cooldown_epochs: int = 0
    batch_size: int = 64
    steps_per_epoch: int = 0
    held_out: float = 0.0
    max_damaged: float = 0.01
    precision: str = "float32"
    remat: bool = False
    optimizer: str = "adamw"
    momentum: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-7
    learning_rate: float = 1e-3
    learning_rate_batch: int = 0
    body_learning_rate_scale: float = 1.0
    warmup_learning_rate: float = 0.0
    final_learning_rate: float = 1e-5
    warmup_images: int = 0
    warmup_epochs: int = 0
    step_every: str = "step"
    cosine_over_warmup: bool = False
    weight_decay: float = 0.05
    weight_decay_of: str = "matrices"
    frozen: tuple[str, ...] = ()
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    ema_warmup: bool = True
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    repeated_augmentation: int = 1
    token_loss: float = 0.0
    distillation: float = 0.0
    curriculum_images: int = 0
    curriculum_min_size: float = 60.0
    curriculum_clutter: float = 0.25
    validate_every: int = 4
    validation_images: int = 1000
    test_images: int = 0
    choose_by: str = "last"

    def __post_init__(self) -> None:
        self._check_kinds()
        for fields, lowest in ((_AT_LEAST_1, 1), (_AT_LEAST_0, 0)):
            for field in fields:
                value = getattr(self, field)
                if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                    raise _fault(field, f"a whole number of at least {lowest}", value)
        if self.seed > _LARGEST_SEED:
            raise _fault("seed", f"at most {_LARGEST_SEED}", self.seed)
        for fields, holds, wanted in _NUMBERS:
            for field in fields:
                value = getattr(self, field)
                if isinstance(value, bool) or not isinstance(value, int | float) or not _finite_and(holds, value):
                    raise _fault(field, f"a number {wanted}", value)
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise _fault(field, f"one of {', '.join(choices)}", getattr(self, field))
        self._check_together()

    def _check_kinds(self) -> None:
        if not (isinstance(self.preset, str) and self.preset):
            raise _fault("preset", "the name of a preset", self.preset)
        if not isinstance(self.data, str):
            raise _fault("data", 'a SPEC such as digits or folder:PATH, or ""', self.data)
        for field in ("follow_start", "remat", "cosine_over_warmup", "ema_warmup"):
            if not isinstance(getattr(self, field), bool):
                raise _fault(field, "true or false", getattr(self, field))
        names = self.frozen
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            raise _fault("frozen", "a list of names of weights, such as transformers.*.norm", names)
        object.__setattr__(self, "frozen", tuple(names))
        for field, known in (("overrides", _names_of(CascadeConfig)), ("preprocessing", PREPROCESSING)):
            if not isinstance(getattr(self, field), dict):
                raise _fault(field, "a table", getattr(self, field))
            _check_names(getattr(self, field), known, f"recipe table [{field}]")
        if not isinstance(self.augmentation, Augmentation):
            raise _fault("augmentation", "a table", self.augmentation)

    def _check_together(self) -> None:
        for by_images, by_epochs in LENGTHS:
            if getattr(self, by_images) and getattr(self, by_epochs):
                raise ValueError(f"recipe fields {by_images} and {by_epochs} exclude each other; give one of them")
        if not (self.images or self.epochs):
            raise ValueError("recipe gives neither epochs nor images; give one of them, at least 1")
        if self.repeated_augmentation > self.batch_size:
            raise _fault("repeated_augmentation", f"at most batch_size, {self.batch_size}", self.repeated_augmentation)
        peak, described = self.peak_learning_rate, f"{self.learning_rate:g}"
        if self.learning_rate_batch:
            described += f" for a batch of {self.learning_rate_batch}, so {peak:g} for one of {self.batch_size}"
        for field in ("warmup_learning_rate", "final_learning_rate"):
            if getattr(self, field) > peak:
                raise _fault(field, f"at most learning_rate ({described})", getattr(self, field))
        if self.body_learning_rate_scale == 1:
            return
        if self.optimizer != "sgd":
            wanted = f"1 for optimizer {self.optimizer}; only sgd has rates of its own for the body"
            raise _fault("body_learning_rate_scale", wanted, self.body_learning_rate_scale)
        for field in ("warmup_learning_rate", "final_learning_rate"):
            if getattr(self, field) == peak:
                wanted = f"below learning_rate ({described}) where body_learning_rate_scale is not 1"
                raise _fault(field, wanted, getattr(self, field))
            if getattr(self, field) > self.body_learning_rate_scale * peak * (1 + 1e-9):
                wanted = f"at most the body's learning rate, {self.body_learning_rate_scale:g} x {peak:g}"
                raise _fault(field, wanted, getattr(self, field))

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, scaled to the batch size where it is meant for another."""
        return self.learning_rate * (self.batch_size / self.learning_rate_batch if self.learning_rate_batch else 1.0)


def load_recipe(name_or_path: str, smoke: bool = False, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name under training/recipes, or of a TOML file.

    Args:
        smoke: lays the recipe's [smoke] table over it.
        changes: fields to change, as `batch_size=256` or `augmentation.mixup=0`.

    Raises:
        ValueError: no such recipe, not TOML, or a field that a recipe does not have or that is out of range.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        names = sorted(p.stem for p in RECIPES.glob("*.toml"))
        hint = _nearest(name_or_path, names)
        raise ValueError(f"no recipe {name_or_path!r}{hint}; there are {', '.join(names)}, or give a .toml file")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not valid TOML: {error}") from error
    smoke_fields = fields.pop("smoke", {})
    for table, where in ((fields, f"recipe {path}"), (smoke_fields, f"recipe {path}, table [smoke],")):
        if not isinstance(table, dict):
            raise ValueError(f"{where} must be a table, not {table!r}")
        _check_names(table, _names_of(Recipe), where)
    if smoke:
        fields = _laid_over(fields, smoke_fields)
    for change in changes:
        one = _parse_change(change)
        _check_names(one, _names_of(Recipe), f"--set {change}:")
        fields = _laid_over(fields, one)
    if "preset" not in fields:
        raise ValueError(f"recipe {path} names no preset")
    try:
        augmentation = fields.get("augmentation", {})
        if isinstance(augmentation, dict):
            _check_names(augmentation, _names_of(Augmentation), "recipe table [augmentation]")
            fields["augmentation"] = Augmentation(**augmentation)
        return Recipe(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_change(text: str) -> dict[str, Any]:
    """`field=value` or `table.field=value` as nested dictionaries; a value that is no TOML is a text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"--set {text}: it takes FIELD=VALUE, such as batch_size=256")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(name.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _laid_over(fields: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with others laid over them: tables entry by entry, and one way to say a length instead of the other."""
    merged = dict(fields)
    for pair in LENGTHS:
        if any(field in above for field in pair):
            merged = {field: value for field, value in merged.items() if field not in pair}
    for field, value in above.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(field), dict)
        merged[field] = {**merged[field], **value} if both_tables else value
    return merged


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    hint = _nearest(unknown[0], known)
    if not hint and unknown[0] in _names_of(Augmentation):
        hint = " (it belongs into the table [augmentation])"
    elif not hint and unknown[0] in _names_of(CascadeConfig):
        hint = " (it belongs into the table [overrides])"
    raise ValueError(f"{where} has unknown field {unknown[0]}{hint}; the fields are {', '.join(known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _names_of(described: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(described)]


def _finite_and(holds: Callable[[float], bool], value: float) -> bool:
    return math.isfinite(value) and holds(value)


def _fault(field: str, wanted: str, value: Any) -> ValueError:
    return ValueError(f"recipe field {field} must be {wanted}, not {value!r}")
