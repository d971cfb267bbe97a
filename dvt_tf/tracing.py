"""Functions that become a graph only once that pays: tracing takes seconds, and a command often calls once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class TracedLater:
    """Runs a function eagerly the first few times, and from then on as a `tf.function`; inside a graph as it is.

    Args:
        function: from tensors to tensors, the same in both ways.
        signature: what it takes.
        eager_calls: so many calls are not worth a graph.
        eagerly: what runs in its place then, with the same results; by default itself.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        signature: list[tf.TensorSpec],
        eager_calls: int,
        eagerly: Callable[..., Any] | None = None,
    ) -> None:
        self._eagerly, self._left = eagerly or function, eager_calls
        self.graph = tf.function(function, input_signature=signature, autograph=False, jit_compile=False)

    def __call__(self, *inputs: tf.Tensor, is_small: bool = True) -> Any:
        """Calls it; what is not small goes through the graph at once."""
        if self._left > 0 and is_small and tf.executing_eagerly():
            self._left -= 1
            return self._eagerly(*inputs)
        return self.graph(*inputs)
