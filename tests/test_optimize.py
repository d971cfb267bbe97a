"""The folded inference form: the model's own logits, from fewer operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt_tf import folded_parts
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.folded_embeddings import boxes_of
from dvt_tf.layers.tokens_to_token import soft_split, soft_split_sides
from dvt_tf.optimize import FoldedCascade
from tests.cascades import random_images, small_cascade


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"embedding": "tokens_to_token", "token_grids": (2, 3, 4)},
        {"feature_reuse": "none"},
        {"relationship_reuse": "none"},
        {"feature_reuse": "shallow", "relationship_reuse": "deep", "relationship_source": "shallow"},
        {"token_grids": (4,)},
        {"qkv_bias": False},
        {"position_embedding": "sinusoid"},
        {"depth": 1},
        {"feature_reuse": "none", "relationship_reuse": "none"},
        {"feature_reuse": "deep", "relationship_reuse": "shallow", "relationship_source": "deep"},
    ],
    ids=str,
)
def test_every_logit_is_the_models(fields: dict[str, Any]) -> None:
    model = small_cascade(**fields)
    images = random_images(5, model.config.image_size)
    for key, logits in model.optimized()(images).items():
        np.testing.assert_allclose(logits, model(images)[key], atol=2e-5)


def test_the_bundled_model_on_scenes_and_on_even_images() -> None:
    """Where a patch is even, its deviation is next to nothing beside its mean."""
    from dvt_tf.digits import digit_scenes
    from dvt_tf.preprocessing import normalise

    model = DynamicVisionTransformer.from_preset("dvt_tiny_digits")
    scenes = digit_scenes("test", 30).images
    even = np.stack([np.full((112, 112, 3), value, np.uint8) for value in (0, 128, 255)])
    images = normalise(tf.cast(np.concatenate([scenes, even]), tf.float32), model.card)
    expected, folded, half = model(images), model.optimized()(images), model.optimized("bfloat16")(images)
    for key, logits in expected.items():
        np.testing.assert_allclose(folded[key], logits, atol=2e-5)
        assert np.mean(np.argmax(half[key], -1) == np.argmax(logits, -1)) > 0.9
        assert np.std(half[key] - logits) < 0.05 * np.std(logits)


def test_even_images_through_soft_splits() -> None:
    """Against float64: where a patch is even, the plain layers' own rounding is the larger one."""
    model = small_cascade(embedding="tokens_to_token", token_grids=(2, 3, 4))
    size = model.config.image_size
    images = np.full((3, size, size, 3), 2.5, np.float32)
    images[1, : size // 2] = -2.0
    images[2] = random_images(1, size)[0]
    images[2, :20] = 1.7
    embedding = model.transformers[0].embedding
    patches = soft_split(tf.constant(images, tf.float64), *embedding.splits[0]).numpy()
    expected = _behind_the_first_norm(embedding.performers[0], patches)
    for precision in ("float32", "bfloat16"):
        folded = model.optimized(precision).transformers[0].embedding
        windows = folded.split(tf.constant(images), *folded.splits[0])
        found = folded.performers[0].kqv(folded.performers[0].norm1(windows))
        np.testing.assert_allclose(found, expected, atol=5e-6)
    plain = model(images)
    for key, logits in model.optimized()(images).items():
        np.testing.assert_allclose(logits, plain[key], atol=2e-3)


def test_nearly_even_patches_are_as_far_from_float64_as_in_the_layers() -> None:
    """One pixel in a hundred is a grey level from the others: a norm makes the rounding of both forms large."""
    model = small_cascade(embedding="tokens_to_token", token_grids=(2, 3, 4))
    size, embedding = model.config.image_size, model.transformers[0].embedding
    images = 2.64 + 0.0171 * (np.random.default_rng(0).random((3, size, size, 3)) < 0.01)
    performer, split = embedding.performers[0], embedding.splits[0]
    images = images.astype(np.float32)
    expected = _behind_the_first_norm(performer, soft_split(tf.constant(images, tf.float64), *split).numpy())
    layers = performer.kqv(performer.norm1(soft_split(tf.constant(images), *split)))
    form = model.optimized().transformers[0].embedding
    folded = form.performers[0].kqv(form.performers[0].norm1(form.split(tf.constant(images), *split)))
    assert np.abs(folded - expected).max() < 4 * np.abs(layers - expected).max() < 0.01


def _behind_the_first_norm(performer: Any, patches: np.ndarray) -> np.ndarray:
    """Keys, queries and values of patches, in float64."""
    centred = patches - patches.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + performer.norm_epsilon)
    normed = normed * np.float64(performer.norm1.gamma) + np.float64(performer.norm1.beta)
    return normed @ np.float64(performer.kqv.kernel) + np.float64(performer.kqv.bias)


def test_in_bfloat16_what_must_be_is_float32() -> None:
    model = small_cascade()
    form = model.optimized("bfloat16")
    images = random_images(3, model.config.image_size)
    outputs = form.transformers[0](images)
    assert outputs.logits.dtype == outputs.features.dtype == tf.float32
    assert {part.dtype for part in outputs.relationships} == {tf.float32}
    logits = form(images)["exit_3"]
    assert logits.dtype == tf.float32
    assert np.max(np.abs(logits - model(images)["exit_3"])) < 0.1 * np.std(logits)


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 or bfloat16, not 'int8'"):
        small_cascade().optimized("int8")


@settings(max_examples=30)
@given(size=st.integers(6, 30), kernel=st.integers(1, 6), stride=st.integers(1, 4), padding=st.integers(0, 3))
def test_box_filters_are_the_means_of_the_windows(size: int, kernel: int, stride: int, padding: int) -> None:
    maps = np.random.default_rng(size).normal(size=(2, size, size, 3))
    (side,) = soft_split_sides(size, [(kernel, stride, padding)])
    boxes = boxes_of(size, kernel, stride, padding)
    found = np.einsum("bij,is,jt->bst", maps.mean(-1), boxes, boxes)
    expected = np.mean(soft_split(tf.constant(maps), kernel, stride, padding), -1).reshape(2, side, side)
    np.testing.assert_allclose(found, expected, atol=1e-12)


# What it costs, counted in operations and never in time


def operations(form: Any, size: int) -> dict[str, int]:
    """How often each kind of operation stands in the graph of a batch."""
    graph = tf.function(lambda images: form(images), autograph=False).get_concrete_function(
        tf.TensorSpec((None, size, size, 3))
    )
    kinds = [node.op for node in graph.graph.as_graph_def().node]
    return {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.parametrize("fields", [{}, {"embedding": "tokens_to_token", "token_grids": (2, 3, 4)}], ids=str)
def test_the_graph_has_no_more_operations_than_it_needs(fields: dict[str, Any]) -> None:
    model = small_cascade(**fields)
    kinds = operations(model.optimized(), model.config.image_size)
    c, exits = model.config, model.num_exits
    blocks, downstream = exits * c.depth, exits - 1
    performers = 2 * exits if c.embedding == "tokens_to_token" else 0
    # qkv, projection, fc1, fc2 of every block; the wide fc1 of feature reuse, one of mixing and one a resize (the
    # others are batched); head and patches; of every performer three, and two for its box filters.
    flat = 4 * blocks + downstream * (1 + 1 + c.depth) + exits * (1 if performers else 2) + 5 * performers
    assert kinds["MatMul"] == flat
    assert kinds.get("Conv2D", 0) == (performers + exits if performers else 0)
    assert kinds["Softmax"] == blocks
    assert kinds.get("FusedBatchNormV3", 0) == 0
    # Exact GELU comes after a bias alone, where it is fused: once a block's MLP, twice a downstream Transformer, and
    # once a performer.
    assert kinds.get("Erf", 0) + kinds.get("Erfc", 0) == blocks + 2 * downstream + performers
    assert "StridedSlice" not in kinds or kinds["StridedSlice"] < 12 * blocks + 20 * exits


@pytest.mark.parametrize("fields", [{}, {"embedding": "tokens_to_token", "token_grids": (2, 3, 4)}], ids=str)
@pytest.mark.parametrize("amx", [False, True], ids=["no AMX", "AMX"])
def test_kernels_are_constants_in_bfloat16_with_amx_and_else_variables(
    amx: bool, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded_parts, "vector_extensions", lambda: ("amx_bf16",) if amx else ())
    model = small_cascade(**fields)
    size = model.config.image_size
    for precision, constants in (("float32", False), ("bfloat16", amx)):
        graph = tf.function(model.optimized(precision), autograph=False).get_concrete_function(
            tf.TensorSpec((None, size, size, 3))
        )
        kernels = [
            node.inputs[1].op.type
            for node in graph.graph.get_operations()
            if node.type in ("MatMul", "Conv2D") and node.inputs[1].dtype == tf.as_dtype(precision)
        ]
        # Constants there are in float32 as well: resizes and box filters.
        assert (kernels.count("ReadVariableOp") > 0) != constants
        assert kernels.count("Const") >= 4 * model.num_exits * model.config.depth or not constants


def test_soft_splits_are_never_laid_out() -> None:
    model = small_cascade(embedding="tokens_to_token", token_grids=(2, 3, 4))
    size, form = model.config.image_size, FoldedCascade(model)
    graph = tf.function(lambda images: form(images), autograph=False).get_concrete_function(
        tf.TensorSpec((None, size, size, 3))
    )
    widths = {
        kernel**2 * channels
        for transformer in model.transformers
        for (kernel, _, _), channels in zip(
            transformer.embedding.splits, (3, model.config.performer_dim, model.config.performer_dim), strict=True
        )
    }
    made = [output.shape for node in graph.graph.get_operations() for output in node.outputs if node.type != "Reshape"]
    assert not [shape for shape in made if shape.rank and shape.rank > 2 and shape[-1] in widths]
