"""What folded Transformers are made of: flat matmuls, and what is left of a norm; see `dvt_tf.optimize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf.processor import vector_extensions


class Weight(tf.Module):
    """A weight as a graph reads it: by calling this. A variable, but a constant of the graph in bfloat16 with AMX.

    For AMX oneDNN wants the weight of a matmul in another order. It keeps what it has ordered anew if the weight is a
    constant, and orders a variable anew in every run: a third of the time of DeiT-S. Elsewhere a constant gains
    nothing, and TensorFlow holds it ten times while it makes the graph.
    """

    def __init__(self, value: np.ndarray, dtype: tf.DType) -> None:
        super().__init__()
        self.dtype = dtype
        cast = tf.cast(value, dtype)
        constant = dtype == tf.bfloat16 and "amx_bf16" in vector_extensions()
        self._array = cast.numpy() if constant else None
        self._variable = None if constant else tf.Variable(cast, trainable=False)

    def __call__(self) -> tf.Tensor:
        return tf.constant(self._array, self.dtype) if self._variable is None else self._variable


class FlatDense(tf.Module):
    """inputs (..., in) -> (..., out) in `dtype`: a flat matmul with bias and, if asked, exact GELU, fused."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray | None, dtype: tf.DType, gelu: bool = False) -> None:
        super().__init__()
        out = kernel.shape[1]
        self.kernel = Weight(kernel, dtype)
        self.bias = Weight(np.zeros(out) if bias is None else bias, dtype)
        self.dtype, self.gelu, self.out = dtype, gelu, out

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(tf.cast(inputs, self.dtype), (-1, inputs.shape[-1]))
        # Of a variable's bias the graph's optimiser does not know the size, and then it fuses nothing.
        bias = tf.ensure_shape(self.bias(), (self.out,))
        outputs = tf.nn.bias_add(tf.matmul(flat, self.kernel()), bias)
        if self.gelu:
            outputs = tf.nn.gelu(outputs)
        return tf.reshape(outputs, (*sizes(inputs)[:-1], self.out))


def sizes(tensor: tf.Tensor) -> list[Any]:
    """The sizes of all axes, plain numbers where they are known; only the first may be unknown."""
    return [-1 if size is None else size for size in tensor.shape]


class Standardise:
    """(B, N, D) -> the same in `dtype`, divided by its deviation over the channels: the rest of the norm is folded."""

    def __init__(self, epsilon: float, dtype: tf.DType) -> None:
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, tokens: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(tokens, -1, keepdims=True)
        length = tf.math.reduce_euclidean_norm(tokens, -1, keepdims=True)  # one pass, and no squares laid out
        variance = tf.square(length) / tokens.shape[-1] - tf.square(mean)
        return tf.cast(tokens * tf.math.rsqrt(tf.maximum(variance, 0.0) + self.epsilon), self.dtype)


def behind_norm(norm: Any, kernel: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that do on standardised inputs what these do behind a norm: scale and shift in, columns centred.

    In float64; (D, out) and (out,).
    """
    folded = kernel * as_array(norm.gamma)[:, None]
    return folded - folded.mean(0), as_array(norm.beta) @ kernel + (0.0 if bias is None else bias)


def as_array(weight: Any) -> np.ndarray:
    """A weight in float64, in which it is folded."""
    return np.asarray(tf.convert_to_tensor(weight), np.float64)


def kernel_of(dense: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel (in, out) and bias (out,) of a `Dense`, float64; None where it has no bias."""
    return as_array(dense.kernel), None if dense.bias is None else as_array(dense.bias)


def folded_dense(dense: Any, dtype: tf.DType, norm: Any = None, gelu: bool = False) -> FlatDense:
    """The folded form of a `Dense`, behind a norm or not."""
    kernel, bias = kernel_of(dense)
    if norm is not None:
        kernel, bias = behind_norm(norm, kernel, bias)
    return FlatDense(kernel, bias, dtype, gelu)


class FoldedMLP(tf.Module):
    """The MLP behind a norm: (B, N, D) standardised -> (B, N, out)."""

    def __init__(self, mlp: Any, norm: Any, dtype: tf.DType) -> None:
        super().__init__()
        self.fc1 = folded_dense(mlp.fc1, dtype, norm, gelu=True)
        self.fc2 = folded_dense(mlp.fc2, dtype)

    def __call__(self, tokens: tf.Tensor) -> tf.Tensor:
        return self.fc2(self.fc1(tokens))
