"""`python -m benchmarks.agreement`: how often the bfloat16 form answers as the float32 one, and where images leave."""

from __future__ import annotations

import os
from typing import Annotated

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import typer

from benchmarks.report import Out, Report
from dvt_tf import datasets
from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.exit_rule import NEVER

BATCH = 128


def main(
    model: Annotated[str, typer.Option(help="A model folder, or a preset with bundled weights.")] = "dvt_tiny_digits",
    data: Annotated[str, typer.Option(metavar="SPEC", help="Its test split is classified.")] = "digits",
    limit: Annotated[int, typer.Option(help="At most so many images; 0 for all.")] = 0,
    out: Out = None,
) -> None:
    """Classify a test split in both precisions: at each exit alone, and leaving early by the card's thresholds."""
    cascade = DynamicVisionTransformer.from_preset(model)
    exits = cascade.num_exits
    classifiers = [AdaptiveClassifier(cascade, precision=precision) for precision in ("float32", "bfloat16")]
    settings = {f"exit {k + 1} alone": [NEVER] * k + [0.0] * (exits - 1 - k) for k in range(exits)}
    settings["leaving early"] = cascade.card["thresholds"]["values"]
    same = {name: np.zeros((0, 2), bool) for name in settings}
    right = {name: np.zeros((0, 2), bool) for name in settings}
    for images, labels in datasets.load(data, "test", cascade.card, BATCH, limit=limit):
        for name, thresholds in settings.items():
            full, half = (one(images, thresholds) for one in classifiers)
            answers = [one["probabilities"].numpy().argmax(-1) for one in (full, half)]
            exits_ = [one["exit"].numpy() for one in (full, half)]
            agree = np.stack([answers[0] == answers[1], exits_[0] == exits_[1]], 1)
            same[name] = np.concatenate([same[name], agree])
            right[name] = np.concatenate([right[name], np.stack(answers, 1) == labels.numpy()[:, None]])
    count = len(next(iter(same.values())))
    report = Report("agreement", f"{model}: bfloat16 beside float32 on {count} images of {data}@test", out)
    rows = [
        [name, *(f"{100 * share:.2f}" for share in (*same[name].mean(0), *right[name].mean(0)))] for name in settings
    ]
    report.table(("", "same answer, %", "same exit, %", "float32 right, %", "bfloat16 right, %"), rows)
    report.close()


if __name__ == "__main__":
    typer.run(main)
