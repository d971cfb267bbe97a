"""The reuse resize against a step-by-step one: nearest neighbour to a multiple, then adaptive average pooling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dvt_tf.layers import GridResize
from dvt_tf.layers.reuse import resize_matrix


def stepwise(values: np.ndarray, target: int) -> np.ndarray:
    """One axis of n tokens-with-channels laid out as a grid: (S S, ...) -> (T T, ...), pixel by pixel."""
    source = math.isqrt(len(values))
    grid = values.reshape(source, source, *values.shape[1:])
    fine_size = source * math.ceil(target / source)
    fine = np.empty((fine_size, fine_size, *values.shape[1:]))
    for y in range(fine_size):
        for x in range(fine_size):
            fine[y, x] = grid[y * source // fine_size, x * source // fine_size]
    pooled = np.empty((target, target, *values.shape[1:]))
    for y in range(target):
        for x in range(target):
            top, bottom = math.floor(y * fine_size / target), math.ceil((y + 1) * fine_size / target)
            left, right = math.floor(x * fine_size / target), math.ceil((x + 1) * fine_size / target)
            pooled[y, x] = fine[top:bottom, left:right].mean((0, 1))
    return pooled.reshape(target * target, *values.shape[1:])


def stepwise_map(values: np.ndarray, target: int) -> np.ndarray:
    """One relationship map (1 + S S, 1 + S S) -> (1 + T T, 1 + T T)."""
    resized = np.empty((1 + target**2, 1 + target**2))
    resized[0, 0] = values[0, 0]
    resized[0, 1:] = stepwise(values[0, 1:], target)
    resized[1:, 0] = stepwise(values[1:, 0], target)
    resized[1:, 1:] = stepwise(stepwise(values[1:, 1:], target).T, target).T
    return resized


SIZES = [(7, 10), (10, 14), (4, 6), (7, 14), (2, 3), (3, 8), (1, 4), (5, 5)]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_features_are_resized_step_by_step(source: int, target: int) -> None:
    features = np.random.default_rng(0).standard_normal((2, source**2, 3)).astype(np.float32)
    resized = GridResize(source, target, axes=1)(tf.constant(features))
    assert resized.shape == (2, target**2, 3)
    for example, result in zip(features, resized.numpy()):
        np.testing.assert_allclose(result, stepwise(example, target), atol=1e-6)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_relationships_are_resized_on_both_axes_and_the_class_token_is_kept_apart(source: int, target: int) -> None:
    maps = np.random.default_rng(1).standard_normal((2, 3, 1 + source**2, 1 + source**2)).astype(np.float32)
    resized = GridResize(source, target, axes=2)(tf.constant(maps)).numpy()
    assert resized.shape == (2, 3, 1 + target**2, 1 + target**2)
    for b in range(2):
        for c in range(3):
            np.testing.assert_allclose(resized[b, c], stepwise_map(maps[b, c], target), atol=2e-6)
    np.testing.assert_array_equal(resized[:, :, 0, 0], maps[:, :, 0, 0])
    compiled = GridResize(source, target, axes=2)(tf.constant(maps), compiled=True)
    assert compiled.dtype == tf.float32
    np.testing.assert_allclose(compiled, resized, atol=2e-6)


@given(source=st.integers(1, 9), more=st.integers(0, 7), seed=st.integers(0, 999))
def test_any_pair_of_grids(source: int, more: int, seed: int) -> None:
    target = source + more
    values = np.random.default_rng(seed).standard_normal(source**2)
    matrix = resize_matrix(source, target, class_token=False)
    np.testing.assert_allclose(matrix @ values, stepwise(values, target), atol=1e-5)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)  # a constant stays what it is
    with_class = resize_matrix(source, target, class_token=True)
    assert with_class.shape == (1 + target**2, 1 + source**2)
    np.testing.assert_array_equal(with_class[1:, 1:], matrix)
    assert with_class[0].tolist() == [1.0] + [0.0] * source**2
    assert not with_class[1:, 0].any()


def test_other_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="axes must be 1"):
        GridResize(2, 3, axes=3)
