"""Feature reuse and relationship reuse against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf

from dvt_tf.layers import FeatureReuse, RelationshipReuse
from dvt_tf.layers.norm import standardise
from dvt_tf.layers.reuse import resize_matrix


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def test_features_pass_norm_mlp_and_resize_and_the_class_row_is_zero() -> None:
    random = np.random.default_rng(0)
    source, target, dim, hidden, out = 2, 3, 5, 7, 6
    layer = FeatureReuse(source, target, hidden, out, norm_epsilon=1e-2)
    layer.build((None, source**2, dim))
    for weight in layer.weights:
        weight.assign(random.standard_normal(weight.shape))
    features = random.standard_normal((2, source**2, dim))
    centred = features - features.mean(-1, keepdims=True)
    context = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-2)
    context = context * layer.norm.gamma.numpy() + layer.norm.beta.numpy()
    context = gelu(context @ layer.mlp.fc1.kernel.numpy() + layer.mlp.fc1.bias.numpy())
    context = context @ layer.mlp.fc2.kernel.numpy() + layer.mlp.fc2.bias.numpy()
    result = layer(tf.constant(features, tf.float32)).numpy()
    assert result.shape == (2, 1 + target**2, out)
    assert not result[:, 0].any()
    np.testing.assert_allclose(result[:, 1:], resize_matrix(source, target, class_token=False) @ context, atol=1e-5)
    standardised = standardise(tf.constant(features, tf.float32), 1e-2)
    np.testing.assert_array_equal(layer.context(standardised), result)


def test_relationships_are_mixed_then_resized_and_dealt_to_the_blocks_in_order() -> None:
    random = np.random.default_rng(1)
    source, target, hidden, blocks, heads, given = 2, 3, 11, 2, 3, 4
    length = 1 + source**2
    layer = RelationshipReuse(source, target, hidden, blocks, heads)
    layer.build([(None, heads, length, length)] * given)
    for weight in layer.weights:
        weight.assign(random.standard_normal(weight.shape) * 0.4)
    assert sum(int(np.prod(weight.shape)) for weight in layer.weights) == 12 * 11 + 11 + 11 * 6 + 6
    upstream = [random.standard_normal((2, heads, length, length)) for _ in range(given)]
    stacked = np.concatenate(upstream, 1)  # block by block, head by head
    mixed = np.einsum("oc,bcij->boij", layer.kernel1.numpy(), stacked) + layer.bias1.numpy()[None, :, :, None]
    mixed = np.einsum("oc,bcij->boij", layer.kernel2.numpy(), gelu(mixed)) + layer.bias2.numpy()[None, :, :, None]
    matrix = resize_matrix(source, target, class_token=True)
    expected = np.einsum("ti,boij,uj->botu", matrix, mixed, matrix)
    addends = layer([tf.constant(logits, tf.float32) for logits in upstream])
    assert len(addends) == blocks
    for i, addend in enumerate(addends):
        assert addend.dtype == tf.float32
        np.testing.assert_allclose(addend, expected[:, i * heads : (i + 1) * heads], atol=2e-5)


def test_reuse_is_float32_outside_whatever_the_compute_dtype() -> None:
    features = FeatureReuse(2, 3, 7, 6, dtype="mixed_bfloat16")
    features.build((None, 4, 5))
    assert features(tf.ones((2, 4, 5))).dtype == tf.float32
    relationships = RelationshipReuse(2, 3, 11, 2, 3, dtype="mixed_bfloat16")
    relationships.build([(None, 3, 5, 5)])
    assert {addend.dtype for addend in relationships([tf.ones((2, 3, 5, 5))])} == {tf.float32}


@pytest.mark.parametrize(("source", "target"), [(2, 3), (4, 6), (3, 8)])
def test_what_training_compiles_is_the_same(source: int, target: int) -> None:
    random = np.random.default_rng(2)
    blocks, heads, length = 2, 3, 1 + source**2
    layer = RelationshipReuse(source, target, 11, blocks, heads)
    layer.build([(None, heads, length, length)] * 2)
    for weight in layer.weights:
        weight.assign(random.standard_normal(weight.shape) * 0.4)
    upstream = [tf.constant(random.standard_normal((2, heads, length, length)), tf.float32) for _ in range(2)]
    weights = [w if isinstance(w, tf.Variable) else w.value for w in layer.weights]  # Keras 3 wraps them
    towards = random.standard_normal((2, heads, 1 + target**2, 1 + target**2)).astype(np.float32)
    found = []
    for compiled in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(upstream)
            addends = [layer.addend(maps, compiled) for maps in layer.mix(upstream, compiled)]
        found.append([*addends, *tape.gradient(addends, [*upstream, *weights], [towards, 2 * towards])])
    for value, expected in zip(*found, strict=True):
        assert value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_biases_ride_along_in_every_precision() -> None:
    for precision, dtype in (("float32", tf.float32), ("mixed_bfloat16", tf.bfloat16), ("mixed_float16", tf.float16)):
        layer = RelationshipReuse(1, 1, 3, 1, 2, dtype=precision)
        layer.build([(None, 2, 2, 2)])
        for weight in layer.weights:
            weight.assign(tf.zeros_like(weight))
        layer.bias2.assign([[0.75], [-3.0]])
        for compiled in (False, True):
            (maps,) = layer.mix([tf.ones((1, 2, 2, 2))], compiled)
            assert maps.dtype == dtype
            np.testing.assert_allclose(tf.cast(maps[0, :, 0, 0], tf.float32), [0.75, -3.0], rtol=1e-6)
