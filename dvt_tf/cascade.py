"""DynamicVisionTransformer: the cascade as a `keras.Model` that computes every exit, for `fit`, `evaluate` and parity.

Real early exit is in `dvt_tf.adaptive`; both run the same Transformers.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf import checkpoints
from dvt_tf.presets import PRESETS, TRAINING_FIELDS, CascadeConfig, Preset, get_preset
from dvt_tf.vision_transformer import TransformerOutputs, VisionTransformer

if TYPE_CHECKING:
    from dvt_tf.optimize import FoldedCascade

PRETRAINED = Path(__file__).parent / "pretrained"


@keras.utils.register_keras_serializable(package="dvt_tf")
class DynamicVisionTransformer(keras.Model):
    """A cascade of vision Transformers with an exit after each (Wang et al., NeurIPS 2021).

    Args:
        config: the architecture, a `CascadeConfig` or its dictionary.
        card: what goes with the weights (class names, preprocessing, thresholds, provenance); see `default_card`.
        seed: the run's seed, from which stochastic depth and dropout are drawn together with the optimizer's step.

    Call: images (B, S, S, 3) float32, already normalised -> {"exit_1": (B, classes), "exit_2": ...} float32 logits.
    """

    def __init__(
        self,
        config: CascadeConfig | dict[str, Any],
        card: dict[str, Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = config if isinstance(config, CascadeConfig) else CascadeConfig.from_dict(config)
        # Kept out of Keras's attribute tracking, which would wrap the dictionary.
        self._card_holder = _Holder(copy.deepcopy(card) if card else default_card(self.config))
        self.seed = seed
        self.transformers = [
            VisionTransformer(self.config, i, dtype=self.dtype_policy, name=f"transformer_{i + 1}")
            for i in range(self.config.num_exits)
        ]

    @property
    def card(self) -> dict[str, Any]:
        """Class names, preprocessing, thresholds and how they were chosen, provenance, figures: all of config.json."""
        return self._card_holder.value

    @card.setter
    def card(self, card: dict[str, Any]) -> None:
        self._card_holder.value = card

    @property
    def remat(self) -> bool:
        """Whether training computes what lies inside the Transformers twice, not keeping it; no part of a card."""
        return self.transformers[0].remat

    @remat.setter
    def remat(self, remat: bool) -> None:
        for transformer in self.transformers:
            transformer.remat = remat

    @property
    def num_exits(self) -> int:
        """One exit per Transformer."""
        return self.config.num_exits

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # type: ignore[has-type]
            return
        size = self.config.image_size
        for transformer in self.transformers:
            if not transformer.built:
                transformer.build((None, size, size, 3))
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        # Without it Keras 2.15 leaves a model from a .keras file unbuilt, and its weights fresh.
        return {"image_size": self.config.image_size}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.build()

    def call(
        self, images: tf.Tensor, training: bool | None = None, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        outputs = self.run(images, training=training, seed=seed)
        return {f"exit_{i + 1}": out.logits for i, out in enumerate(outputs)}

    def run(
        self, images: tf.Tensor, training: bool | None = None, seed: tf.Tensor | None = None
    ) -> list[TransformerOutputs]:
        """Everything that every Transformer computes, upstream first, for those who need more than the logits.

        `seed` (2,) int32 draws stochastic depth and dropout in training; by default it comes from the run's seed and
        the step. Transformers are given one in training alone, and know it by that.
        """
        size = self.config.image_size
        if images.shape.rank != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be (batch, {size}, {size}, 3), not {tuple(images.shape)}")
        images = tf.cast(images, tf.float32)
        if not training:
            seed = None
        elif seed is None:
            seed = self.step_seed()
        outputs: list[TransformerOutputs] = []
        for i, transformer in enumerate(self.transformers):
            own_seed = None if seed is None else tf.random.experimental.stateless_fold_in(seed, i)
            outputs.append(transformer(images, upstream=outputs[-1] if outputs else None, seed=own_seed))
        return outputs

    def optimized(self, precision: str | None = None) -> FoldedCascade:
        """The cascade's folded inference form, with the weights as they are now; see `dvt_tf.optimize`.

        Args:
            precision: `"float32"` or `"bfloat16"`; by default the latter for a model under `mixed_bfloat16` alone.

        Raises:
            ValueError: another precision.
        """
        from dvt_tf.optimize import FoldedCascade  # it stands below: it folds what stands here

        own = "bfloat16" if _policy_name(self.dtype_policy) == "mixed_bfloat16" else "float32"
        return FoldedCascade(self, precision or own)

    def step_seed(self, optimizer: keras.optimizers.Optimizer | None = None) -> tf.Tensor:
        """(2,) int32: the run's seed, and the optimizer's step with the replica folded in."""
        optimizer = optimizer or getattr(self, "optimizer", None)
        step = tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.int32) if optimizer is not None else 0
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context is not None else 0
        return tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(self.seed, tf.int32), step]), replica)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "config": self.config.to_dict(),
            "card": copy.deepcopy(self.card),
            "seed": self.seed,
            "dtype": _policy_name(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DynamicVisionTransformer:
        return cls(**config)

    @classmethod
    def from_preset(
        cls, folder_or_name: str | Path, load_weights: bool = True, dtype: Any = None, seed: int = 0, **overrides: Any
    ) -> DynamicVisionTransformer:
        """A cascade from a preset's name or from a folder that `save_to_preset` wrote.

        Args:
            folder_or_name: `"dvt_tiny_digits"`, or a folder with weights.safetensors and config.json.
            load_weights: False for freshly initialised weights.
            dtype: Keras dtype policy to compute in, for example `"mixed_bfloat16"`.
            overrides: fields of `CascadeConfig` to change; with `load_weights=True` the weights must still fit.

        Raises:
            ValueError: an unknown preset or field, weights that do not fit, or a preset whose weights are not bundled.
            FileNotFoundError: a folder that lacks one of the two files.
        """
        folder, preset = find_preset(folder_or_name)
        if preset is not None and load_weights:
            _check_bundled(folder_or_name, folder)
        if preset is not None and not load_weights:
            config, card = preset.config, preset_card(str(folder_or_name), preset)
        else:
            card = checkpoints.read_card(folder)
            config = CascadeConfig.from_dict(card["config"])
            if not load_weights:
                card = _changed_card(card, config)  # fresh weights have no thresholds and figures yet
        if overrides:
            changed = CascadeConfig.from_dict({**config.to_dict(), **overrides})
            alike = dataclasses.replace(changed, **{field: getattr(config, field) for field in TRAINING_FIELDS})
            card = {**card, "config": changed.to_dict()} if alike == config else _changed_card(card, changed)
            config = changed
        model = cls(config, card=card, seed=seed, dtype=dtype)
        model.build()
        if load_weights:
            checkpoints.load_weights(model, folder / checkpoints.WEIGHTS_FILE)
        return model

    def save_to_preset(self, folder: str | Path) -> None:
        """Writes weights.safetensors (float32) and config.json, both or neither; an older pair is replaced whole."""
        self.build()
        checkpoints.save(self, Path(folder))


class _Holder:
    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value

    def __deepcopy__(self, memo: Any) -> _Holder:
        return _Holder(copy.deepcopy(self.value, memo))


def _policy_name(policy: Any) -> str:
    return str(policy.name) if hasattr(policy, "name") else str(policy)


def find_preset(folder_or_name: str | Path) -> tuple[Path, Preset | None]:
    """The folder of a model, and its preset where a name was given.

    A name of a preset wins over a folder of the same name; anything with a path separator is a folder.

    Raises:
        ValueError: neither a preset nor a folder.
    """
    name = str(folder_or_name)
    if name in PRESETS:
        return PRETRAINED / name, get_preset(name)
    folder = Path(folder_or_name)
    if folder.is_dir():
        return folder, None
    if folder.exists():
        raise ValueError(f"{name!r} is a file, not a model folder")
    if isinstance(folder_or_name, Path) or "/" in name or "\\" in name:
        raise FileNotFoundError(f"model folder {name!r} does not exist")
    get_preset(name)  # raises with the list of names
    raise AssertionError("unreachable")


def read_card_of(folder_or_name: str | Path) -> dict[str, Any]:
    """The card of a preset with bundled weights or of a model folder, without reading the weights.

    Raises:
        ValueError, FileNotFoundError: as `DynamicVisionTransformer.from_preset`, but for faults of the weights.
    """
    folder, preset = find_preset(folder_or_name)
    if preset is not None:
        _check_bundled(folder_or_name, folder)
    return checkpoints.read_card(folder)


def _check_bundled(name: str | Path, folder: Path) -> None:
    if not (folder / checkpoints.CARD_FILE).exists():
        recipe = PRESETS[str(name)].recipe
        how = (
            f"train some with `python -m training.train --recipe {recipe} --out DIR` and load DIR/model"
            if recipe
            else f"convert the published checkpoint with `dvt convert CHECKPOINT.pth.tar --preset {name} --out DIR` "
            "and load DIR"
        )
        raise ValueError(
            f"no weights are bundled for preset {str(name)!r}: {how}, or pass load_weights=False for fresh ones"
        )


def default_card(config: CascadeConfig, class_names: tuple[str, ...] = ()) -> dict[str, Any]:
    """A card for a cascade that nothing is known about: numbered classes, [-1, 1] pixels, never leaving early."""
    if len(class_names) != config.num_classes:
        class_names = tuple(f"class_{i}" for i in range(config.num_classes))
    return {
        "format_version": checkpoints.FORMAT_VERSION,
        "name": "",
        "description": "",
        "config": config.to_dict(),
        "class_names": list(class_names),
        "preprocessing": {
            "image_size": config.image_size,
            "resize_short_side": config.image_size,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "thresholds": {"values": [2.0] * (config.num_exits - 1), "method": "none", "data": ""},
        "provenance": {},
        "figures": {},
    }


def preset_card(name: str, preset: Preset) -> dict[str, Any]:
    """The card of a preset before any training."""
    card = default_card(preset.config, preset.class_names)
    card.update(name=name, description=preset.description, preprocessing=copy.deepcopy(dict(preset.preprocessing)))
    if preset.class_ids:
        card["class_ids"] = list(preset.class_ids)
    return card


def _changed_card(card: dict[str, Any], config: CascadeConfig) -> dict[str, Any]:
    card = copy.deepcopy(card)
    card["config"] = config.to_dict()
    card["provenance"], card["figures"] = {}, {}
    for key in ("published", "budgets", "guarantees"):
        card.pop(key, None)
    card["thresholds"] = {"values": [2.0] * (config.num_exits - 1), "method": "none", "data": ""}
    if len(card["class_names"]) != config.num_classes:
        card["class_names"] = [f"class_{i}" for i in range(config.num_classes)]
        card.pop("class_ids", None)
    scale = config.image_size / card["preprocessing"]["image_size"]
    card["preprocessing"]["resize_short_side"] = round(card["preprocessing"]["resize_short_side"] * scale)
    card["preprocessing"]["image_size"] = config.image_size
    return card
