"""What a configuration accepts and refuses, and what the presets say."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dvt_tf.cost import count_macs
from dvt_tf.presets import PRESETS, CascadeConfig, blocks_of, get_preset


def test_deit_small_is_the_published_architecture() -> None:
    config = get_preset("dvt_deit_small").config
    assert (config.dim, config.depth, config.num_heads, config.mlp_ratio) == (384, 12, 6, 4)
    assert (config.qkv_bias, config.norm_epsilon, config.position_embedding) == (True, 1e-6, "learned")
    assert (config.image_size, config.token_grids, config.num_classes) == (224, (7, 10, 14), 1000)
    assert (config.feature_reuse_hidden, config.feature_reuse_dim, config.mlp_dim) == (128, 48, 1536)
    assert (config.feature_reuse, config.relationship_reuse, config.relationship_source) == ("all", "all", "all")


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_agrees_with_itself(name: str) -> None:
    preset = get_preset(name)
    assert preset.preprocessing["image_size"] == preset.config.image_size
    assert preset.preprocessing["resize_short_side"] >= preset.config.image_size
    assert len(preset.preprocessing["mean"]) == len(preset.preprocessing["std"]) == 3
    assert len(preset.class_names) in (0, preset.config.num_classes)
    assert preset.description


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match="did you mean dvt_deit_small") as caught:
        get_preset("dvt_diet_small")
    assert all(name in str(caught.value) for name in PRESETS)
    with pytest.raises(ValueError, match="unknown preset 'resnet50'; the presets are"):
        get_preset("resnet50")


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_configuration_survives_json(name: str) -> None:
    config = dataclasses.replace(get_preset(name).config, feature_reuse="deep", relationship_source="shallow")
    assert CascadeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_configuration_is_frozen_and_keeps_its_own_grids() -> None:
    grids = [7, 10]
    config = CascadeConfig(token_grids=grids)  # type: ignore[arg-type]
    grids.append(14)
    assert config.token_grids == (7, 10)
    assert config.num_exits == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("token_grids", (), "token_grids is empty"),
        ("token_grids", (10, 7), "strictly increasing"),
        ("token_grids", (7, 7), "strictly increasing"),
        ("token_grids", (0, 7), "token_grids must be a whole number"),
        ("token_grids", (7.0, 10.0), "token_grids must be a whole number"),
        ("token_grids", "7", "token_grids must be a list"),
        ("token_grids", 7, "token_grids must be a list"),
        ("token_grids", (7, 300), "300"),
        ("image_size", 0, "image_size"),
        ("image_size", 224.0, "image_size"),
        ("num_classes", -1, "num_classes"),
        ("depth", True, "depth"),
        ("dim", "384", "dim"),
        ("num_heads", 5, "not a multiple of num_heads 5"),
        ("feature_reuse_dim", 0, "feature_reuse_dim"),
        ("feature_reuse_hidden", 0, "feature_reuse_hidden"),
        ("feature_reuse", "some", "feature_reuse must be one of none, shallow, deep, all"),
        ("relationship_reuse", "half", "relationship_reuse must be one of"),
        ("relationship_source", "none", "relationship_source"),
        ("relationship_source", "most", "relationship_source must be one of"),
        ("embedding", "pixels", "embedding must be one of"),
        ("position_embedding", "rotary", "position_embedding must be one of"),
        ("position_init", "zeros", "position_init must be one of"),
        ("linear_init", "zeros", "linear_init must be one of"),
        ("drop_path_rate", 1.0, "drop_path_rate"),
        ("drop_path_rate", -0.1, "drop_path_rate"),
        ("drop_path_rate", float("nan"), "drop_path_rate"),
        ("drop_path_rate", "a lot", "wrong kind"),
        ("mlp_ratio", 0.0, "mlp_ratio"),
        ("mlp_ratio", float("nan"), "mlp_ratio"),
        ("mlp_ratio", "four", "wrong kind"),
        ("norm_epsilon", 0.0, "norm_epsilon"),
        ("norm_epsilon", float("nan"), "norm_epsilon"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CascadeConfig.from_dict({**CascadeConfig().to_dict(), field: value})


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"width.*the fields are image_size"):
        CascadeConfig.from_dict({"width": 3})


@pytest.mark.parametrize("field", ["feature_reuse", "relationship_reuse", "relationship_source"])
def test_half_of_a_depth_of_one_names_no_block(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} 'shallow' names no block"):
        CascadeConfig(**{"depth": 1, field: "shallow"})  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["none", "shallow", "deep", "all"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_source_says_nothing_where_no_relationships_are_reused(depth: int, source: str) -> None:
    config = CascadeConfig(depth=depth, relationship_reuse="none", relationship_source=source)
    assert count_macs(config) == count_macs(CascadeConfig(depth=depth, relationship_reuse="none"))


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_shallow_and_deep_split_all(depth: int) -> None:
    shallow, deep = blocks_of("shallow", depth), blocks_of("deep", depth)
    assert [*shallow, *deep] == list(blocks_of("all", depth)) == list(range(depth))
    assert len(shallow) == depth // 2
    assert list(blocks_of("none", depth)) == []
