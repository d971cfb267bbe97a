"""Mixup and CutMix of a whole batch with its reverse, and the soft targets that go with them."""

from __future__ import annotations

import tensorflow as tf

from training.draws import beta, chance, sub_seed, whole_number

_SWITCH, _MIXUP, _CUTMIX, _ROW, _COLUMN = range(5)  # what a draw is for


@tf.autograph.experimental.do_not_convert
def mix_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    num_classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch: float = 0.5,
    label_smoothing: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes image i of B with image B - 1 - i, all in the same way, and their labels accordingly.

    Either their weighted mean (mixup, Zhang et al., 2018, arXiv 1710.09412) or one with a box of the other (CutMix, Yun
    et al., 2019, arXiv 1905.04899): the share of the first is drawn once for the batch from Beta(alpha, alpha).

    Args:
        images: float32 (B, S, S, 3). labels: int32 (B,). seed: int32 (2,).
        mixup, cutmix: alpha of each; 0 leaves it out. switch: probability of CutMix where there are both.
        label_smoothing: share of the targets that is spread evenly over all classes (Szegedy et al., 2016).

    Returns:
        images: float32 (B, S, S, 3).
        targets: float32 (B, num_classes), each row with sum 1.
    """
    even = label_smoothing / num_classes
    targets = tf.one_hot(labels, num_classes, on_value=1.0 - label_smoothing + even, off_value=even)
    if not (mixup or cutmix):
        return images, targets
    if not (images.shape[1] and images.shape[1] == images.shape[2]):
        raise ValueError(f"images must be a batch of squares of known size, (B, S, S, 3); got shape {images.shape}")
    weights, share = draw_weights(seed, images.shape[1], mixup, cutmix, switch)
    mixed = weights * images + (1.0 - weights) * tf.reverse(images, [0])
    return mixed, share * targets + (1.0 - share) * tf.reverse(targets, [0])


def draw_weights(seed: tf.Tensor, size: int, mixup: float, cutmix: float, switch: float) -> tuple[tf.Tensor, tf.Tensor]:
    """How much of each pixel an image keeps, and how much in all; at least one alpha is above 0.

    Returns:
        weights: float32 (size, size, 1): the same everywhere for mixup; 0 in CutMix's box and 1 outside.
        share: float32 (): their mean, so of a box that reaches over the border only what is inside counts.
    """

    def blended() -> tuple[tf.Tensor, tf.Tensor]:
        share = tf.cast(beta(sub_seed(seed, _MIXUP), mixup), tf.float32)
        return tf.fill([size, size, 1], share), share

    def boxed() -> tuple[tf.Tensor, tf.Tensor]:
        side = tf.cast(size * tf.sqrt(1.0 - beta(sub_seed(seed, _CUTMIX), cutmix)), tf.int64)

        def covered(purpose: int) -> tf.Tensor:
            middle = whole_number(sub_seed(seed, purpose), size)
            place = tf.range(size, dtype=tf.int64)
            return (place >= middle - side // 2) & (place < middle + side // 2)

        rows, columns = covered(_ROW), covered(_COLUMN)
        weights = tf.where(rows[:, None] & columns[None, :], 0.0, 1.0)[..., None]
        area = tf.math.count_nonzero(rows) * tf.math.count_nonzero(columns)
        return weights, tf.cast(1.0 - tf.cast(area, tf.float64) / size**2, tf.float32)

    if not (mixup and cutmix):
        return blended() if mixup else boxed()
    return tf.cond(chance(sub_seed(seed, _SWITCH), switch), boxed, blended)
