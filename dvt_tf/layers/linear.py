"""A Linear layer whose bias gets its whole gradient in every dtype, the sum over rows for it, and how kernels start."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.matmul import matmul


def sum_rows(rows: tf.Tensor) -> tf.Tensor:
    """(..., D) -> (D,), summed in float32.

    On a CPU TensorFlow's BiasAddGrad adds bfloat16 in bfloat16, where a sum no longer grows once it is some 256 times
    as large as what is added: of many tokens' gradients of one sign most is lost. A matmul of bfloat16 adds in float32,
    and is as fast. With float16 BiasAddGrad is exact and the matmul is not.
    """
    if rows.dtype != tf.bfloat16:
        return tf.raw_ops.BiasAddGrad(out_backprop=rows)
    rows = tf.reshape(rows, (-1, rows.shape[-1]))
    return matmul(tf.ones((1, tf.shape(rows)[0]), rows.dtype), rows)[0]


@tf.custom_gradient
def add_bias(rows: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """(N, D) and (D,) -> (N, D), with the gradient of the bias by `sum_rows`."""
    shape = rows.shape
    return tf.nn.bias_add(rows, bias), lambda upstream: (upstream, sum_rows(tf.ensure_shape(upstream, shape)))


def linear_start(init: str) -> keras.initializers.Initializer:
    """Where the kernel of a linear layer starts: `"normal"` or `"glorot"`; see `CascadeConfig.linear_init`."""
    if init == "glorot":
        return keras.initializers.GlorotUniform()
    # timm's truncated normal is cut at 2, a hundred deviations; Keras's own is cut at two, and 12 % narrower.
    return keras.initializers.RandomNormal(stddev=0.02)


class Linear(keras.layers.Dense):
    """Keras's Dense, whose weights and configuration it has, with the bias's gradient of `add_bias`.

    Call: (B, ..., D) -> (B, ..., units) in the compute dtype.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)  # (D, units)
        rows = matmul(tf.reshape(tf.cast(inputs, self.compute_dtype), (-1, kernel.shape[0])), kernel)
        if self.use_bias:
            rows = add_bias(rows, tf.cast(tf.convert_to_tensor(self.bias), self.compute_dtype))
        shape = [tf.shape(inputs)[i] if size is None else size for i, size in enumerate(inputs.shape[:-1])]
        return self.activation(tf.reshape(rows, [*shape, self.units]))
