"""Every public layer comes back from its configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tensorflow import keras

from dvt_tf import layers
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.vision_transformer import VisionTransformer
from tests.cascades import small_config

# No argument at its default, so that a forgotten one shows.
MADE = {
    layers.Attention: {"num_heads": 3, "qkv_bias": False, "init": "glorot"},
    layers.DropPath: {"rate": 0.25},
    layers.FeatureReuse: {"source": 2, "target": 3, "hidden": 7, "out": 5, "norm_epsilon": 1e-3, "init": "glorot"},
    layers.GridResize: {"source": 2, "target": 3, "axes": 2},
    layers.LayerNorm: {"epsilon": 1e-5},
    layers.Linear: {"units": 5, "use_bias": False},
    layers.MLP: {"hidden": 7, "out": 5, "init": "glorot"},
    layers.PatchEmbedding: {"image_size": 28, "grid": 3, "dim": 4},
    layers.Performer: {
        "dim": 8,
        "random_features": 3,
        "norm_epsilon": 1e-3,
        "dropout_rate": 0.25,
        "init": "glorot",
    },
    layers.PositionEmbedding: {"grid": 3, "dim": 8, "kind": "sinusoid", "init": "sinusoid_2d"},
    layers.PositiveRandomFeatures: {"count": 3},
    layers.RelationshipReuse: {"source": 2, "target": 3, "hidden": 11, "num_blocks": 2, "num_heads": 3},
    layers.StatelessDropout: {"rate": 0.25},
    layers.TokensToToken: {
        "image_size": 28,
        "splits": [[5, 3, 2], [3, 2, 1], [3, 2, 1]],
        "dim": 4,
        "performer_dim": 8,
        "random_features": 3,
        "norm_epsilon": 1e-3,
        "dropout_rate": 0.25,
        "init": "glorot",
    },
    layers.TransformerBlock: {
        "num_heads": 3,
        "mlp_dim": 7,
        "qkv_bias": False,
        "norm_epsilon": 1e-3,
        "reuse_dim": 4,
        "drop_path_rate": 0.25,
        "init": "glorot",
    },
    VisionTransformer: {"config": small_config(depth=3, drop_path_rate=0.2, feature_reuse="deep"), "index": 1},
}


def test_every_public_layer_is_here() -> None:
    assert {layer.__name__ for layer in MADE} == {*layers.__all__, "VisionTransformer"}


@pytest.mark.parametrize("kind", list(MADE), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [None, "float32", "mixed_bfloat16"])
def test_a_layer_comes_back_from_its_configuration(kind: Any, dtype: str | None) -> None:
    layer = kind(**MADE[kind], dtype=dtype, name="some_name")
    config = layer.get_config()
    json.dumps(config)
    again = kind.from_config(config)
    assert again.get_config() == config
    assert again.name == "some_name"
    assert again.compute_dtype == layer.compute_dtype == ("bfloat16" if dtype == "mixed_bfloat16" else "float32")
    for argument, value in MADE[kind].items():
        assert getattr(again, argument) == value


@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
def test_the_cascade_comes_back_from_its_configuration(dtype: str | None) -> None:
    card = {"class_names": ["a"], "thresholds": {"values": [0.25, 2.0]}}
    model = DynamicVisionTransformer(small_config(depth=3), card=card, seed=5, name="some_name", dtype=dtype)
    config = model.get_config()
    json.dumps(config)
    again = DynamicVisionTransformer.from_config(config)
    assert again.get_config() == config
    assert (again.config, again.card, again.seed, again.name) == (model.config, card, 5, "some_name")
    assert again.compute_dtype == model.compute_dtype
    assert again.transformers[1].compute_dtype == model.compute_dtype
    again.card["class_names"].append("b")
    assert model.card["class_names"] == ["a"]


def test_the_cascade_comes_back_through_keras_own_serialisation() -> None:
    model = DynamicVisionTransformer(small_config(), name="some_name")
    again = keras.utils.deserialize_keras_object(keras.utils.serialize_keras_object(model))
    assert isinstance(again, DynamicVisionTransformer)
    assert again.config == model.config
