"""How images are cut into patches, against a convolution written with loops."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.layers import PatchEmbedding
from dvt_tf.layers.patch_embedding import patch_geometry


@pytest.mark.parametrize(
    ("image_size", "grid", "kernel", "padding"),
    [
        (224, 7, 32, 0),
        (224, 10, 23, 3),
        (224, 14, 16, 0),
        (112, 10, 12, 4),
        (112, 7, 16, 0),
        (28, 3, 10, 1),
        (5, 5, 1, 0),
    ],
)
def test_geometry(image_size: int, grid: int, kernel: int, padding: int) -> None:
    assert patch_geometry(image_size, grid) == (kernel, padding)


def test_padding_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="11 pixels do not make 3 patches a side"):
        patch_geometry(11, 3)


@pytest.mark.parametrize(("image_size", "grid"), [(12, 3), (28, 3), (13, 5)])
def test_tokens_are_a_strided_convolution_row_by_row(image_size: int, grid: int) -> None:
    random = np.random.default_rng(0)
    layer = PatchEmbedding(image_size, grid, dim=4)
    layer.build((None, image_size, image_size, 3))
    layer.kernel.assign(random.standard_normal(layer.kernel.shape))
    layer.bias.assign(random.standard_normal(4))
    images = random.standard_normal((2, image_size, image_size, 3))
    size, pad = patch_geometry(image_size, grid)
    padded = np.zeros((2, image_size + 2 * pad, image_size + 2 * pad, 3))
    padded[:, pad : pad + image_size, pad : pad + image_size] = images
    expected = np.empty((2, grid * grid, 4))
    for row in range(grid):
        for column in range(grid):
            patch = padded[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
            expected[:, row * grid + column] = (
                np.einsum("byxc,yxcd->bd", patch, layer.kernel.numpy()) + layer.bias.numpy()
            )
    np.testing.assert_allclose(layer(tf.constant(images, tf.float32)), expected, atol=1e-4)
