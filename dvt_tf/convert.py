"""Published checkpoints to model folders: weights strictly by name and shape, and a card that says whose they are."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import check_folder
from dvt_tf.cost import count_parameters
from dvt_tf.exit_rule import NEVER
from dvt_tf.presets import PRESETS, CascadeConfig, get_preset
from dvt_tf.published import check_published_state, load_published_weights, start_from_single
from dvt_tf.torch_files import WEIGHTS, TorchCheckpoint, read_checkpoint

# What the card's thresholds may lose of the last exit's top-1, in points.
MAX_DROP = 0.2
START = "a starting point for training, not a trained cascade"


class Conversion(NamedTuple):
    """What became of a checkpoint: the model as it was written, and whether it is only a start for training."""

    checkpoint: TorchCheckpoint
    model: DynamicVisionTransformer
    is_start: bool


def convert(
    checkpoint: Path, preset: str, out: Path, weights: str | None = None, token_grid: int | None = None
) -> Conversion:
    """Writes the model folder of a PyTorch checkpoint, whole or not at all.

    Args:
        checkpoint: see `read_checkpoint`.
        preset: name of the architecture. A single Transformer's weights for a cascade's preset start every one of its
            Transformers.
        out: the folder: new, empty, or an older model, which is replaced.
        weights: `"ema"` or `"raw"`; by default the shadow weights where there are any.
        token_grid: for a preset of one Transformer, its tokens a side where they are not the preset's.

    Raises:
        FileNotFoundError: no such checkpoint. ValueError: anything that does not fit; nothing is written then.
    """
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"--weights must be {' or '.join(WEIGHTS)}, not {weights!r}")
    _overrides(preset, token_grid)
    check_folder(out)
    return convert_checkpoint(read_checkpoint(checkpoint, weights), preset, out, token_grid)


def convert_checkpoint(
    checkpoint: TorchCheckpoint, preset: str, out: Path, token_grid: int | None = None
) -> Conversion:
    """As `convert`, of a checkpoint that has been read."""
    model = DynamicVisionTransformer.from_preset(preset, load_weights=False, **_overrides(preset, token_grid))
    is_start = model.num_exits > 1 and "cls_token" in checkpoint.state
    _load(model, checkpoint, is_start)
    card = {**model.card, "provenance": _provenance(checkpoint, model.card)}
    if is_start:
        card["description"] = card["provenance"]["use"] = START
    else:
        published = published_figures(checkpoint.figures, model.num_exits, str(checkpoint.path))
        card["thresholds"] = choose_thresholds(published, model.num_exits)
        if published:
            card["published"] = published
    model.card = card
    model.save_to_preset(out)
    return Conversion(checkpoint, model, is_start)


def _overrides(preset: str, token_grid: int | None) -> dict[str, Any]:
    config = get_preset(preset).config
    if token_grid is None:
        return {}
    if config.num_exits > 1:
        raise ValueError(f"--token-grid is for a single Transformer, and preset {preset} has {config.num_exits}")
    dataclasses.replace(config, token_grids=(token_grid,))  # raises where there is no such grid
    return {"token_grids": (token_grid,)}


def _load(model: DynamicVisionTransformer, checkpoint: TorchCheckpoint, is_start: bool) -> None:
    """Loads the weights; where they do not fit, the message says what they do fit."""
    source = f"{checkpoint.path} ({checkpoint.entry})" if checkpoint.entry else str(checkpoint.path)
    try:
        if is_start:
            start_from_single(model, checkpoint.state, f"{source}, a single Transformer,")
        else:
            load_published_weights(model, checkpoint.state, source)
    except ValueError as error:
        fitting = _fitting_preset(checkpoint.state, model.config)
        if fitting is None:
            raise
        raise ValueError(f"{error}; it fits {fitting}") from error


def _fitting_preset(state: Mapping[str, np.ndarray], tried: CascadeConfig) -> str | None:
    """The options that name what has exactly these names and shapes, if another preset or token grid does."""
    size = sum(array.size for array in state.values())
    for options, config in _candidates():
        try:
            # Building a model takes seconds; counting its weights does not.
            if config == tried or _published_size(config) != size:
                continue
            check_published_state(DynamicVisionTransformer(config), state)
        except ValueError:  # other weights, or no model: 224 pixels do not make 3 patches a side
            continue
        return options
    return None


def _candidates() -> Iterator[tuple[str, CascadeConfig]]:
    """Every preset, and those of one Transformer with each grid that a cascade has; by the options that name them."""
    grids = sorted({grid for preset in PRESETS.values() for grid in preset.config.token_grids})
    for name, preset in PRESETS.items():
        yield f"--preset {name}", preset.config
        for grid in grids if preset.config.num_exits == 1 else ():
            try:
                yield f"--preset {name} --token-grid {grid}", dataclasses.replace(preset.config, token_grids=(grid,))
            except ValueError:  # no such grid for its images
                continue


def _published_size(config: CascadeConfig) -> int:
    """Numbers in a published state, which stores the position tables too."""
    stores_tables = config.position_embedding == "sinusoid"
    tables = sum(1 + grid**2 for grid in config.token_grids) * config.dim
    return count_parameters(config) + (tables if stores_tables else 0)


def _provenance(checkpoint: TorchCheckpoint, card: dict[str, Any]) -> dict[str, Any]:
    pixels = card["preprocessing"]
    return {
        "checkpoint": checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "entry": checkpoint.entry,
        "weights": checkpoint.weights,
        "converted_by": f"dvt_tf {importlib.metadata.version('dvt-tf')}",
        "pixels": f"preprocessed as DVT's published evaluation does: short side {pixels['resize_short_side']}, "
        f"centre crop {pixels['image_size']}, {pixels['interpolation']}",
    }


def published_figures(figures: Mapping[str, np.ndarray], num_exits: int, source: str) -> dict[str, Any]:
    """The figures of a published checkpoint as plain JSON values; those that it lacks are absent.

    Returns:
        `gflops` and `top1` (percent), one per exit; `thresholds`, one row (num_exits - 1,) per setting; `curve`, a pair
        of mean GFLOPs and top-1 (percent) per setting.

    Raises:
        ValueError: one has another shape than that, or values that make no sense.
    """
    published: dict[str, Any] = {}
    for key, name in (("gflops", "flops"), ("top1", "anytime_classification")):
        if name in figures:
            _check_shape(figures[name], (num_exits,), f"{source}: {name}")
            _check_values(figures[name], f"{source}: {name}")
            published[key] = figures[name].tolist()
    settings: int | None = None
    if "dynamic_threshold" in figures:
        table, name = figures["dynamic_threshold"], f"{source}: dynamic_threshold"
        settings = len(table) if table.ndim else 0
        _check_shape(table, (settings, num_exits), name)
        # 1e8 stands for never; the last exit takes whatever is left, so its column says nothing.
        kept = np.where(table > 1, NEVER, table)[:, :-1]
        _check_values(kept, name)
        published["thresholds"] = kept.tolist()
    if "budgeted_batch_classification" in figures:
        curve, name = figures["budgeted_batch_classification"], f"{source}: budgeted_batch_classification"
        _check_shape(curve, (2, curve.shape[-1] if settings is None and curve.ndim else settings or 0), name)
        _check_values(curve, name)
        published["curve"] = curve.T.tolist()
    return published


def _check_shape(values: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} is {values.shape} and should be {shape}")


def _check_values(values: np.ndarray, name: str) -> None:
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"{name} must be finite numbers of at least 0")


def choose_thresholds(published: Mapping[str, Any], num_exits: int) -> dict[str, Any]:
    """The card's thresholds: the cheapest published setting within `MAX_DROP` points of the last exit, or never."""
    never = {"values": [NEVER] * (num_exits - 1), "method": "none", "data": ""}
    if not {"thresholds", "curve", "top1"} <= published.keys():
        return never
    count, last = len(published["curve"]), published["top1"][-1]
    wanted = f"within {MAX_DROP} points of the last exit's {last:.2f} %"
    near = [i for i, (_, top1) in enumerate(published["curve"]) if top1 >= last - MAX_DROP - 1e-9]
    if not near:
        return {**never, "method": f"never: none of the {count} published settings is {wanted}"}
    chosen = min(near, key=lambda i: published["curve"][i][0])
    gflops, top1 = published["curve"][chosen]
    setting = f"setting {chosen + 1} of {count}, {top1:.2f} % at {gflops:.3g} GFLOPs"
    return {
        "values": published["thresholds"][chosen],
        "method": f"published {setting}: the cheapest {wanted}",
        "data": "the checkpoint's; the published program chooses on training images and scores on ImageNet's val split",
    }
