"""The class token's place, the fixed sinusoid, and where learned positions start."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from dvt_tf.layers import PositionEmbedding
from dvt_tf.layers.position_embedding import sinusoid_2d_table, sinusoid_table


def test_the_sinusoid_is_the_published_one() -> None:
    table = sinusoid_table(11, 7)
    assert table.shape == (11, 7)
    for p in range(11):
        for j in range(7):
            angle = p / 10000 ** (2 * (j // 2) / 7)
            assert abs(table[p, j] - (math.cos(angle) if j % 2 else math.sin(angle))) < 1e-6


def test_the_class_token_comes_first_and_positions_are_added() -> None:
    layer = PositionEmbedding(grid=2, dim=3)
    layer.build((None, 4, 3))
    assert sorted(tuple(weight.shape) for weight in layer.weights) == [(1, 1, 3), (1, 5, 3)]
    layer.class_token.assign(np.full((1, 1, 3), 100.0))
    positions = np.arange(15.0).reshape(1, 5, 3)
    layer.positions.assign(positions)
    tokens = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    result = layer(tf.constant(tokens)).numpy()
    np.testing.assert_allclose(result[:, 0], 100.0 + np.repeat(positions[:, 0], 2, 0))
    np.testing.assert_allclose(result[:, 1:], tokens + positions[:, 1:], atol=1e-6)


def test_fixed_positions_are_no_weight() -> None:
    layer = PositionEmbedding(grid=2, dim=4, kind="sinusoid")
    layer.build((None, 4, 4))
    assert [tuple(weight.shape) for weight in layer.weights] == [(1, 1, 4)]
    np.testing.assert_allclose(layer(tf.zeros((1, 4, 4)))[0, 1:], sinusoid_table(5, 4)[1:], atol=1e-6)


def test_fixed_positions_work_where_the_layer_is_first_built_in_a_graph() -> None:
    layer = PositionEmbedding(grid=2, dim=4, kind="sinusoid")
    first = tf.function(lambda tokens: layer(tokens))(tf.zeros((1, 4, 4)))
    np.testing.assert_allclose(layer(tf.zeros((1, 4, 4))), first)
    np.testing.assert_allclose(tf.function(lambda tokens: layer(tokens) * 1.0)(tf.zeros((1, 4, 4))), first)


def test_the_two_dimensional_start_tells_rows_and_columns_apart() -> None:
    grid, dim = 3, 16
    table = sinusoid_2d_table(grid, dim)
    assert table.shape == (1 + grid**2, dim)
    assert not table[0].any()
    cells = table[1:].reshape(grid, grid, dim)
    assert (cells[:, :, :8] == cells[:, :1, :8]).all()  # the first half tells the row alone
    assert (cells[:, :, 8:] == cells[:1, :, 8:]).all()  # the second half the column alone
    assert len(np.unique(table.round(6), axis=0)) == 1 + grid**2
    layer = PositionEmbedding(grid, dim, init="sinusoid_2d")
    layer.build((None, grid**2, dim))
    np.testing.assert_allclose(layer.positions.numpy()[0], 0.5 * table, atol=1e-7)


def test_grids_agree_on_what_is_in_the_middle() -> None:
    # The centre of a 3x3 grid and of a 5x5 grid are the same place of the image.
    np.testing.assert_allclose(sinusoid_2d_table(3, 16)[1 + 4], sinusoid_2d_table(5, 16)[1 + 12], atol=1e-6)
