"""Results of every exit, made up: for what works from stored results and needs no model."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvt_tf.results import TOP_LOGITS, ExitResults

GMACS = (1.0, 3.0, 8.0)


def made_up(images: int = 400, exits: int = 3, classes: int = 10, seed: int = 0, **changes: Any) -> ExitResults:
    """Results whose later exits are surer and more often right, and which fit together as a model's do.

    Args:
        changes: fields of `ExitResults` to set otherwise.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images).astype(np.int32)
    hardness = random.normal(size=(images, 1))  # an image is hard for all exits alike
    logits = random.normal(size=(images, exits, classes))
    sure = 1.5 + 1.2 * np.arange(exits) - 1.3 * hardness
    logits[np.arange(images), :, labels] += sure
    ordered = -np.sort(-logits, -1)
    most = min(TOP_LOGITS, classes)
    rest = np.log(np.exp(ordered[..., most:]).sum(-1)) if classes > most else np.full((images, exits), -np.inf)
    own = logits[np.arange(images), :, labels]
    return ExitResults(
        **{
            "confidences": (np.exp(ordered[..., 0]) / np.exp(logits).sum(-1)).astype(np.float32),
            "predictions": logits.argmax(-1).astype(np.int32),
            "gmacs": np.array(GMACS[:exits]),
            "top_logits": ordered[..., :most].astype(np.float32),
            "rest": rest.astype(np.float32),
            "num_classes": classes,
            "labels": labels,
            "in_top5": (logits > own[..., None]).sum(-1) < 5,
            "label_logits": own.astype(np.float32),
            "about": {
                "model": "made up",
                "weights": "0" * 64,
                "precision": "float32",
                "data": "made_up",
                "split": "calibration",
            },
            **changes,
        }
    )


def without_labels(results: ExitResults) -> dict[str, None]:
    """Changes that take the labels away."""
    assert results.labels is not None
    return {"labels": None, "in_top5": None, "label_logits": None}
