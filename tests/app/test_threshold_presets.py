"""Thresholds that the page offers: what a card was calibrated for, each once, in words that say what it promises."""

from typing import Any

import numpy as np

from app.threshold_presets import Preset, presets_of
from dvt_tf.exit_rule import NEVER

GMACS = np.array([1.0, 3.0, 8.0])


def calibrated(values: list[float], **more: Any) -> dict[str, Any]:
    return {"values": values, "method": "found somehow", "data": "digits@calibration", "images": 400, **more}


def promised(values: list[float], risk: str, level: float) -> dict[str, Any]:
    promise = {"risk": risk, "level": level, "confidence": 0.95, "about": "new sources"}
    return calibrated(values, guarantee=promise, expected={"gmacs": 4.0, "agreement": 0.98})


def budgets(measure: str = "top1") -> dict[str, Any]:
    known = [(1.0, 0.6, [0.0, 0.0]), (2.0, 0.8, [0.5, 0.2]), (4.0, 0.9, [0.9, 0.7]), (5.0, 0.95, [0.95, 0.9])]
    points = [{"gmacs": gmacs, measure: reached, "thresholds": values} for gmacs, reached, values in known]
    return {"points": points, "measure": measure}


def named(presets: list[Preset]) -> dict[str, list[float]]:
    return {preset.name: preset.thresholds for preset in presets}


def test_presets() -> None:
    card = {
        "thresholds": calibrated([0.8, 0.6], expected={"gmacs": 3.2, "top1": 0.88, "full_top1": 0.9}),
        "budgets": budgets(),
        "guarantees": [promised([0.97, 0.9], "disagreement", 0.02), promised([0.9, 0.7], "accuracy_drop", 0.01)],
    }
    presets = presets_of(card, GMACS)
    assert named(presets) == {
        "The model's own": [0.8, 0.6],
        "25% of the cost": [0.5, 0.2],
        "75% of the cost": [0.95, 0.9],
        "As good as the last exit": [0.9, 0.7],  # so does 50 % of the cost, and the promise: each is there once
        "Promise: ≤ 2% other answers": [0.97, 0.9],
    }
    own, quarter = presets[:2]
    assert own.detail == "0.80, then 0.60 · 3.20 GFLOPs"
    assert own.title == (
        "found somehow. Thresholds 0.80, then 0.60. Expected where they were chosen: 3.20 GFLOPs, top-1 88.0%."
    )
    assert "most accurate within 25% of the full cost" in quarter.title
    assert presets[-1].title == (
        "Promised with 95% confidence: at most 2% of images of new sources get another answer than the full cascade's "
        "(Learn-then-Test). Thresholds 0.97, then 0.90. Expected where they were chosen: 4.00 GFLOPs, 98.0% answered "
        "as by the full cascade."
    )


def test_as_good_as_the_last_exit_is_on_the_images_of_the_budgets() -> None:
    name = "As good as the last exit"
    # A guarantee expects what it does on its own half of the images, where the last exit may be another 0.85.
    half = {"gmacs": 3.0, "top1": 0.84, "full_top1": 0.85}
    kept = {**promised([0.97, 0.9], "disagreement", 0.02), "expected": half}
    told = {"thresholds": kept, "budgets": {**budgets(), "full": 0.92}}
    assert named(presets_of(told, GMACS))[name] == [0.95, 0.9]
    assert named(presets_of({"thresholds": kept, "budgets": budgets()}, GMACS))[name] == [0.95, 0.9]
    assert named(presets_of({**told, "budgets": {**budgets(), "full": 0.85}}, GMACS))[name] == [0.9, 0.7]


def test_presets_of_cards_that_know_less() -> None:
    bare = {"values": [NEVER, NEVER], "method": "none"}
    assert named(presets_of({"thresholds": bare}, GMACS)) == {"The model's own": [NEVER, NEVER]}
    assert presets_of({"thresholds": {"values": []}}, GMACS[:1]) == []
    own = presets_of({"thresholds": promised([0.9, 0.9], "accuracy_drop", 0.01)}, GMACS)[0]
    assert own.title.startswith("Promised with 95% confidence: at most 1% of images of new sources are answered wrong")
    agreeing = presets_of({"thresholds": bare, "budgets": budgets("agreement")}, GMACS)
    assert "As good as the last exit" not in named(agreeing)  # nothing the card knows agrees always
    assert "80.0% answered as by the full cascade" in agreeing[1].title
