"""A recipe: every choice of a training run, read from a TOML file and checked field by field."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        preset: the cascade, a preset's name.
        overrides: fields of its `CascadeConfig` to change.
        seed: of the initial weights, the data and stochastic depth.
        images: training images seen in all.
        batch_size: of all replicas together.
        steps_per_epoch: steps between two checkpoints and two rows of history.csv.
        precision: `float32` or `mixed_bfloat16`.
        optimizer: `adamw`.
        learning_rate: at its peak, after warm-up.
        final_learning_rate: at the end of the cosine.
        warmup_images: images over which the learning rate rises from 0.
        weight_decay: decoupled, on matrices only: not on biases, norms, class token and position embeddings.
        beta_2: of AdamW.
        clip_norm: global norm above which gradients are scaled down; 0 for never.
        ema_decay: of the shadow weights that are validated and saved; reached gradually.
        label_smoothing: of the exits' cross-entropies.
        token_loss: weight of the token-labelling loss (Jiang et al., 2021, arXiv 2104.10858); 0 leaves it out.
        distillation: weight of each earlier exit's cross-entropy against the last exit's probabilities.
        curriculum_images: images over which scenes go from large digits with little clutter to all of them.
        curriculum_min_size: smallest digit at the start, pixels.
        curriculum_clutter: most clutter at the start, 0 to 1.
        validate_every: epochs between two validations of the shadow weights.
        validation_images: how many of the val split.
    """

    preset: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    images: int = 1_000_000
    batch_size: int = 64
    steps_per_epoch: int = 250
    precision: str = "float32"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_images: int = 20_000
    weight_decay: float = 0.05
    beta_2: float = 0.99
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    label_smoothing: float = 0.0
    token_loss: float = 0.0
    distillation: float = 0.0
    curriculum_images: int = 0
    curriculum_min_size: float = 60.0
    curriculum_clutter: float = 0.25
    validate_every: int = 4
    validation_images: int = 1000

    def __post_init__(self) -> None:
        for field in ("images", "batch_size", "steps_per_epoch", "validate_every", "validation_images"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"recipe field {field} must be a whole number of at least 1, not {value!r}")
        for field in ("learning_rate", "ema_decay"):
            if not 0 < getattr(self, field) < 1:
                raise ValueError(f"recipe field {field} must be between 0 and 1, not {getattr(self, field)!r}")
        for field in (
            "weight_decay",
            "token_loss",
            "distillation",
            "clip_norm",
            "label_smoothing",
            "curriculum_images",
        ):
            if getattr(self, field) < 0:
                raise ValueError(f"recipe field {field} must not be negative, but is {getattr(self, field)!r}")
        for field, choices in (("precision", ("float32", "mixed_bfloat16")), ("optimizer", ("adamw",))):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"recipe field {field} must be one of {', '.join(choices)}, not {getattr(self, field)!r}"
                )

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run, a whole number of epochs."""
        per_epoch = self.batch_size * self.steps_per_epoch
        return max(1, round(self.images / per_epoch)) * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of `steps_per_epoch` steps."""
        return self.steps // self.steps_per_epoch


def load_recipe(name_or_path: str, smoke: bool = False) -> Recipe:
    """The recipe of that name under training/recipes, or of a TOML file; with `smoke`, its [smoke] table laid over it.

    Raises:
        ValueError: no such recipe, not TOML, or a field that a recipe does not have or that is out of range.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"no recipe {name_or_path!r}; there are {names}, or give the path of a .toml file")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {path} is not valid TOML: {error}") from error
    smoke_fields = fields.pop("smoke", {})
    if smoke:
        fields.update(smoke_fields)
    known = [field.name for field in dataclasses.fields(Recipe)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"recipe {path} has unknown field {', '.join(unknown)}; the fields are {', '.join(known)}")
    if "preset" not in fields:
        raise ValueError(f"recipe {path} names no preset")
    try:
        return Recipe(**fields)
    except TypeError as error:
        raise ValueError(f"recipe {path} has a field with the wrong kind of value: {error}") from error
