"""LayerNorm over the channels, with a gradient that keeps nothing but its inputs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.linear import sum_rows


def standardise(features: tf.Tensor, epsilon: float | tf.Tensor) -> tf.Tensor:
    """What a LayerNorm does before its scale and shift: (..., D) -> mean 0 and variance 1 over the channels."""
    centred = features - tf.reduce_mean(features, -1, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)


# XLA makes two passes of what is a dozen op by op, each of which keeps a tensor for the gradient. The forward pass is
# not compiled, since servers without XLA run it.
@tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
def _gradients(
    inputs: tf.Tensor, scale: tf.Tensor, epsilon: tf.Tensor, upstream: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Of the inputs, (..., D), and of the scale before it is summed over all rows."""
    deviation = tf.math.rsqrt(tf.math.reduce_variance(inputs, -1, keepdims=True) + epsilon)
    standardised = (inputs - tf.reduce_mean(inputs, -1, keepdims=True)) * deviation
    scaled = upstream * scale
    along = tf.reduce_mean(scaled * standardised, -1, keepdims=True)
    return deviation * (
        scaled - tf.reduce_mean(scaled, -1, keepdims=True) - standardised * along
    ), upstream * standardised


class LayerNorm(keras.layers.LayerNormalization):
    """Keras's layer over the channels, with scale and shift; less time and memory in training.

    Call: (B, N, D) -> (B, N, D) in the compute dtype.

    Raises:
        ValueError: it is built over another axis, or without scale or center.
    """

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        if axes not in ([-1], [len(input_shape) - 1]) or self.gamma is None or self.beta is None:
            raise ValueError(f"{self.name}: LayerNorm is over the last axis alone (not {axes}), with scale and center")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        epsilon = self.epsilon

        @tf.custom_gradient
        def normalise(tokens: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
                own, before_sum = _gradients(tokens, scale, tf.constant(epsilon, tokens.dtype), upstream)
                own, before_sum, upstream = (tf.ensure_shape(one, tokens.shape) for one in (own, before_sum, upstream))
                return own, sum_rows(before_sum), sum_rows(upstream)

            return standardise(tokens, epsilon) * scale + shift, gradient

        scale, shift = (tf.cast(tf.convert_to_tensor(one), self.compute_dtype) for one in (self.gamma, self.beta))
        return normalise(tf.cast(inputs, self.compute_dtype), scale, shift)
