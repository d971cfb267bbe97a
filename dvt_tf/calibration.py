"""A card's thresholds from stored results, for a budget or with a guarantee, and what a card says of budgets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import weights_digest
from dvt_tf.evaluation import budgets_between
from dvt_tf.results import ExitResults
from dvt_tf.thresholds import (
    Operating,
    certify,
    choose,
    clamp_budget,
    describe_method,
    least_images,
    losses_of,
    operate,
    safest_first,
)

_SEED = 0  # of the split into images to tune on and images to certify on
_VOID = (
    "It is void for other weights or preprocessing, another precision of arithmetic, and images of another kind; "
    "and it holds for one promise: whoever makes several and keeps the best has none."
)


class Calibration(NamedTuple):
    """Thresholds and all that is to be said of them.

    entry: the card's `thresholds`, plain JSON values. expected: what they do on the images they were chosen on, or
    certified on: `gmacs`, `exit_shares`, `agreement` (answers that are the full cascade's) and, with labels, `top1` and
    `full_top1`. notes: sentences for people.
    """

    entry: dict[str, Any]
    expected: dict[str, Any]
    notes: list[str]


def for_budget(results: ExitResults, budget: float, method: str = "exact") -> Calibration:
    """The most accurate thresholds within a budget.

    Args:
        results: of held-out images with labels. budget: mean cost, 10^9 multiply-accumulates. method: see `choose`.

    Raises:
        ValueError: no labels, a budget that is no number above 0, a cascade of one exit, or an unknown method.
    """
    check_several(results.num_exits)
    if results.labels is None:
        raise ValueError(
            f"thresholds for a budget need labels, and {results.where} has none; "
            "a promise about disagreement needs none"
        )
    budget, note = clamp_budget(budget, results.gmacs)
    [point] = choose(results.confidences, results.correct, results.gmacs, budget, method)
    words = describe_method(method, results.num_exits)
    found = chosen(results, point, f"most accurate within {budget:.4g} GFLOPs ({words})")
    notes = [note, f"Chosen by {words}."] if note else [f"Chosen by {words}."]
    return Calibration({**found.entry, "budget": budget}, found.expected, notes)


def chosen(results: ExitResults, point: Operating, method: str) -> Calibration:
    """Thresholds that were found in any other way, on these results; `method` says how, in words."""
    expected = _expected(results, point.thresholds)
    return Calibration({**_entry(results, point.thresholds, method), "expected": expected}, expected, [])


def with_guarantee(
    results: ExitResults, risk: str, level: float, confidence: float = 0.95, pool: bool = False
) -> Calibration:
    """The cheapest thresholds whose risk is promised to be at most a level (`dvt_tf.thresholds.guarantee`).

    Half of the images fix the path, the others certify. Where several images are of one source, a source is in one half
    alone and one image of it certifies, so that the promise is about new sources.

    Args:
        results: of held-out images. risk: disagreement or accuracy_drop. level: the share promised. confidence: of it.
        pool: takes all images for independent: the promise is then about new images of these same sources.

    Raises:
        ValueError: too few images (the message says how many would do), no labels for accuracy_drop, a level or a
            confidence that is no share, or a cascade of one exit.
    """
    check_several(results.num_exits)
    losses = losses_of(results.predictions, risk, results.labels)
    least = least_images(level, confidence)
    sources = None if pool else results.sources
    tune, test = _halves(len(results), sources)
    if len(test) < least:
        have = f"{len(results):,} images" if sources is None else f"images of {len(np.unique(sources)):,} sources"
        other = _attainable(len(test), confidence)
        raise ValueError(
            f"{results.where} has {have}, and half of them certify: too few to promise {level:g} with {confidence:g} "
            f"confidence. {2 * least:,} would do, or a promise of {other:.2g}"
        )
    path = safest_first(results.confidences[tune], losses[tune], results.gmacs)
    found = certify(path, results.confidences[test], losses[test], level, confidence)
    expected = _expected(results.take(test), found.thresholds)
    promise = {
        "risk": risk,
        "level": level,
        "confidence": confidence,
        "images": found.images,
        "losses": found.losses,
        "tested_along": hashlib.sha256(np.concatenate([np.zeros(0, "<f4"), *path]).tobytes()).hexdigest(),
        "about": "new sources"
        if sources is not None
        else "this pool of sources"
        if results.sources is not None
        else "new images",
    }
    method = f"Learn-then-Test: {risk} at most {level:g} with {confidence:g} confidence"
    entry = {**_entry(results, found.thresholds, method), "guarantee": promise, "expected": expected}
    return Calibration(entry, expected, _promise_in_words(results, promise, bool(found.passed)))


def budget_table(results: ExitResults) -> dict[str, Any]:
    """What a card keeps for choosing a budget later: the best thresholds for every budget, plain JSON values.

    Without labels they are those that agree most with the full cascade. `full` is what the last exit alone reaches, by
    the same measure and on the same images.
    """
    if results.labels is None:
        measure, good = "agreement", ~losses_of(results.predictions, "disagreement")
    else:
        measure, good = "top1", results.correct
    points: list[dict[str, Any]] = []
    for found in choose(results.confidences, good, results.gmacs, budgets_between(results.gmacs).tolist()):
        point = {
            "gmacs": found.gmacs,
            measure: found.accuracy,
            "thresholds": [float(value) for value in found.thresholds],
        }
        if point not in points:
            points.append(point)
    about = {"method": describe_method("exact", results.num_exits), **_chosen_on(results)}
    return {"points": points, "measure": measure, "full": float(good[:, -1].mean()), **about}


def calibrated(card: Mapping[str, Any], found: Calibration, results: ExitResults) -> dict[str, Any]:
    """The card with these thresholds, and the budgets of the same results; its figures at other thresholds go.

    `guarantees` keeps every promise that was made for these weights, so that one can be gone back to: the latest of
    those about the same risk, level, confidence and images.
    """
    figures = {name: value for name, value in card.get("figures", {}).items() if name != "adaptive"}
    changed = {**card, "thresholds": found.entry, "budgets": budget_table(results), "figures": figures}
    promises = [kept for kept in card.get("guarantees", ()) if kept.get("weights") == found.entry["weights"]]
    if "guarantee" in found.entry:
        promises = [kept for kept in promises if _promised(kept) != _promised(found.entry)] + [found.entry]
    changed.pop("guarantees", None)
    return {**changed, "guarantees": promises} if promises else changed


def thresholds_for_budget(card: Mapping[str, Any], gmacs: np.ndarray, budget: float) -> tuple[list[float], str]:
    """The best thresholds that a card knows within a budget, and what there is to say of the budget ("" for nothing).

    Args:
        card: with `budgets`, as `dvt calibrate` writes them, or with a published checkpoint's curve.
        gmacs: (K,) cumulative cost of the cascade. budget: mean cost, 10^9 multiply-accumulates.

    Raises:
        ValueError: a budget that is no number above 0, or a card that knows no budgets.
    """
    points = budget_points(card)
    if len(gmacs) == 1:
        raise ValueError("the model has one exit: it costs the same for every image, and no budget changes that")
    if not points:
        raise ValueError(
            "the model's card knows no thresholds for budgets; dvt calibrate --model DIR --data SPEC --budget GFLOPS "
            "adds them"
        )
    budget, note = clamp_budget(budget, gmacs)
    within = [point for point in points if point[0] <= budget * (1 + 1e-6)]
    if not within:
        note = note or "the least that the card knows costs more: every image leaves at exit 1"
        return [0.0] * (len(gmacs) - 1), note
    return max(within, key=lambda point: (point[1], -point[0]))[2], note


def budget_points(card: Mapping[str, Any]) -> list[tuple[float, float, list[float]]]:
    """What a card knows of budgets, cheapest first: mean cost, accuracy (or agreement), thresholds."""
    if "budgets" in card:
        table = card["budgets"]
        points = [(at["gmacs"], at[table["measure"]], list(at["thresholds"])) for at in table["points"]]
    else:
        published = card.get("published", {})
        points = [
            (gflops, top1 / 100, list(thresholds))
            for (gflops, top1), thresholds in zip(published.get("curve", ()), published.get("thresholds", ()))
        ]
    return sorted(points, key=lambda point: point[0])


def stale_note(model: DynamicVisionTransformer) -> str:
    """A sentence if the card's thresholds were chosen for other weights than the model has; "" if not."""
    chosen_for = model.card["thresholds"].get("weights")
    if not chosen_for or model.num_exits == 1 or chosen_for == weights_digest(model):
        return ""
    promise = " and its guarantee is void" if "guarantee" in model.card["thresholds"] else ""
    return (
        f"the model's thresholds were chosen for other weights than it has now{promise}: "
        "run dvt calibrate, or give thresholds"
    )


def _promised(entry: Mapping[str, Any]) -> list[Any]:
    """What tells one promise from another."""
    return [entry["guarantee"][key] for key in ("risk", "level", "confidence", "about")]


def check_several(num_exits: int) -> None:
    """Raises ValueError for a model of one exit."""
    if num_exits == 1:
        raise ValueError("the model has one exit, at which every image leaves: there is no threshold to choose")


def _chosen_on(results: ExitResults) -> dict[str, Any]:
    weights = results.about.get("weights", "")
    return {"data": results.where, "images": len(results), "weights": weights}


def _entry(results: ExitResults, thresholds: np.ndarray, method: str) -> dict[str, Any]:
    values = [float(value) for value in thresholds]
    precision = results.about.get("precision", "")
    return {"values": values, "method": method, **_chosen_on(results), "precision": precision}


def _expected(results: ExitResults, thresholds: np.ndarray) -> dict[str, Any]:
    agrees = ~losses_of(results.predictions, "disagreement")
    point = operate(results.confidences, agrees, results.gmacs, thresholds)
    expected: dict[str, Any] = {"gmacs": point.gmacs, "exit_shares": point.shares.tolist(), "agreement": point.accuracy}
    if results.labels is not None:
        expected["top1"] = operate(results.confidences, results.correct, results.gmacs, thresholds).accuracy
        expected["full_top1"] = float(results.correct[:, -1].mean())
    return expected


def _halves(images: int, sources: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Images to tune on and to certify on, by index; each of (images,) sources is in one half, and certifies once."""
    random = np.random.default_rng(_SEED)
    if sources is None:
        shuffled = random.permutation(images)
        return shuffled[: images // 2], shuffled[images // 2 :]
    distinct = random.permutation(np.unique(sources))
    tuning = np.isin(sources, distinct[: len(distinct) // 2])
    others = random.permutation(np.flatnonzero(~tuning))
    _, one_each = np.unique(sources[others], return_index=True)
    return np.flatnonzero(tuning), others[one_each]


def _attainable(images: int, confidence: float) -> float:
    """The least level that so many images can certify, rounded up."""
    level = -np.expm1(np.log1p(-confidence) / max(images, 1))
    step = 10.0 ** (np.floor(np.log10(level)) - 1)
    return float(min(np.ceil(level / step) * step, 0.99))


def _promise_in_words(results: ExitResults, promise: Mapping[str, Any], is_certified: bool) -> list[str]:
    images, lost = promise["images"], promise["losses"]
    if not is_certified:
        return [
            f"Nothing cheaper than the full cascade could be certified on {images:,} images: every image runs it "
            "whole, and so answers as it does."
        ]
    what = (
        "get another answer than the full cascade's"
        if promise["risk"] == "disagreement"
        else "are answered wrongly where the full cascade is right, so top-1 falls by no more"
    )
    of = {
        "new sources": "images of new sources, such as handwritings that are not in the data",
        "this pool of sources": "new images of the very sources in the data, and of no others",
        "new images": "new images drawn as these were",
    }[promise["about"]]
    level = f"{100 * promise['level']:.6g} %"
    return [
        f"Promised with {promise['confidence']:.6g} confidence: at most {level} of images {what}.",
        f"It is about {of}. Tested on {images:,} images of {results.where} that had no part in choosing: "
        f"{lost:,} counted against it.",
        _VOID,
    ]
