"""Multiply-accumulates against the published counts and against the graph, and the count of weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import dvt_tf
from dvt_tf.cost import PARTS, count_macs, count_parameters, itemise_macs
from dvt_tf.presets import CascadeConfig, get_preset
from tests.cascades import small_cascade, small_config

# Cumulative 10^9 multiply-accumulates of DeiT-S at exits 1, 2, 3, counted on the published code with fvcore.
DEIT_SMALL = {
    ("none", "none"): (1.1453, 3.4501, 8.0584),
    ("all", "none"): (1.1453, 3.5738, 8.4262),
    ("none", "all"): (1.1453, 3.5321, 8.4749),
    ("all", "all"): (1.1453, 3.6558, 8.8427),
}


def deit_small(features: str, relationships: str) -> CascadeConfig:
    config = get_preset("dvt_deit_small").config
    return dataclasses.replace(config, feature_reuse=features, relationship_reuse=relationships)


@pytest.mark.parametrize("reuse", list(DEIT_SMALL))
def test_deit_small_costs_what_was_published(reuse: tuple[str, str]) -> None:
    macs = count_macs(deit_small(*reuse))
    assert all(isinstance(value, int) for value in macs)
    np.testing.assert_allclose(np.array(macs) / 1e9, DEIT_SMALL[reuse], rtol=0.005)


@pytest.mark.parametrize("k", [1, 2])
def test_what_each_reuse_adds_is_what_was_published(k: int) -> None:
    # The differences are small against the whole, so 0.5 % of the whole would hide a wrong one.
    plain = count_macs(deit_small("none", "none"))
    for reuse in (("all", "none"), ("none", "all")):
        added = (count_macs(deit_small(*reuse))[k] - plain[k]) / 1e9
        assert added == pytest.approx(DEIT_SMALL[reuse][k] - DEIT_SMALL["none", "none"][k], rel=0.02)


@pytest.mark.parametrize("features", ["none", "shallow", "deep", "all"])
@pytest.mark.parametrize("relationships", ["none", "shallow", "deep", "all"])
def test_parts_sum_to_the_totals_and_are_zero_where_nothing_is_reused(features: str, relationships: str) -> None:
    config = small_config(depth=3, feature_reuse=features, relationship_reuse=relationships)
    items = itemise_macs(config)
    assert all(tuple(item) == PARTS for item in items)
    assert np.cumsum([sum(item.values()) for item in items]).tolist() == count_macs(config)
    assert items[0]["feature_reuse"] == items[0]["relationship_reuse"] == 0
    for item in items[1:]:
        assert (item["feature_reuse"] == 0) == (features == "none")
        assert (item["relationship_reuse"] == 0) == (relationships == "none")
        assert all(item[part] > 0 for part in ("embedding", "attention", "mlp", "head"))


def test_half_of_the_blocks_cost_their_share_of_feature_reuse() -> None:
    costs = {
        choice: itemise_macs(small_config(depth=5, feature_reuse=choice))[1]["feature_reuse"]
        for choice in ("shallow", "deep", "all")
    }
    assert costs["shallow"] + costs["deep"] == costs["all"]
    assert costs["shallow"] * 5 == costs["all"] * 2


def test_fewer_source_blocks_cost_less_but_half_of_the_mixing_stays() -> None:
    costs = {
        source: itemise_macs(small_config(depth=4, relationship_source=source))[2]["relationship_reuse"]
        for source in ("shallow", "deep", "all")
    }
    assert costs["shallow"] == costs["deep"] < costs["all"]
    # The first convolution shrinks by half, hidden width times half the maps at 1 + 9 upstream tokens a side.
    assert costs["all"] - costs["shallow"] == (1 + 3**2) ** 2 * (3 * 4 * 2) * (4 * 2 // 2)


def test_a_model_costs_what_its_configuration_costs() -> None:
    model = small_cascade()
    assert dvt_tf.count_macs(model) == dvt_tf.count_macs(model.config)


def test_without_reuse_the_graph_multiplies_as_counted() -> None:
    model = small_cascade(feature_reuse="none", relationship_reuse="none", qkv_bias=False)
    graph = tf.function(lambda images: model(images)).get_concrete_function(tf.TensorSpec((1, 28, 28, 3))).graph
    total = 0
    for operation in _all_operations(graph):
        if operation.type in ("MatMul", "BatchMatMulV2"):
            rows = operation.outputs[0].shape.num_elements()
            left = operation.inputs[0].shape
            inner = left[-2] if operation.node_def.attr.get("adj_x", None) and operation.get_attr("adj_x") else left[-1]
            assert rows is not None
            assert inner is not None
            total += rows * inner
        assert operation.type not in ("Conv2D", "Einsum")
    c = model.config
    norms = sum((2 * c.depth + 1) * 5 * (1 + grid**2) * c.dim for grid in c.token_grids)
    assert total + norms == count_macs(model)[-1]


def _all_operations(graph: tf.Graph) -> list[tf.Operation]:
    operations = list(graph.get_operations())
    inner = [function.graph for function in getattr(graph, "_functions", {}).values() if hasattr(function, "graph")]
    return operations + [operation for sub in inner for operation in _all_operations(sub)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"token_grids": (4,)},
        {"token_grids": (2, 4)},
        {"token_grids": (2, 3, 4, 5)},
        {"position_embedding": "sinusoid", "qkv_bias": False},
        {"depth": 3, "feature_reuse": "shallow", "relationship_reuse": "deep", "relationship_source": "shallow"},
        {"feature_reuse": "none", "relationship_reuse": "none"},
    ],
)
def test_weights_are_counted_as_the_model_has_them(fields: dict[str, object]) -> None:
    model = small_cascade(**fields)
    assert count_parameters(model.config) == model.count_params()
