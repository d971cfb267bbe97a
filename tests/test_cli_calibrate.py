"""`dvt calibrate` on folders of images: what it keeps in a card, what every command makes of it, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import WEIGHTS_FILE
from dvt_tf.cli import main
from dvt_tf.exit_rule import NEVER
from tests.cascades import small_cascade

CLASSES = [f"class_{i}" for i in range(7)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, a data folder with the model's seven classes, and a folder of images without labels."""
    root = tmp_path_factory.mktemp("calibrate")
    small_cascade(head=2.0, depth=1).save_to_preset(root / "model")
    random = np.random.default_rng(5)
    for number in range(7 * 24):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        picture = coarse.resize((28, 28), Image.Resampling.BILINEAR)
        for folder in (root / "data" / "calibration" / CLASSES[number % 7], root / "plain" / str(number % 3)):
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{number}.png")
    for split in ("train", "val"):
        shutil.copytree(root / "data" / "calibration", root / "data" / split)
    out = root / "evaluation"
    data = ["--data", f"folder:{root / 'data'}"]
    assert main(["evaluate", "--model", str(root / "model"), *data, "--out", str(out)]) == 0
    return root


@pytest.fixture
def model(place: Path, tmp_path: Path) -> Path:
    """A copy of the model folder to write into."""
    return Path(shutil.copytree(place / "model", tmp_path / "model"))


def card_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def full_cost(folder: Path) -> float:
    from dvt_tf.cost import count_macs

    return count_macs(DynamicVisionTransformer.from_preset(folder))[-1] / 1e9


@pytest.mark.long
def test_a_budget_is_kept_in_the_card(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = 0.6 * full_cost(model)
    weights = (model / WEIGHTS_FILE).read_bytes()
    data = f"folder:{place / 'data'}"
    assert main(["calibrate", "--model", str(model), "--data", data, "--budget", str(budget)]) == 0
    printed = capsys.readouterr().out
    assert f"Kept in {model}." in printed
    assert "exact: no other thresholds are more accurate" in printed
    card = card_of(model)
    assert card["thresholds"]["budget"] == pytest.approx(budget)
    assert card["thresholds"]["expected"]["gmacs"] <= budget
    assert (card["thresholds"]["data"], card["thresholds"]["images"]) == (f"{data}@calibration", 168)
    assert (model / WEIGHTS_FILE).read_bytes() == weights
    assert len(card["budgets"]["points"]) > 3

    # Every command uses them from now on.
    picture = str(next((place / "plain").rglob("*.png")))
    assert main(["predict", picture, "--model", str(model)]) == 0
    assert "(the model's own)" in capsys.readouterr().out
    assert main(["evaluate", "--model", str(model), "--data", data]) == 0
    assert "Adaptive: thresholds" in capsys.readouterr().out

    # And budgets can be asked for without choosing anew.
    assert main(["predict", picture, "--model", str(model), "--budget", str(budget)]) == 0
    captured = capsys.readouterr()
    assert f"for {budget:.4g} GFLOPs" in captured.out
    assert captured.err == ""
    assert main(["predict", picture, "--model", str(model), "--budget", "1e-9"]) == 0
    captured = capsys.readouterr()
    assert "1 of 3" in captured.out
    assert "below what exit 1 costs" in captured.err


def test_kept_results_give_the_same_and_read_no_image(place: Path, model: Path, tmp_path: Path) -> None:
    kept = place / "evaluation" / "results_calibration.safetensors"
    budget = str(0.5 * full_cost(model))
    command = ["calibrate", "--model", str(model), "--budget", budget]
    assert main([*command, "--results", str(kept), "--out", str(tmp_path / "a")]) == 0
    assert main([*command, "--data", f"folder:{place / 'data'}", "--out", str(tmp_path / "b")]) == 0
    assert card_of(tmp_path / "a") == card_of(tmp_path / "b")
    assert "budget" not in card_of(model)["thresholds"]  # with --out the model itself stays as it was


def test_a_guarantee_without_labels(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "--model", str(model), "--data", f"images:{place / 'plain'}"]
    assert main([*command, "--max-disagreement", "0.2", "--confidence", "0.9"]) == 0
    printed = capsys.readouterr().out
    card = card_of(model)["thresholds"]
    assert card["guarantee"]["images"] == 84
    assert card["guarantee"]["confidence"] == 0.9
    assert card_of(model)["budgets"]["measure"] == "agreement"
    promised = "Promised with 0.9 confidence" in printed
    assert promised != ("Nothing cheaper than the full cascade" in printed)
    assert promised == (card["values"] != [NEVER, NEVER])


def test_changed_weights_are_told(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = place / "evaluation" / "results_calibration.safetensors"
    assert main(["calibrate", "--model", str(model), "--results", str(kept), "--budget", "0.001"]) == 0
    changed = DynamicVisionTransformer.from_preset(model)
    changed.transformers[0].head.bias.assign_add(tf.fill([7], 0.01))
    changed.save_to_preset(model)
    capsys.readouterr()
    picture = str(next((place / "plain").rglob("*.png")))
    assert main(["predict", picture, "--model", str(model)]) == 0
    assert "chosen for other weights than it has now" in capsys.readouterr().err
    assert main(["predict", picture, "--model", str(model), "--threshold", "0.5"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["evaluate", "--model", str(model), "--data", f"folder:{place / 'data'}"]) == 0
    assert "chosen for other weights than it has now" in capsys.readouterr().err
    assert main(["calibrate", "--model", str(model), "--results", str(kept), "--budget", "0.001"]) == 2
    assert "results of other weights" in capsys.readouterr().err


def test_a_bundled_model_stays_as_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dvt_tf.commands import calibrate
    from tests.exit_results import made_up

    monkeypatch.setattr(calibrate, "_results", lambda *_: made_up(200))
    assert main(["calibrate", "--data", "digits", "--budget", "2"]) == 0
    assert "Not kept: dvt_tiny_digits is bundled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "D"], "give one of --budget"),
        (["--data", "D", "--budget", "1", "--max-disagreement", "0.1"], "give one of --budget"),
        (["--budget", "1"], "give either --data"),
        (["--data", "D", "--results", "R", "--budget", "1"], "give either --data"),
        (["--data", "D", "--budget", "0"], "above 0"),
        (["--data", "D", "--budget", "nan"], "above 0"),
        (["--data", "D", "--budget", "1", "--pool"], "belong to a guarantee"),
        (["--data", "D", "--budget", "1", "--method", "best"], "it can be exact, evolutionary, published"),
        (["--data", "D", "--max-disagreement", "0.1", "--method", "exact"], "--method is for --budget"),
        (["--data", "D", "--max-disagreement", "1"], "--max-disagreement is 1; it must be a share"),
        (["--data", "D", "--max-accuracy-drop", "0"], "--max-accuracy-drop is 0; it must be a share"),
        (["--data", "D", "--max-accuracy-drop", "0.1", "--confidence", "95"], "--confidence is 95; it must be a share"),
        (["--data", "D@test", "--budget", "1"], "the test split is for scoring"),
        (["--data", "D@train", "--budget", "1"], "has learnt these images"),
        (["--data", "D", "--budget", "inf"], "above 0"),
        (["--data", "images:I", "--budget", "1"], "only --max-disagreement needs none"),
        (["--data", "images:I@test", "--max-disagreement", "0.1"], "test split"),
        (["--data", "images:I", "--max-accuracy-drop", "0.1"], "only --max-disagreement needs none"),
        (["--data", "D", "--max-disagreement", "0.01"], "598 would do"),
        (["--results", "R/results.safetensors", "--budget", "1"], "the test split is for scoring"),
        (["--results", "R/nothing", "--budget", "1"], "does not exist"),
        (["--results", "R", "--budget", "1"], "is a folder; give a file of results in it"),
        (["--results", "R/summary.json", "--budget", "1"], "is not a readable results file"),
        (["--data", "D", "--budget", "1", "--out", "R"], "holds other files"),
    ],
)
def test_refusals_are_one_line(
    place: Path, model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"D": f"folder:{place / 'data'}", "I": str(place / "plain"), "R": str(place / "evaluation")}
    filled = [places.get(a, a) for a in arguments]
    filled = [a.replace("D@", places["D"] + "@").replace("images:I", f"images:{places['I']}") for a in filled]
    filled = [a.replace("R/", places["R"] + "/") if a.startswith("R/") else a for a in filled]
    before = (model / "config.json").read_bytes()
    assert main(["calibrate", "--model", str(model), *filled]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.strip().count("\n") == 0
    assert (model / "config.json").read_bytes() == before


def test_no_image_is_run_where_nothing_could_be_kept(
    place: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvt_tf.commands import held_out

    monkeypatch.setattr(held_out, "run_exits", lambda *_: pytest.fail("ran the model"))
    command = ["calibrate", "--data", f"folder:{place / 'data'}", "--budget", "1", "--model"]
    (model / "README.md").write_text("about this model")
    assert main([*command, str(model)]) == 2
    assert "holds other files" in capsys.readouterr().err
    small_cascade(token_grids=(2,), head=2.0).save_to_preset(tmp_path / "single")
    assert main([*command, str(tmp_path / "single")]) == 2
    assert "the model has one exit" in capsys.readouterr().err
