"""AdaptiveClassifier: real early exit. A row that has left is not computed any further.

All of it is one graph, from the second call on (the first is not worth the seconds that tracing takes): after each
Transformer the rows that go on are gathered, the next Transformer runs on those alone, and their results are scattered
back. Where no row goes on, no Transformer runs. XLA must stay off here: it pads the gathered rows back to the full
batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.exit_rule import NEVER, check_thresholds
from dvt_tf.tracing import TracedLater
from dvt_tf.vision_transformer import TransformerOutputs

_SMALL = 32  # images, for which a single call is not worth a graph


class AdaptiveClassifier(tf.Module):
    """Classifies images, each by as many Transformers of a cascade as it needs (Wang et al., 2021, section 3.1).

    It runs the cascade's folded inference form (`dvt_tf.optimize`), with the weights that the model has when the
    classifier is made.

    Args:
        model: the cascade.
        thresholds: (K - 1,) confidences at which to leave; by default the model card's. Above 1 means never.
        precision: `"float32"`, or `"bfloat16"` for matmuls in bfloat16; by default the model's own.

    Raises:
        ValueError: thresholds of a wrong count, negative or not finite, or another precision.
    """

    def __init__(self, model: DynamicVisionTransformer, thresholds: Any = None, precision: str | None = None) -> None:
        super().__init__(name="adaptive_classifier")
        self.form = model.optimized(precision)
        self._first: _Stage | None = None
        for transformer in reversed(self.form.transformers):
            self._first = _Stage(transformer, self._first)
        self.model = model
        if thresholds is None:
            thresholds = model.card["thresholds"]["values"]
        self.thresholds = check_thresholds(thresholds, model.num_exits)
        if self.thresholds.ndim != 1:
            raise ValueError(
                f"the classifier's own thresholds must be ({model.num_exits - 1},), not {self.thresholds.shape}"
            )
        self.gmacs = np.asarray(count_macs(model), np.float64) / 1e9
        size = model.config.image_size
        specs = [
            tf.TensorSpec((None, size, size, 3), tf.float32),
            tf.TensorSpec((None, model.num_exits - 1), tf.float32),
        ]
        self._classify = TracedLater(self.classify, specs, eager_calls=1)

    @classmethod
    def from_preset(
        cls, folder_or_name: str | Path, thresholds: Any = None, precision: str | None = None
    ) -> AdaptiveClassifier:
        """The classifier of a preset with bundled weights or of a model folder, with its card's thresholds."""
        return cls(DynamicVisionTransformer.from_preset(folder_or_name), thresholds, precision)

    @property
    def card(self) -> dict[str, Any]:
        """The model's card."""
        return self.model.card

    @property
    def num_exits(self) -> int:
        """One exit per Transformer."""
        return self.model.num_exits

    def __call__(self, images: Any, thresholds: Any = None) -> dict[str, tf.Tensor]:
        """Classifies a batch.

        Args:
            images: (B, S, S, 3) float32, normalised (see `dvt_tf.preprocess`); B may be 0.
            thresholds: (K - 1,) for all, or (B, K - 1), one row per image; None for the classifier's own.

        Returns:
            `probabilities` (B, C) float32, `confidence` (B,) float32, `exit` (B,) int32 1-based, `gmacs` (B,) float32.

        Raises:
            ValueError: shapes that do not fit, or thresholds negative or not finite.
        """
        return self.trace(images, thresholds)[0]

    def trace(self, images: Any, thresholds: Any = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """What a call returns, and how many rows each Transformer processed: (K,) int32."""
        images = tf.convert_to_tensor(images, tf.float32)
        size = self.model.config.image_size
        if images.shape.rank != 4 or tuple(images.shape[1:]) != (size, size, 3):
            raise ValueError(f"images must be (batch, {size}, {size}, 3), not {tuple(images.shape)}")
        if thresholds is None:
            thresholds = self.thresholds
        elif isinstance(thresholds, tf.Tensor):
            thresholds = thresholds.numpy()
        rows = check_thresholds(thresholds, self.num_exits)
        count = int(images.shape[0])
        if rows.ndim == 1:
            rows = np.broadcast_to(rows, (count, self.num_exits - 1))
        elif len(rows) != count:
            raise ValueError(f"{len(rows)} rows of thresholds were given for {count} images")
        return self._classify(images, tf.constant(rows), is_small=count <= _SMALL)

    def classify(self, images: tf.Tensor, thresholds: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The graph itself, for those who build larger graphs with it.

        Args:
            images: (B, S, S, 3) float32. thresholds: (B, K - 1) float32, where NaN and negative values mean never.

        Returns:
            As `trace`.
        """
        first, classes = self._first, self.model.config.num_classes
        assert first is not None
        thresholds = tf.where(thresholds >= 0.0, thresholds, NEVER)  # a NaN is not >= 0 either
        probabilities, exits, processed = tf.cond(
            tf.shape(images)[0] > 0,
            lambda: first(images, thresholds, []),
            lambda: (tf.zeros((0, classes)), tf.zeros((0,), tf.int32), tf.zeros((self.num_exits,), tf.int32)),
        )
        result = {
            "probabilities": probabilities,
            "confidence": tf.reduce_max(probabilities, -1),
            "exit": exits,
            "gmacs": tf.gather(tf.constant(np.concatenate([[0.0], self.gmacs]), tf.float32), exits),
        }
        return result, processed


class _Stage:
    """One Transformer, and behind it those that come after, for the rows that go on.

    Call: at least one image (n, S, S, 3), its thresholds (n, K - 1) and what the Transformer before hands on, its
    features and then the relationships that are used (nothing, for the first) -> probabilities (n, C), exits (n,) int32
    1-based, and how many rows this Transformer and each one after it processed, int32.
    """

    def __init__(self, transformer: Any, after: _Stage | None) -> None:
        self.transformer, self.after = transformer, after
        # Called as a function, which TensorFlow optimises by itself. Inlined into a branch of `tf.cond`, every constant
        # would wait for that branch, and TensorFlow 2.15 fuses no GELU into a matmul when its constants wait.
        self._graph = tf.function(
            self._run, autograph=False, jit_compile=False, experimental_attributes={"_noinline": True}
        )

    def __call__(self, images: tf.Tensor, thresholds: tf.Tensor, upstream: list[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        run = self._run if tf.executing_eagerly() else self._graph  # a single call is not worth a graph
        return run(images, thresholds, upstream)

    def _run(self, images: tf.Tensor, thresholds: tf.Tensor, upstream: list[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        number = self.transformer.index + 1
        outputs = self.transformer(images, upstream=self._upstream(upstream))
        here = tf.nn.softmax(outputs.logits)  # (n, C)
        rows = tf.shape(here)[:1]
        exits = tf.fill(rows, number)
        after = self.after
        if after is None:
            return here, exits, rows
        leaves = tf.reduce_max(here, -1) >= thresholds[:, number - 1]
        stays = tf.where(~leaves)  # (m, 1)

        def go_on() -> tuple[tf.Tensor, ...]:
            used = after.transformer.used_blocks
            given = (images, thresholds, outputs.features, *(outputs.relationships[i] for i in used))
            images_, thresholds_, *handed_on = (tf.gather_nd(part, stays) for part in given)
            found, later_exits, processed = after(images_, thresholds_, handed_on)
            return (
                tf.tensor_scatter_nd_update(here, stays, found),
                tf.tensor_scatter_nd_update(exits, stays, later_exits),
                processed,
            )

        later = thresholds.shape[1] - self.transformer.index
        found = tf.cond(tf.size(stays) > 0, go_on, lambda: (here, exits, tf.zeros((later,), tf.int32)))
        return (*found[:2], tf.concat([rows, found[2]], 0))

    def _upstream(self, handed_on: list[tf.Tensor]) -> TransformerOutputs | None:
        if not handed_on:
            return None
        nothing = tf.zeros((0,))  # what nothing downstream looks at
        features, *used = handed_on
        relationships = [nothing] * self.transformer.config.depth
        for i, relationship in zip(self.transformer.used_blocks, used, strict=True):
            relationships[i] = relationship
        return TransformerOutputs(nothing, features, relationships, None, None)
