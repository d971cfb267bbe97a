"""Rebuilds the weights and inputs of the parity fixtures, which are rules and not data."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dvt_tf.layers.position_embedding import sinusoid_table

FIXTURES = Path(__file__).parent / "fixtures"


def load_fixture(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description of a fixture, and what the published code computed."""
    description = json.loads((FIXTURES / f"{name}.json").read_text())
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        return description, dict(arrays)


def make_parameter(name: str, shape: list[int], kind: str, seed: int) -> np.ndarray:
    """One entry of the published state, drawn from its name."""
    if kind == "sinusoid":
        return sinusoid_table(*shape[1:])[None]
    normal = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    made = {
        "linear": lambda: normal / np.sqrt(fan_in),
        "linear_small": lambda: 0.3 * normal / np.sqrt(fan_in),
        "bias": lambda: 0.05 * normal,
        "norm_weight": lambda: 1 + 0.1 * normal,
        "embed": lambda: 0.2 * normal,
        "performer_features": lambda: normal,
    }[kind]()
    return made.astype(np.float32)


def make_state(description: dict[str, Any]) -> dict[str, np.ndarray]:
    """The published state dict of a fixture."""
    return {
        name: make_parameter(name, shape, kind, description["weight_seed"])
        for name, shape, kind in description["parameters"]
    }


def make_images(description: dict[str, Any]) -> np.ndarray:
    """(2, 224, 224, 3) float32, already normalised."""
    draw = np.random.RandomState(description["input_seed"]).standard_normal((2, 3, 224, 224)).astype(np.float32)
    return draw.transpose(0, 2, 3, 1)
