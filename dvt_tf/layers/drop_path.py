"""Stochastic depth: dropout of a residual branch as a whole."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dvt_tf.layers.dropout import StatelessDropout


class DropPath(StatelessDropout):
    """Drops a residual branch for whole examples in training (Huang et al., 2016, arXiv 1603.09382).

    Args:
        rate: the share of examples whose branch is dropped; the others are scaled by 1 / (1 - rate).

    Call: the branch (B, N, D) of any float dtype and `seed` (2,) int32 -> (B, N, D). Without a seed, the identity.
    """

    def _draws_shape(self, values: tf.Tensor) -> Any:
        return (tf.shape(values)[0], 1, 1)
