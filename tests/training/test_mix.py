"""Mixup and CutMix: one share for the whole batch, the reverse as partner, and targets that fit the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.seeds import off_by, over_seeds, uniform_distance
from training.mix import draw_weights, mix_batch

SEED = tf.constant([1, 2])


def batch(count: int, size: int = 16) -> tuple[tf.Tensor, tf.Tensor]:
    """Image i has the value i everywhere and class i."""
    images = tf.range(count, dtype=tf.float32)[:, None, None, None] * tf.ones([1, size, size, 3])
    return images, tf.range(count)


@given(
    count=st.integers(1, 7),
    mixup=st.sampled_from([0.0, 0.2, 0.8]),
    cutmix=st.sampled_from([0.0, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=50)
def test_pixels_and_targets_have_the_same_share_of_both(
    count: int, mixup: float, cutmix: float, smoothing: float, seed: int
) -> None:
    images, labels = batch(count)
    mixed, targets = mix_batch(images, labels, tf.constant([seed, 0]), 8, mixup, cutmix, 0.5, smoothing)
    assert mixed.shape == images.shape
    assert targets.shape == (count, 8)
    assert targets.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(targets, 1), 1.0, atol=1e-6)
    # The mean pixel is share * i + (1 - share) * partner; so is the mean label, but for what smoothing spreads.
    mean_label = tf.linalg.matvec(targets, tf.range(8, dtype=tf.float32)).numpy()
    mean_pixel = tf.reduce_mean(mixed, (1, 2, 3)).numpy()
    np.testing.assert_allclose(mean_label, (1 - smoothing) * mean_pixel + smoothing * 3.5, atol=1e-4)


def test_all_images_of_a_batch_are_mixed_alike_with_their_reverse() -> None:
    images, labels = batch(6)
    for number in range(8):
        mixed, targets = mix_batch(images, labels, tf.constant([number, 0]), 6, mixup=0.8, cutmix=1.0)
        share = targets[0, 0].numpy()
        for row in range(6):
            assert targets[row, row].numpy() == pytest.approx(share, abs=1e-6)
            assert targets[row, 5 - row].numpy() == pytest.approx(1 - share, abs=1e-6)
        values = set(np.unique(mixed[0]))
        assert values <= {0.0, 5.0} or len(values) == 1  # a box, or one value everywhere


def test_smoothing_is_spread_over_all_classes_of_both() -> None:
    images, labels = batch(2)
    _, targets = mix_batch(images, labels, SEED, 4, label_smoothing=0.1)
    np.testing.assert_allclose(targets, [[0.925, 0.025, 0.025, 0.025], [0.025, 0.925, 0.025, 0.025]], atol=1e-6)
    _, targets = mix_batch(images, labels, SEED, 4, mixup=0.8, label_smoothing=0.1)
    share = targets[0, 0].numpy() - 0.025
    np.testing.assert_allclose(targets[0], [share + 0.025, 0.925 - share, 0.025, 0.025], atol=1e-6)


def test_without_either_nothing_is_mixed() -> None:
    images, labels = batch(3)
    mixed, targets = mix_batch(images, labels, SEED, 3)
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(targets, np.eye(3))


def test_shares_come_from_the_beta_distribution() -> None:
    count = 1500
    mixup = over_seeds(lambda seed: draw_weights(seed, 4, 0.8, 0.0, 0.5)[1], count)
    assert mixup.min() >= 0
    assert mixup.max() <= 1
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2a + 1)).
    assert abs(mixup.mean() - 0.5) < 0.03
    assert mixup.var() == pytest.approx(1 / (4 * 2.6), rel=0.1)
    tiny = over_seeds(lambda seed: draw_weights(seed, 4, 0.01, 0.0, 0.5)[1], 200)
    assert np.isfinite(tiny).all()


def test_boxes_have_the_area_of_their_share_and_their_middle_anywhere() -> None:
    count, size = 1500, 64
    # With this alpha every share is a half, but for some thousandths, and so every side 2 * 22.
    weights, shares = over_seeds(lambda seed: draw_weights(seed, size, 0.0, 10_000.0, 0.5), count)
    np.testing.assert_allclose(weights.mean((1, 2, 3)), shares, atol=1e-6)
    covered = weights[..., 0] == 0
    rows, columns = covered.any(2), covered.any(1)
    np.testing.assert_array_equal(covered, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        first, end = side.argmax(1), size - side[:, ::-1].argmax(1)
        middles = np.where(first > 0, first + 22, end - 22)
        np.testing.assert_array_equal(first, np.maximum(middles - 22, 0))
        np.testing.assert_array_equal(end, np.minimum(middles + 22, size))
        assert (middles.min(), middles.max()) == (0, size - 1)
        assert uniform_distance(middles + 0.5, 0, size) < 2.5


def test_cutmix_replaces_mixup_as_often_as_asked() -> None:
    count = 1500
    weights, _ = over_seeds(lambda seed: draw_weights(seed, 8, 0.8, 1.0, 0.3), count)
    flat = weights.reshape(count, -1)
    is_box = np.isin(flat, [0.0, 1.0]).all(1)
    assert off_by(is_box.mean(), 0.3, count) < 3.5


def test_shares_are_the_same_everywhere() -> None:
    shares = [float(draw_weights(tf.constant([5, number]), 224, 0.8, 1.0, 0.5)[1]) for number in range(4)]
    assert shares == pytest.approx([0.79838884, 0.41725129, 0.88879144, 0.91823906], rel=1e-6)


def test_batches_in_tf_data_follow_the_seed_alone() -> None:
    images, labels = batch(5)

    def mixed(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.cast(number, tf.int32) * 0 + 5  # not known while the graph is made
        return mix_batch(images[:rows], labels[:rows], tf.stack([3, number]), 5, 0.8, 1.0, 0.5, 0.1)

    dataset = tf.data.Dataset.range(4, output_type=tf.int32).map(mixed)
    first, again = list(dataset.as_numpy_iterator()), list(dataset.as_numpy_iterator())
    for number, (one, other) in enumerate(zip(first, again, strict=True)):
        for part, same, eager in zip(one, other, mixed(tf.constant(number)), strict=True):
            np.testing.assert_array_equal(part, same)
            np.testing.assert_allclose(part, eager, atol=1e-6)
    assert len({pixels.tobytes() for pixels, _ in first}) == 4


def test_images_of_unknown_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"squares of known size.*got shape \(2, 4, 5, 3\)"):
        mix_batch(tf.zeros([2, 4, 5, 3]), tf.constant([0, 1]), SEED, 2, mixup=0.8)
