"""Attention against one written with loops, all dimensions distinct."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from dvt_tf.layers import Attention

B, N, HEADS, WIDTH = 2, 5, 3, 4
D = HEADS * WIDTH


def by_hand(layer: Attention, tokens: np.ndarray, addend: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    kernel, bias = layer.qkv.kernel.numpy(), layer.qkv.bias.numpy() if layer.qkv_bias else np.zeros(3 * D)
    logits, output = np.empty((B, HEADS, N, N)), np.empty((B, N, D))
    for b in range(B):
        mixed = np.empty((N, D))
        for h in range(HEADS):
            own = slice(h * WIDTH, (h + 1) * WIDTH)
            # The published layout: all heads' queries, then all heads' keys, then all heads' values.
            query, key, value = (
                tokens[b] @ kernel[:, i * D : (i + 1) * D][:, own] + bias[i * D : (i + 1) * D][own] for i in range(3)
            )
            for i in range(N):
                for j in range(N):
                    logits[b, h, i, j] = query[i] @ key[j] / 2.0  # sqrt(WIDTH)
                    if addend is not None:
                        logits[b, h, i, j] += addend[b, h, i, j]
            mixed[:, own] = softmax(logits[b, h], -1) @ value
        output[b] = mixed @ layer.projection.kernel.numpy() + layer.projection.bias.numpy()
    return output, logits


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("with_addend", [True, False])
def test_attention_is_what_the_loops_say(qkv_bias: bool, with_addend: bool) -> None:
    random = np.random.default_rng(0)
    layer = Attention(HEADS, qkv_bias)
    layer.build((None, N, D))
    for weight in layer.weights:
        weight.assign(random.standard_normal(weight.shape) * 0.4)
    tokens = random.standard_normal((B, N, D)).astype(np.float32)
    addend = random.standard_normal((B, HEADS, N, N)).astype(np.float32) if with_addend else None
    output, logits = layer(tf.constant(tokens), relationship=None if addend is None else tf.constant(addend))
    expected_output, expected_logits = by_hand(layer, tokens.astype(np.float64), addend)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    np.testing.assert_allclose(output, expected_output, atol=1e-5)
    assert len(layer.weights) == (4 if qkv_bias else 3)


def test_logits_are_float32_whatever_the_compute_dtype() -> None:
    layer = Attention(HEADS, dtype="mixed_bfloat16")
    layer.build((None, N, D))
    output, logits = layer(tf.ones((B, N, D)))
    assert output.dtype == tf.bfloat16
    assert logits.dtype == tf.float32
    assert all(weight.dtype in ("float32", tf.float32) for weight in layer.weights)
