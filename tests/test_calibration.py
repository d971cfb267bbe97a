"""Thresholds into a card: for a budget, with a guarantee, what is said of them, and budgets looked up later."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.calibration import (
    budget_points,
    budget_table,
    calibrated,
    for_budget,
    stale_note,
    thresholds_for_budget,
    with_guarantee,
)
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import check_card, weights_digest
from dvt_tf.exit_rule import NEVER, route
from dvt_tf.results import ExitResults
from dvt_tf.thresholds import choose, least_images, operate
from tests.cascades import small_cascade
from tests.exit_results import GMACS, made_up, without_labels


@pytest.fixture(scope="module")
def results() -> ExitResults:
    return made_up(2000)


@pytest.fixture(scope="module")
def unlabelled(results: ExitResults) -> ExitResults:
    return dataclasses.replace(results, **without_labels(results))


@pytest.mark.parametrize("method", ["exact", "evolutionary", "published"])
def test_for_a_budget(results: ExitResults, method: str) -> None:
    found = for_budget(results, 4.0, method)
    [best] = choose(results.confidences, results.correct, results.gmacs, 4.0, method)
    np.testing.assert_array_equal(np.float32(found.entry["values"]), best.thresholds)
    assert found.expected["gmacs"] == pytest.approx(best.gmacs)
    assert found.expected["gmacs"] <= 4.0
    assert found.expected["top1"] == pytest.approx(best.accuracy)
    assert found.expected["full_top1"] == pytest.approx(results.correct[:, -1].mean())
    np.testing.assert_allclose(found.expected["exit_shares"], best.shares)
    assert found.entry["budget"] == 4.0
    entry = {key: found.entry[key] for key in ("data", "images", "weights", "precision")}
    assert entry == {"data": "made_up@calibration", "images": 2000, "weights": "0" * 64, "precision": "float32"}
    assert "4 GFLOPs" in found.entry["method"]
    assert len(found.notes) == 1
    json.dumps(found.entry)


@pytest.mark.parametrize(
    ("budget", "taken", "words"), [(0.5, 1.0, "below what exit 1"), (80, 8.0, "above what the full")]
)
def test_a_budget_out_of_reach_is_clamped_and_said(
    results: ExitResults, budget: float, taken: float, words: str
) -> None:
    found = for_budget(results, budget)
    assert found.entry["budget"] == taken
    assert words in found.notes[0]


def test_what_cannot_be_chosen_is_refused(results: ExitResults, unlabelled: ExitResults) -> None:
    with pytest.raises(ValueError, match="need labels, and made_up@calibration has none"):
        for_budget(unlabelled, 4.0)
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a number of GFLOPs above 0"):
            for_budget(results, budget)
    with pytest.raises(ValueError, match="one exit"):
        for_budget(made_up(50, exits=1), 1.0)
    with pytest.raises(ValueError, match="one exit"):
        with_guarantee(made_up(50, exits=1), "disagreement", 0.1)
    with pytest.raises(ValueError, match="unknown method"):
        for_budget(results, 4.0, "best")


@pytest.mark.parametrize("risk", ["disagreement", "accuracy_drop"])
def test_with_a_guarantee(results: ExitResults, risk: str) -> None:
    found = with_guarantee(results, risk, 0.05, 0.9)
    promise = found.entry["guarantee"]
    assert (promise["risk"], promise["level"], promise["confidence"]) == (risk, 0.05, 0.9)
    assert promise["images"] == 1000
    assert promise["losses"] <= 50  # or the test could not have passed
    assert promise["about"] == "new images"
    assert found.expected["gmacs"] < GMACS[-1]
    assert "Promised with 0.9 confidence: at most 5 % of images" in found.notes[0]
    assert "Tested on 1,000 images of made_up@calibration" in found.notes[1]
    assert "void" in found.notes[2]
    json.dumps(found.entry)
    # The same data give the same promise: it is no draw that can be repeated until it pleases.
    assert with_guarantee(results, risk, 0.05, 0.9) == found
    stricter = with_guarantee(results, risk, 0.01, 0.9)
    assert stricter.expected["gmacs"] > found.expected["gmacs"]


def test_disagreement_needs_no_labels_and_a_drop_does(results: ExitResults, unlabelled: ExitResults) -> None:
    found = with_guarantee(unlabelled, "disagreement", 0.05)
    assert found.entry["values"] == with_guarantee(results, "disagreement", 0.05).entry["values"]
    assert "top1" not in found.expected
    assert 0.9 < found.expected["agreement"] <= 1.0
    with pytest.raises(ValueError, match="needs labels"):
        with_guarantee(unlabelled, "accuracy_drop", 0.05)


def test_where_leaving_early_always_differs_the_full_cascade_is_left() -> None:
    results = made_up(1000, classes=10)
    predictions = results.predictions.copy()
    predictions[:, :-1] = (predictions[:, -1:] + 1) % 10
    # All alike sure, so that no few can leave that a promise of one of a hundred would allow.
    changes = {"predictions": predictions, "confidences": np.ones_like(results.confidences)}
    found = with_guarantee(dataclasses.replace(results, **changes), "disagreement", 0.01)
    assert found.entry["values"] == [NEVER, NEVER]
    assert found.expected["agreement"] == 1.0
    assert "Nothing cheaper than the full cascade could be certified" in found.notes[0]


@pytest.mark.parametrize(("images", "fits"), [(598, True), (596, False)])
def test_too_few_images_say_how_many_would_do(images: int, fits: bool) -> None:
    results = made_up(images)
    assert 2 * least_images(0.01, 0.95) == 598
    if fits:
        with_guarantee(results, "disagreement", 0.01)
        return
    with pytest.raises(
        ValueError, match=r"596 images, and half of them certify: .*598 would do, or a promise of 0\.011"
    ):
        with_guarantee(results, "disagreement", 0.01)


def grouped(count: int, each: int) -> ExitResults:
    """Results of `count` sources with `each` images."""
    return made_up(count * each, sources=np.repeat(np.arange(count, dtype=np.int32), each))


def test_one_image_of_a_source_certifies() -> None:
    results = grouped(200, 5)
    found = with_guarantee(results, "disagreement", 0.05)
    assert found.entry["guarantee"]["images"] == 100
    assert found.entry["guarantee"]["about"] == "new sources"
    assert "new sources" in found.notes[1]
    with pytest.raises(ValueError, match=r"images of 200 sources, and half .* 598 would do"):
        with_guarantee(results, "disagreement", 0.01)
    pool = with_guarantee(results, "disagreement", 0.05, pool=True)
    assert pool.entry["guarantee"]["images"] == 500
    assert pool.entry["guarantee"]["about"] == "this pool of sources"
    assert "the very sources in the data, and of no others" in pool.notes[1]


def test_no_source_is_in_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    from dvt_tf import calibration

    results = grouped(60, 4)
    seen: dict[str, np.ndarray] = {}
    safest_first, certify = calibration.safest_first, calibration.certify

    def tuned(confidences: np.ndarray, *rest: object) -> object:
        seen["tune"] = confidences
        return safest_first(confidences, *rest)  # type: ignore[arg-type]

    def tested(path: object, confidences: np.ndarray, *rest: object) -> object:
        seen["test"] = confidences
        return certify(path, confidences, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration, "safest_first", tuned)
    monkeypatch.setattr(calibration, "certify", tested)
    with_guarantee(results, "disagreement", 0.2)
    source_of = {row.tobytes(): source for row, source in zip(results.confidences, results.sources)}  # type: ignore[arg-type]
    tune = {source_of[row.tobytes()] for row in seen["tune"]}
    test = [source_of[row.tobytes()] for row in seen["test"]]
    assert len(test) == len(set(test)) == 30
    assert not tune & set(test)
    assert len(seen["tune"]) == 30 * 4


# Budgets in a card


def test_budgets_are_kept_and_looked_up(results: ExitResults) -> None:
    card = calibrated({"name": "x", "figures": {"exits": [], "adaptive": {}}}, for_budget(results, 4.0), results)
    assert card["figures"] == {"exits": []}  # what was measured at other thresholds would mislead
    table = card["budgets"]
    assert (table["measure"], table["images"], table["data"]) == ("top1", 2000, "made_up@calibration")
    assert table["full"] == pytest.approx(results.correct[:, -1].mean())
    costs = [point[0] for point in budget_points(card)]
    assert costs == sorted(costs)
    assert (costs[0], len(costs) > 10) == (1.0, True)
    gmacs = results.gmacs
    for budget in np.linspace(1.0, 8.0, 15):
        thresholds, note = thresholds_for_budget(card, gmacs, budget)
        point = operate(results.confidences, results.correct, gmacs, np.float32(thresholds))
        assert note == ""
        assert point.gmacs <= budget * (1 + 1e-6)
        # No more than a step of the table below the best there is.
        [best] = choose(results.confidences, results.correct, gmacs, max(1.0, budget - 7 / 39))
        assert point.accuracy >= best.accuracy - 1e-9


def test_without_labels_budgets_go_by_agreement(unlabelled: ExitResults) -> None:
    table = budget_table(unlabelled)
    assert (table["measure"], table["full"]) == ("agreement", 1.0)
    assert max(point["agreement"] for point in table["points"]) == 1.0
    point = table["points"][10]
    exits = route(unlabelled.confidences, point["thresholds"]) - 1
    same = unlabelled.predictions[np.arange(2000), exits] == unlabelled.predictions[:, -1]
    assert point["agreement"] == pytest.approx(same.mean())


def test_a_published_curve_is_a_table_of_budgets_too() -> None:
    card = {"published": {"curve": [[2.0, 70.0], [4.0, 75.0]], "thresholds": [[0.4, 0.3], [0.8, 0.7]]}}
    gmacs = np.array(GMACS)
    assert thresholds_for_budget(card, gmacs, 4.5) == ([0.8, 0.7], "")
    assert thresholds_for_budget(card, gmacs, 3.9) == ([0.4, 0.3], "")
    thresholds, note = thresholds_for_budget(card, gmacs, 1.5)
    assert thresholds == [0.0, 0.0]
    assert "the least that the card knows costs more" in note


def test_budgets_that_mean_nothing_are_refused(results: ExitResults) -> None:
    card = {"budgets": budget_table(results)}
    assert "below what exit 1 costs" in thresholds_for_budget(card, results.gmacs, 0.1)[1]
    assert "above what the full cascade costs" in thresholds_for_budget(card, results.gmacs, 100.0)[1]
    with pytest.raises(ValueError, match="above 0"):
        thresholds_for_budget(card, results.gmacs, 0.0)
    with pytest.raises(ValueError, match="dvt calibrate"):
        thresholds_for_budget({}, results.gmacs, 2.0)
    with pytest.raises(ValueError, match="one exit"):
        thresholds_for_budget({}, results.gmacs[:1], 1.0)


# Promises in a card


def test_promises_are_kept_beside_the_thresholds_in_use(results: ExitResults) -> None:
    about_accuracy = with_guarantee(results, "accuracy_drop", 0.02)
    card = calibrated({"name": "x"}, about_accuracy, results)
    assert card["thresholds"] == about_accuracy.entry
    assert card["guarantees"] == [about_accuracy.entry]
    about_answers = with_guarantee(results, "disagreement", 0.05)
    card = calibrated(calibrated(card, about_answers, results), for_budget(results, 4.0), results)
    assert "guarantee" not in card["thresholds"]
    assert card["guarantees"] == [about_accuracy.entry, about_answers.entry]
    again = calibrated(card, about_accuracy, results)
    assert again["guarantees"] == [about_answers.entry, about_accuracy.entry]
    other = dataclasses.replace(results, about={**results.about, "weights": "others"})
    assert "guarantees" not in calibrated(card, for_budget(other, 4.0), other)


def test_promises_that_make_no_sense_are_refused(results: ExitResults) -> None:
    entry = with_guarantee(results, "disagreement", 0.05).entry
    card = {**small_cascade(token_grids=(2, 4, 7)).card, "guarantees": [entry]}
    check_card(card)
    for wrong in ("x", [1], [{**entry, "guarantee": {"risk": "disagreement"}}], [{**entry, "values": [0.5]}]):
        with pytest.raises(ValueError, match="guarantees"):
            check_card({**card, "guarantees": wrong})


# Thresholds that no longer belong to the weights


def small(thresholds: dict) -> DynamicVisionTransformer:
    model = small_cascade(depth=1)
    model.card = {**model.card, "thresholds": {**model.card["thresholds"], **thresholds}}
    return model


def test_changed_weights_are_told() -> None:
    model = small({})
    assert stale_note(model) == ""  # nothing is known of whose thresholds these are
    model = small({"weights": weights_digest(model)})
    assert stale_note(model) == ""
    model.transformers[0].head.bias.assign_add(tf.fill(model.transformers[0].head.bias.shape, 1e-6))
    assert "other weights than it has now" in stale_note(model)
    assert "guarantee" not in stale_note(model)
    model.card = {**model.card, "thresholds": {**model.card["thresholds"], "guarantee": {}}}
    assert "its guarantee is void" in stale_note(model)
