"""What happens on the page, without a page: the model runs once an image, errors are told and passed."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.handlers import Handlers, Outcome, Shown
from app.inference import Analysis, Predictor, load_all
from app.routing import SLIDER_END, position_of, thresholds_text
from app.views import percent
from dvt_tf.checkpoints import weights_digest
from dvt_tf.exit_rule import NEVER
from dvt_tf.image_files import ImageError
from tests.app.models import PETS, page_model, with_budgets


@pytest.fixture(scope="module")
def frugal() -> Predictor:
    """A model of three exits whose card knows budgets."""
    return Predictor(with_budgets(page_model((2, 3, 4), PETS, (0.9, 0.7))), "frugal")


@pytest.fixture
def runs(digits_predictor: Predictor, frugal: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Fills with one entry for every run of either model."""
    seen: list[bytes] = []

    def counted(analyse: Callable[[bytes], Analysis], image_bytes: bytes) -> Analysis:
        seen.append(image_bytes)
        return analyse(image_bytes)

    for predictor in (digits_predictor, frugal):
        monkeypatch.setattr(predictor, "analyse", functools.partial(counted, predictor.analyse))
    return seen


def shown_exit(shown: Shown | Outcome) -> int:
    match = re.search(r'data-testid="exit">exit (\d)', shown.answer)
    assert match is not None
    return int(match[1])


def test_the_slider_never_runs_the_model(digits_predictor: Predictor, runs: list[bytes], picture: Path) -> None:
    handlers = Handlers([digits_predictor])
    name = digits_predictor.name
    said, _ = handlers.analyse(("file", str(picture)), name)
    assert len(runs) == 1
    exits = []
    for step in range(102):
        shown = handlers.move(step / 100, name, said)
        assert len(shown.thresholds) == 2
        exits.append(shown_exit(shown))
    assert len(runs) == 1
    assert (exits[0], exits[-1]) == (1, 3)
    assert exits == sorted(exits)


def test_what_is_kept_is_plain(digits_predictor: Predictor, picture: Path) -> None:
    said, _ = Handlers([digits_predictor]).analyse(("file", str(picture)), digits_predictor.name)

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(plain(part) for part in value.values())
        return all(plain(part) for part in value) if isinstance(value, list) else type(value) in (float, str)

    assert plain(said)


def test_back_to_the_thresholds_of_the_card(digits_predictor: Predictor) -> None:
    handlers = Handlers([digits_predictor])
    own = handlers.own_thresholds(digits_predictor.name, None)
    assert (own.thresholds, own.position, own.each) == ([0.6, 0.4], 0.6, [0.6, 0.4])
    assert "0.60, then 0.40" in own.reading
    assert "the model's own" in own.reading
    assert "the model's own" not in handlers.move(0.6, digits_predictor.name, None).reading
    assert "never early" in handlers.move(SLIDER_END, digits_predictor.name, None).reading


def test_a_slider_for_each_exit_moves_that_one_alone(digits_predictor: Predictor, picture: Path) -> None:
    handlers = Handlers([digits_predictor, Predictor(page_model((2, 3, 4, 7), PETS), "pets")])
    name = digits_predictor.name
    said, _ = handlers.analyse(("file", str(picture)), name)
    before = [0.9147, 0.4]  # finer than the slider's steps, which shows 0.91
    shown = handlers.move_each([0.91, 0.0, SLIDER_END], before, name, said)
    assert shown.thresholds == [0.9147, 0.0]
    assert shown.each == [0.91, 0.0, SLIDER_END]
    assert shown_exit(shown) == 2
    assert handlers.move_each([0.0, 0.0, SLIDER_END], shown.thresholds, name, said).thresholds == [0.0, 0.0]
    never = handlers.move_each([SLIDER_END, SLIDER_END, 0.0], shown.thresholds, name, said)
    assert never.thresholds == [NEVER, NEVER]
    assert shown_exit(never) == 3


def test_a_model_that_cannot_be_loaded_is_told_in_place_of_the_answer(
    digits_predictor: Predictor, tmp_path: Path, picture: Path
) -> None:
    page_model((2, 4), PETS).save_to_preset(tmp_path / "broken")
    (tmp_path / "broken" / "weights.safetensors").write_bytes(b"no weights")
    handlers = Handlers([digits_predictor, *load_all([str(tmp_path / "broken")], load_first=False)])
    said, seen = handlers.analyse(("file", str(picture)), "broken")
    assert seen == ""
    assert "broken cannot be loaded" in handlers.outcome(said, [0.5]).answer
    assert "cat, dog" in handlers.describe("broken")


def test_where_it_looked_runs_the_model_once_more_and_is_told_for_each_exit(
    digits_predictor: Predictor, picture: Path, tmp_path: Path
) -> None:
    handlers = Handlers([digits_predictor])
    panel = handlers.look(("file", str(picture)), digits_predictor.name)
    assert panel.count("<img") >= 3
    assert "Give it an image" in handlers.look(None, digits_predictor.name)
    (tmp_path / "words.png").write_text("no image")
    assert "words.png" in handlers.look(("file", str(tmp_path / "words.png")), digits_predictor.name)


def test_the_budget_slider_sets_the_thresholds_and_never_runs_the_model(
    frugal: Predictor, runs: list[bytes], picture: Path
) -> None:
    handlers = Handlers([frugal])
    said, _ = handlers.analyse(("file", str(picture)), frugal.name)
    slider = handlers.budget_slider(frugal.name)
    assert slider is not None
    assert slider["minimum"] <= frugal.gmacs[0] < frugal.gmacs[-1] <= slider["maximum"] == slider["value"]
    exits, costs = [], []
    for budget in np.arange(slider["minimum"], slider["maximum"] + slider["step"], slider["step"]):
        shown = handlers.spend(float(budget), frugal.name, said)
        thresholds, position, _, reading, budget_reading, *_ = shown
        within = [point for point in frugal.card["budgets"]["points"] if point["gmacs"] <= max(budget, frugal.gmacs[0])]
        assert thresholds == within[-1]["thresholds"] or budget >= slider["maximum"]
        assert position == position_of(thresholds)
        assert f"<b>{percent(within[-1]['top1'])}</b> top-1" in budget_reading
        assert "for the budget below" in reading
        assert thresholds_text(thresholds) in reading
        exits.append(shown_exit(shown))
        costs.append(frugal.gmacs[exits[-1] - 1])
    assert len(runs) == 1
    assert (exits[0], exits[-1]) == (1, 3)
    assert costs == sorted(costs)


def test_a_budget_says_no_more_when_the_thresholds_are_set_otherwise(frugal: Predictor) -> None:
    handlers = Handlers([frugal])
    name = frugal.name
    assert "expected" in handlers.spend(frugal.gmacs[-1], name, None).budget_reading
    for shown in (handlers.move(0.9, name, None), handlers.own_thresholds(name, None)):
        assert "budget" not in shown.reading
        assert "No budget in use" in shown.budget_reading
        assert "GFLOPs" not in shown.budget_reading


def test_a_model_without_budgets_has_no_slider_for_them(digits_predictor: Predictor, frugal: Predictor) -> None:
    one_exit = Predictor(with_budgets(page_model((4,), PETS)), "one exit")
    handlers = Handlers([digits_predictor, frugal, one_exit])
    for name in (digits_predictor.name, "one exit"):
        assert not handlers.predictors[name].knows_budgets
        assert handlers.budget_slider(name) is None
        assert handlers.describe_budgets(name) == ""
    assert "digits@val, 2,000 images" in handlers.describe_budgets(frugal.name)
    # The slider of the model before may still be moved while such a model comes.
    assert handlers.spend(0.1, digits_predictor.name, None) == handlers.own_thresholds(digits_predictor.name, None)


def test_the_model_is_described_with_its_thresholds_and_a_warning_where_they_are_stale() -> None:
    model = page_model((2, 4), PETS, [0.7])
    thresholds = {**model.card["thresholds"], "method": "by eye", "data": "pets@val", "weights": weights_digest(model)}
    model.card = {**with_budgets(model).card, "thresholds": thresholds}
    fresh = Predictor(model, "pets")
    told = Handlers([fresh]).describe("pets")
    assert "by eye" in told
    assert "pets@val" in told
    assert "Warning" not in told
    model.card = {**model.card, "thresholds": {**thresholds, "weights": "of others"}}
    handlers = Handlers([Predictor(model, "pets")])
    assert "Warning:</b> the model&#x27;s thresholds were chosen for other weights" in handlers.describe("pets")
    assert "other weights" in handlers.describe_budgets("pets")


def test_a_broken_file_is_told_and_the_next_one_works(
    digits_predictor: Predictor, tmp_path: Path, picture: Path
) -> None:
    handlers = Handlers([digits_predictor])
    broken = tmp_path / "<b>words.png"
    broken.write_text("no image")
    said, seen = handlers.analyse(("file", str(broken)), digits_predictor.name)
    answer, path, grid = handlers.outcome(said, [0.5, 0.5])
    assert "&lt;b&gt;words.png" in answer
    assert 'role="alert"' in answer
    assert (seen, path, grid) == ("", "", "")
    said, seen = handlers.analyse(("file", str(picture)), digits_predictor.name)
    assert "station-3" in handlers.outcome(said, [0.5, 0.5])[1]
    assert "<img" in seen


def test_before_any_image_the_page_asks_for_one() -> None:
    handlers = Handlers([Predictor(page_model((2, 4), PETS), "pets")])
    assert handlers.opening_source("pets") is None
    assert handlers.examples() == ()
    assert "Give it an image" in handlers.outcome(handlers.analyse(None, "pets")[0], [0.5])[0]


def test_predict_answers_like_the_page(digits_predictor: Predictor, picture: Path) -> None:
    handlers = Handlers([digits_predictor])
    said, _ = handlers.analyse(("file", str(picture)), digits_predictor.name)
    assert said is not None
    for threshold, thresholds in ((0.0, [0.0, 0.0]), (2.0, [NEVER, NEVER]), (None, [0.6, 0.4])):
        result = handlers.predict(str(picture), threshold)
        assert result["exit"] == shown_exit(handlers.outcome(said, thresholds))
        assert result["probabilities"] == said["probabilities"]
        assert result["thresholds"] == thresholds
        row = result["probabilities"][result["exit"] - 1]
        assert result["confidence"] == pytest.approx(max(row))
        assert result["label"] == result["class_names"][row.index(max(row))]
        assert result["gmacs"] == pytest.approx(digits_predictor.gmacs[result["exit"] - 1])
        assert result["full_gmacs"] == pytest.approx(digits_predictor.gmacs[-1])


def test_predict_within_a_budget(frugal: Predictor, picture: Path) -> None:
    handlers = Handlers([frugal])
    for point in frugal.card["budgets"]["points"]:
        result = handlers.predict(str(picture), budget=point["gmacs"])
        assert result["thresholds"] == point["thresholds"]
        assert result["exit"] == handlers.predict(str(picture), budget=point["gmacs"] * 1.001)["exit"]
        assert (result["budget"], result["note"]) == (point["gmacs"], "")
    clamped = handlers.predict(str(picture), budget=1000.0)
    assert clamped["thresholds"] == [NEVER, NEVER]
    assert clamped["budget"] == 1000.0
    assert "above what the full cascade costs" in clamped["note"]
    plain = handlers.predict(str(picture), 0.5)
    assert (plain["budget"], plain["note"]) == (None, "")


def test_predict_refuses_budgets_in_words(digits_predictor: Predictor, frugal: Predictor, picture: Path) -> None:
    handlers = Handlers([frugal, digits_predictor])
    with pytest.raises(ValueError, match="either threshold or budget") as caught:
        handlers.predict(str(picture), 0.5, None, 0.1)
    assert "\n" not in str(caught.value)
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="budget is"):
            handlers.predict(str(picture), budget=budget)
    with pytest.raises(ValueError, match="knows no thresholds for budgets"):
        handlers.predict(str(picture), None, digits_predictor.name, 0.1)


def test_predict_refuses_in_words(digits_predictor: Predictor, tmp_path: Path, picture: Path) -> None:
    handlers = Handlers([digits_predictor])
    with pytest.raises(ValueError, match=r"threshold -0\.1"):
        handlers.predict(str(picture), -0.1)
    with pytest.raises(ValueError, match="threshold nan"):
        handlers.predict(str(picture), float("nan"))
    with pytest.raises(ValueError, match=r"unknown model 'other'.*fresh_digits"):
        handlers.predict(str(picture), 0.5, "other")
    with pytest.raises(ValueError, match="no image"):
        handlers.predict("", 0.5)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        handlers.predict(str(tmp_path / "a.jpg"), 0.5)


def test_the_slider_moves_while_another_model_is_still_on_its_way(digits_predictor: Predictor, picture: Path) -> None:
    """The selector names the new model, of another number of exits; the answer shown is still the old one's."""
    handlers = Handlers([digits_predictor, Predictor(page_model((2, 3, 4, 7), PETS), "pets")])
    said, _ = handlers.analyse(("file", str(picture)), digits_predictor.name)
    shown = handlers.move(SLIDER_END, "pets", said)
    assert shown.thresholds == [NEVER, NEVER]
    assert "exit 3 of 3" in shown.answer
