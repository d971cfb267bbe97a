"""DVT-TF: the Dynamic Vision Transformer for Keras and TensorFlow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvt_tf.adaptive import AdaptiveClassifier
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.cost import count_macs, count_parameters
    from dvt_tf.preprocessing import preprocess
    from dvt_tf.presets import CascadeConfig
    from dvt_tf.published import load_published_weights

__all__ = [
    "AdaptiveClassifier",
    "CascadeConfig",
    "DynamicVisionTransformer",
    "count_macs",
    "count_parameters",
    "load_published_weights",
    "preprocess",
]

# Imported when first asked for, so that the command can set up TensorFlow's logging before TensorFlow is imported.
_MODULES = {
    "AdaptiveClassifier": "adaptive",
    "CascadeConfig": "presets",
    "DynamicVisionTransformer": "cascade",
    "count_macs": "cost",
    "count_parameters": "cost",
    "load_published_weights": "published",
    "preprocess": "preprocessing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dvt_tf.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
