"""Checkpoints as the published programs write them, of any architecture, and the small presets they are for."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights
from dvt_tf.layers.position_embedding import sinusoid_table
from dvt_tf.presets import PRESETS, CascadeConfig, Preset
from dvt_tf.published import PUBLISHED_TRANSFORMERS, load_published_weights, published_weight
from dvt_tf.torch_files import TorchCheckpoint
from tests.cascades import random_images, small_config

T2T: dict[str, Any] = {
    "embedding": "tokens_to_token",
    "position_embedding": "sinusoid",
    "qkv_bias": False,
    "performer_dim": 6,
    "performer_features": 4,
}
SETTINGS = 59
# By name: two kinds of cascade, one of them in two depths, and a single Transformer of each.
SMALL_PRESETS = {
    "small_t2t": small_config(**T2T),
    "small_t2t_deep": small_config(**T2T, depth=3),
    "small_t2t_single": small_config(**T2T, token_grids=(4,)),
    "small_patch": small_config(),
    "small_patch_single": small_config(token_grids=(4,)),
}


def add_small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `SMALL_PRESETS` known to everything that takes a preset's name."""
    preprocessing = {
        "image_size": 28,
        "resize_short_side": 32,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    for name, config in SMALL_PRESETS.items():
        monkeypatch.setitem(PRESETS, name, Preset(config, preprocessing, name, class_names=tuple("abcdefg")))


def require_torch() -> Any:
    """PyTorch; without it the test is skipped, or fails where `CI` is set and `.ci/run` has installed it."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        message = "no PyTorch: make setup PYTORCH=1"
        if os.environ.get("CI") and sys.version_info[:2] == (3, 11):
            pytest.fail(message)
        pytest.skip(message)


def published_state(config: CascadeConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the published names and in the published layouts."""
    return {name: value.copy() for name, value in _published_state(config, seed).items()}


@functools.cache
def _published_state(config: CascadeConfig, seed: int) -> dict[str, np.ndarray]:
    model, random = DynamicVisionTransformer(config), np.random.default_rng(seed)
    model.build()
    transformers = ("",) if config.num_exits == 1 else PUBLISHED_TRANSFORMERS[: config.num_exits]
    state = {}
    for name, weight in named_weights(model):
        theirs = published_weight(name, tuple(weight.shape), config, transformers)
        normal = random.standard_normal(theirs.shape)
        if len(theirs.shape) > 1:
            value = normal / np.sqrt(np.prod(theirs.shape[1:]))
        else:
            value = 1 + 0.2 * normal if name.endswith("gamma") else 0.3 * normal
        state[theirs.name] = value.astype(np.float32)
    if config.position_embedding == "sinusoid":
        for transformer, grid in zip(transformers, config.token_grids, strict=True):
            name = f"{transformer}.pos_embed" if transformer else "pos_embed"
            state[name] = sinusoid_table(1 + grid**2, config.dim)[None]
    return state


def figures() -> dict[str, Any]:
    """What the published file holds beside its weights, in lists and one array; setting 39 of 59 is to be chosen.

    Accuracy rises by 0.01 points a setting to 80, which the last exit has; cost rises too. The first exit of the last
    five settings takes no image.
    """
    thresholds = np.stack([np.linspace(0.3, 0.99, SETTINGS), np.linspace(0.2, 0.9, SETTINGS), [-1e8] * SETTINGS], 1)
    thresholds[-5:, 0] = 1e8
    steps = np.arange(1, SETTINGS + 1)
    return {
        "flops": [0.5, 1.5, 3.5],
        "anytime_classification": [70.0, 75.0, 80.0],
        "dynamic_threshold": thresholds.astype(np.float32),
        "budgeted_batch_classification": [(0.5 + steps / 20).tolist(), (80 - (SETTINGS - steps) / 100 + 0.0).tolist()],
    }


def checkpoint(state: dict[str, np.ndarray], path: str = "file.pth.tar", **found: Any) -> TorchCheckpoint:
    """What reading a file gives, without a file: `found` are figures."""
    arrays = {name: np.asarray(value, np.float64) for name, value in found.items()}
    return TorchCheckpoint(Path(path), "0" * 64, "model_state_dict", "raw", state, arrays)


def as_tensors(torch: Any, state: dict[str, np.ndarray], prefix: str = "") -> dict[str, Any]:
    """A state dict as PyTorch has it."""
    return {prefix + name: torch.from_numpy(value.copy()) for name, value in state.items()}


def save_published(torch: Any, path: Path, state: dict[str, np.ndarray], **found: Any) -> None:
    """Writes a file of the layout of the published one."""
    if "dynamic_threshold" in found:
        found["dynamic_threshold"] = torch.tensor(found["dynamic_threshold"])
    torch.save({"model_state_dict": as_tensors(torch, state), **found}, path)


def reference(config: CascadeConfig, state: dict[str, np.ndarray]) -> DynamicVisionTransformer:
    """A cascade with weights under their published names."""
    model = DynamicVisionTransformer(config)
    load_published_weights(model, state)
    return model


def logits(model: DynamicVisionTransformer) -> list[np.ndarray]:
    """Of every exit, for the same two images."""
    return [value.numpy() for value in model(random_images(2)).values()]


def without(name: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """A change of a checkpoint: it lacks this weight."""
    return lambda state: {key: value for key, value in state.items() if key != name}
