"""Gradients in bfloat16 point where those in float32 do, for every weight of the bundled model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf import datasets
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights


@pytest.mark.slow
def test_every_gradient_has_its_direction() -> None:
    gradients = {}
    for precision in ("float32", "mixed_bfloat16"):
        model = DynamicVisionTransformer.from_preset("dvt_tiny_digits", dtype=precision)
        images, labels = next(iter(datasets.load("digits", "val", model.card, 64, limit=64)))[:2]
        variables = {
            name: weight if isinstance(weight, tf.Variable) else weight.value  # Keras 3 wraps it
            for name, weight in named_weights(model)
            if weight.trainable
        }

        @tf.function(autograph=False)
        def step(model=model, images=images, labels=labels, variables=variables):  # type: ignore[no-untyped-def]
            with tf.GradientTape() as tape:
                outputs = model(images, training=True, seed=tf.constant([1, 2]))
                each = [tf.nn.sparse_softmax_cross_entropy_with_logits(labels, one) for one in outputs.values()]
                loss = tf.reduce_mean(tf.add_n(each))
            return tape.gradient(loss, variables)

        gradients[precision] = {name: np.ravel(gradient) for name, gradient in step().items()}
    cosines = {}
    for name, expected in gradients["float32"].items():
        length = np.linalg.norm(expected)
        if length > 1e-6:  # the last Transformer's relationships have a bias, and its last block features, for nothing
            found = gradients["mixed_bfloat16"][name]
            cosines[name] = found @ expected / (length * np.linalg.norm(found))
    assert len(cosines) > 100
    worst = min(cosines, key=cosines.__getitem__)
    print(f"the least cosine is {cosines[worst]:.4f}, of {worst}")
    assert cosines[worst] > 0.999
