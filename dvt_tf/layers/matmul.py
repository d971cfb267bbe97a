"""A matmul whose bfloat16 results are rounded to the nearest on every processor."""

from __future__ import annotations

import functools

import tensorflow as tf


@functools.cache
def rounds_bfloat16() -> bool:
    """Whether TensorFlow rounds what a matmul of bfloat16 gives, tried once; if not, it cuts it off.

    Without AVX-512 oneDNN leaves such a matmul to TensorFlow's own kernel, which cuts its float32 sums off: every
    result is too small, by 0.3 % on average, and gradients turn away. Accelerators round, and are not asked.
    """
    with tf.init_scope():
        if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
            return True
        ones = tf.ones((64, 2), tf.bfloat16)
        others = tf.tile(tf.constant([[1.0], [3 / 512]], tf.bfloat16), (1, 64))
        # In a function, as training is; 1 + 3 / 512 lies between 1 and 1 + 4 / 512, nearer to the latter.
        return bool(tf.function(tf.matmul)(ones, others)[0, 0] > 1)


def matmul(a: tf.Tensor, b: tf.Tensor, transpose_a: bool = False, transpose_b: bool = False) -> tf.Tensor:
    """`tf.matmul`, (..., N, K) and (..., K, M) -> (..., N, M) of their dtype, with sums in float32 that are rounded.

    So are its gradients. Where TensorFlow cuts bfloat16 off, both are computed in float32, and cast.
    """
    if a.dtype != tf.bfloat16 or rounds_bfloat16():
        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    wide = tf.matmul(tf.cast(a, tf.float32), tf.cast(b, tf.float32), transpose_a=transpose_a, transpose_b=transpose_b)
    return tf.cast(wide, a.dtype)
