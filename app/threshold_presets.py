"""Thresholds that the page offers to choose at once: what a model's card was calibrated for."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.routing import thresholds_text
from app.views import PROMISED_ON, RISKS, gflops, percent
from dvt_tf.calibration import budget_points, thresholds_for_budget

BUDGETS = (0.25, 0.5, 0.75)  # shares of the full cost that can be chosen at once
SHORT_RISKS = {"disagreement": "other answers", "accuracy_drop": "new errors"}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Thresholds to choose at once. thresholds: K-1. name, detail: two short lines. title: all there is to say."""

    name: str
    thresholds: list[float]
    detail: str
    title: str


def presets_of(card: Mapping[str, Any], gmacs: np.ndarray) -> list[Preset]:
    """What a card's calibrations offer: its own thresholds, the best for some budgets, and what it guarantees."""
    if len(gmacs) == 1:
        return []
    found = [_own_preset(card["thresholds"]), *_budget_presets(card, gmacs)]
    found += [_guaranteed_preset(entry) for entry in card.get("guarantees", ()) if entry.get("guarantee")]
    kept: list[Preset] = []
    for preset in found:
        if preset.thresholds not in [other.thresholds for other in kept]:
            kept.append(preset)
    return kept


def _own_preset(entry: Mapping[str, Any]) -> Preset:
    how = _promise(entry) or ("" if entry.get("method", "none") == "none" else f"{entry['method']}.")
    return _preset("The model's own", entry["values"], entry.get("expected", {}), how)


def _guaranteed_preset(entry: Mapping[str, Any]) -> Preset:
    promise = entry["guarantee"]
    risk = SHORT_RISKS.get(promise["risk"], promise["risk"])
    name = f"Promise: ≤ {promise['level'] * 100:g}% {risk}"
    return _preset(name, entry["values"], entry.get("expected", {}), _promise(entry))


def _budget_presets(card: Mapping[str, Any], gmacs: np.ndarray) -> list[Preset]:
    points = budget_points(card)
    if not points:
        return []
    measure, full = card["budgets"]["measure"] if "budgets" in card else "top1", float(gmacs[-1])
    target = _last_exit(card, max(accuracy for _, accuracy, _ in points))
    of_budget = []
    for share in BUDGETS:
        thresholds, note = thresholds_for_budget(card, gmacs, share * full)
        if note:  # below what the cascade can cost
            continue
        cost, accuracy = next((cost, accuracy) for cost, accuracy, values in points if values == thresholds)
        how = f"The most accurate within {share * 100:g}% of the full cost."
        of_budget.append(_preset(f"{share * 100:g}% of the cost", thresholds, {"gmacs": cost, measure: accuracy}, how))
    keeping = [point for point in points if point[1] >= target - 1e-9]
    if keeping:
        cost, accuracy, thresholds = keeping[0]
        how = "The cheapest that is as accurate as running everything, where it was chosen."
        whole = _preset("As good as the last exit", thresholds, {"gmacs": cost, measure: accuracy}, how)
        of_budget = [preset for preset in of_budget if preset.thresholds != whole.thresholds] + [whole]
    return of_budget


def _last_exit(card: Mapping[str, Any], known: float) -> float:
    """What the last exit alone reaches on the images that the card's budgets were chosen on; else the best `known`."""
    budgets, own = card.get("budgets", {}), card["thresholds"]
    if "full" in budgets:
        return float(budgets["full"])
    if budgets.get("measure") == "agreement":
        return 1.0
    # What a guarantee expects is of its own half of the images.
    return known if own.get("guarantee") else float(own.get("expected", {}).get("full_top1", known))


def _preset(name: str, thresholds: Sequence[float], expected: Mapping[str, Any], how: str) -> Preset:
    values = [float(value) for value in thresholds]
    said = [thresholds_text(values)]
    told = [f"Thresholds {thresholds_text(values)}."]
    if "gmacs" in expected:
        said.append(f"{gflops(expected['gmacs'])} GFLOPs")
        told.append(f"Expected where they were chosen: {gflops(expected['gmacs'])} GFLOPs")
        if "top1" in expected:
            told[-1] += f", top-1 {html.unescape(percent(expected['top1']))}"
        elif "agreement" in expected:
            told[-1] += f", {html.unescape(percent(expected['agreement']))} answered as by the full cascade"
        told[-1] += "."
    return Preset(name, values, " · ".join(said), " ".join([how, *told] if how else told))


def _promise(entry: Mapping[str, Any]) -> str:
    promise = entry.get("guarantee", {})
    if promise.get("risk") not in RISKS:
        return ""
    images = PROMISED_ON.get(promise.get("about"), "images")
    return (
        f"Promised with {promise['confidence'] * 100:g}% confidence: at most {promise['level'] * 100:g}% of {images} "
        f"{RISKS[promise['risk']]} (Learn-then-Test)."
    )
