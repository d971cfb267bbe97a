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
        model, classes = self.model, self.model.config.num_classes
        count = tf.shape(images)[0]
        thresholds = tf.where(thresholds >= 0.0, thresholds, NEVER)  # a NaN is not >= 0 either
        going = tf.range(count)  # indices, into the batch, of the rows that go on
        probabilities = tf.zeros((count, classes))
        exits = tf.zeros((count,), tf.int32)
        processed = []
        upstream: list[tf.Tensor] = []  # what the Transformer before hands on: features, then relationships
        for k, transformer in enumerate(self.form.transformers):
            is_last = k + 1 == model.num_exits
            logits, handed_on = _Stage(transformer, images, upstream, going, first=k == 0, is_last=is_last)()
            processed.append(tf.shape(logits)[0])
            here = tf.nn.softmax(logits)  # (rows going, C)
            if is_last:
                leaves = tf.ones_like(going, tf.bool)
            else:
                leaves = tf.reduce_max(here, -1) >= tf.gather(thresholds[:, k], going)
            left = tf.boolean_mask(going, leaves)[:, None]
            probabilities = tf.tensor_scatter_nd_update(probabilities, left, tf.boolean_mask(here, leaves))
            exits = tf.tensor_scatter_nd_update(exits, left, tf.fill(tf.shape(left)[:1], k + 1))
            if not is_last:
                stays = tf.where(~leaves)[:, 0]
                going = tf.gather(going, stays)
                upstream = [tf.gather(part, stays) for part in handed_on]
        result = {
            "probabilities": probabilities,
            "confidence": tf.reduce_max(probabilities, -1),
            "exit": exits,
            "gmacs": tf.gather(tf.constant(np.concatenate([[0.0], self.gmacs]), tf.float32), exits),
        }
        return result, tf.stack(processed)


class _Stage:
    """One Transformer on the rows that go on; none of it runs where there are none.

    Its call gives the logits, and what it hands on to the next: features, then the relationships of each block.
    """

    def __init__(
        self,
        transformer: Any,
        images: tf.Tensor,
        upstream: list[tf.Tensor],
        going: tf.Tensor,
        first: bool,
        is_last: bool,
    ) -> None:
        self.transformer = transformer
        self.images = images
        self.upstream = upstream
        self.going = going
        self.first, self.is_last = first, is_last

    def __call__(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        logits, *handed_on = tf.cond(tf.size(self.going) > 0, self._run, self._none)
        return logits, handed_on

    def _run(self) -> list[tf.Tensor]:
        images = self.images if self.first else tf.gather(self.images, self.going)
        upstream = None
        if not self.first:
            features, *relationships = self.upstream
            nothing = tf.zeros((0,))  # the upstream's own logits: nothing downstream looks at them
            upstream = TransformerOutputs(nothing, features, relationships, None, None)
        outputs = self.transformer(images, upstream=upstream)
        return [outputs.logits] if self.is_last else [outputs.logits, outputs.features, *outputs.relationships]

    def _none(self) -> list[tf.Tensor]:
        c, length = self.transformer.config, 1 + self.transformer.grid**2
        logits = tf.zeros((0, c.num_classes))
        if self.is_last:
            return [logits]
        relationship = tf.zeros((0, c.num_heads, length, length))
        return [logits, tf.zeros((0, length, c.dim)), *[relationship] * c.depth]
