"""Small cascades with random weights, large enough that exits disagree and confidences spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights
from dvt_tf.presets import CascadeConfig

SMALL: dict[str, Any] = {
    "image_size": 28,
    "token_grids": (2, 3, 4),
    "num_classes": 7,
    "dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "feature_reuse_hidden": 6,
    "feature_reuse_dim": 5,
    "drop_path_rate": 0.0,
}

# What makes a `small_config` one of tokens-to-token, as T2T-ViT's are.
TOKENS_TO_TOKEN: dict[str, Any] = {
    "embedding": "tokens_to_token",
    "token_grids": (2, 3),
    "position_embedding": "sinusoid",
    "qkv_bias": False,
    "performer_dim": 8,
    "performer_features": 4,
}


def small_config(**fields: Any) -> CascadeConfig:
    """A configuration of a few thousand weights, with some fields changed."""
    return CascadeConfig(**{**SMALL, **fields})


def randomise(model: DynamicVisionTransformer, seed: int = 0, head: float = 2.0) -> DynamicVisionTransformer:
    """Gives every weight a random value, the zero-initialised ones too."""
    random = np.random.default_rng(seed)
    for name, weight in named_weights(model):
        shape = tuple(weight.shape)
        normal = random.standard_normal(shape)
        if name.endswith("gamma"):
            value = 1 + 0.2 * normal
        elif "kernel" in name:
            fan_in = shape[1] if "relationship" in name else int(np.prod(shape[:-1]))
            value = normal * (head if ".head." in name else 1.3) / np.sqrt(fan_in)
        else:
            value = 0.3 * normal
        weight.assign(value.astype(np.float32))
    return model


def small_cascade(seed: int = 0, head: float = 2.0, dtype: Any = None, **fields: Any) -> DynamicVisionTransformer:
    """A built cascade of `small_config(**fields)` with random weights."""
    model = DynamicVisionTransformer(small_config(**fields), dtype=dtype)
    model.build()
    return randomise(model, seed, head)


def random_images(count: int, size: int = 28, seed: int = 0) -> np.ndarray:
    """(count, size, size, 3) float32, standard normal."""
    return np.random.default_rng(seed).standard_normal((count, size, size, 3)).astype(np.float32)


def confidences_and_predictions(outputs: Mapping[str, tf.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Of a full cascade's logits {"exit_k": (B, C)}: confidences (B, K) float32 and predicted classes (B, K) int32."""
    probabilities = [tf.nn.softmax(outputs[f"exit_{k + 1}"]).numpy() for k in range(len(outputs))]
    return (
        np.stack([p.max(-1) for p in probabilities], 1).astype(np.float32),
        np.stack([p.argmax(-1) for p in probabilities], 1).astype(np.int32),
    )
