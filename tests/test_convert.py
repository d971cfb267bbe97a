"""Converting: right weights and an honest card, or one clear line and nothing written. No PyTorch is needed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt_tf import cli, convert
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import check_card
from dvt_tf.convert import convert_checkpoint
from dvt_tf.exit_rule import NEVER
from dvt_tf.torch_files import TorchCheckpoint
from tests import images
from tests.cascades import small_config
from tests.checkpoint_files import (
    SMALL_PRESETS,
    T2T,
    add_small_presets,
    checkpoint,
    figures,
    logits,
    published_state,
    reference,
    without,
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_small_presets(monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a model is to go; nothing else is in the folder around it."""
    return tmp_path / "models" / "out"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`dvt convert` of a checkpoint that has been read already."""

    def run_command(read: TorchCheckpoint, *arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(convert, "read_checkpoint", lambda path, weights: read._replace(path=path))
        status = cli.main(["convert", "file.pth.tar", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def check_refused(result: tuple[int, str, str], out: Path, *words: str) -> None:
    """Status 2, one line with these words, and nothing written."""
    status, stdout, err = result
    assert (status, stdout) == (2, "")
    assert err.startswith("dvt: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


# What is written


@pytest.mark.parametrize("preset", ["small_t2t", "small_patch"])
def test_the_folder_holds_the_checkpoints_weights(out: Path, preset: str) -> None:
    state = published_state(SMALL_PRESETS[preset])
    convert_checkpoint(checkpoint(state, **figures()), preset, out)
    model = DynamicVisionTransformer.from_preset(out)
    assert model.config == SMALL_PRESETS[preset]
    for ours, theirs in zip(logits(model), logits(reference(model.config, state)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_card_says_whose_weights_these_are_and_what_was_published(out: Path) -> None:
    found = figures()
    convert_checkpoint(
        checkpoint(published_state(SMALL_PRESETS["small_t2t"]), "some/file.pth", **found), "small_t2t", out
    )
    card = DynamicVisionTransformer.from_preset(out).card
    check_card(card)
    assert card["class_names"] == list("abcdefg")
    assert card["preprocessing"]["resize_short_side"] == 32
    provenance = card["provenance"]
    assert provenance["checkpoint"] == "file.pth"
    assert provenance["sha256"] == "0" * 64
    assert (provenance["entry"], provenance["weights"]) == ("model_state_dict", "raw")
    assert provenance["converted_by"].startswith("dvt_tf 0.")
    assert "short side 32, centre crop 28, bicubic" in provenance["pixels"]

    published = card["published"]
    assert published["gflops"] == found["flops"]
    assert published["top1"] == found["anytime_classification"]
    gflops, top1 = found["budgeted_batch_classification"]
    assert published["curve"] == [list(pair) for pair in zip(gflops, top1, strict=True)]
    assert np.shape(published["thresholds"]) == (59, 2)
    np.testing.assert_array_equal(np.float32(published["thresholds"][:-5]), found["dynamic_threshold"][:-5, :2])
    assert {row[0] for row in published["thresholds"][-5:]} == {NEVER}

    assert card["thresholds"]["values"] == published["thresholds"][38]
    assert "setting 39 of 59, 79.80 % at 2.45 GFLOPs: the cheapest" in card["thresholds"]["method"]
    assert "within 0.2 points of the last exit's 80.00 %" in card["thresholds"]["method"]
    # Saved and read once more it is the same card.
    again = out.parent / "again"
    DynamicVisionTransformer.from_preset(out).save_to_preset(again)
    assert json.loads((again / "config.json").read_text()) == json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("lacking", list(figures()))
def test_figures_that_a_checkpoint_lacks_are_absent(out: Path, lacking: str) -> None:
    found = {name: value for name, value in figures().items() if name != lacking}
    convert_checkpoint(checkpoint(published_state(SMALL_PRESETS["small_patch"]), **found), "small_patch", out)
    card = DynamicVisionTransformer.from_preset(out).card
    assert len(card["published"]) == 3
    never = {"values": [NEVER, NEVER], "method": "none", "data": ""}
    assert (card["thresholds"] == never) == (lacking != "flops")


def test_a_checkpoint_of_weights_alone_never_leaves_early(out: Path) -> None:
    convert_checkpoint(checkpoint(published_state(SMALL_PRESETS["small_patch"])), "small_patch", out)
    card = DynamicVisionTransformer.from_preset(out).card
    assert "published" not in card
    assert card["thresholds"]["values"] == [NEVER, NEVER]


def test_no_setting_near_enough_means_never(out: Path) -> None:
    found = {**figures(), "anytime_classification": [70.0, 75.0, 80.3]}
    convert_checkpoint(checkpoint(published_state(SMALL_PRESETS["small_patch"]), **found), "small_patch", out)
    thresholds = DynamicVisionTransformer.from_preset(out).card["thresholds"]
    assert thresholds["values"] == [NEVER, NEVER]
    assert "none of the 59 published settings is within 0.2 points of the last exit's 80.30 %" in thresholds["method"]


def test_an_older_model_is_replaced(out: Path) -> None:
    convert_checkpoint(checkpoint(published_state(SMALL_PRESETS["small_patch"], seed=1)), "small_patch", out)
    state = published_state(SMALL_PRESETS["small_t2t"])
    convert_checkpoint(checkpoint(state), "small_t2t", out)
    assert DynamicVisionTransformer.from_preset(out).config == SMALL_PRESETS["small_t2t"]


@pytest.mark.parametrize("preset", ["small_t2t_single", "small_patch_single"])
def test_a_single_transformer(out: Path, preset: str) -> None:
    state = published_state(SMALL_PRESETS[preset])
    assert "cls_token" in state
    convert_checkpoint(checkpoint(state), preset, out)
    model = DynamicVisionTransformer.from_preset(out)
    np.testing.assert_array_equal(logits(model)[0], logits(reference(model.config, state))[0])
    assert model.card["thresholds"]["values"] == []


def test_a_single_transformer_of_another_grid(out: Path, run: Run) -> None:
    config = small_config(**T2T, token_grids=(2,))
    state = published_state(config)
    status, stdout, err = run(checkpoint(state), "--preset", "small_t2t_single", "--out", out, "--token-grid", "2")
    assert (status, err) == (0, "")
    assert "2x2" in stdout
    model = DynamicVisionTransformer.from_preset(out)
    assert model.config == config
    np.testing.assert_array_equal(logits(model)[0], logits(reference(config, state))[0])


def test_a_single_transformer_of_another_grid_is_recognised(out: Path, run: Run) -> None:
    read = checkpoint(published_state(small_config(**T2T, token_grids=(2,))))
    result = run(read, "--preset", "small_t2t_single", "--out", out)
    check_refused(result, out, "it fits --preset small_t2t_single --token-grid 2\n")


def test_the_command_says_what_it_did_and_predict_takes_the_folder(
    run: Run, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = checkpoint(published_state(SMALL_PRESETS["small_t2t"]), **figures())
    status, stdout, err = run(read, "--preset", "small_t2t", "--out", out)
    assert (status, err) == (0, "")
    weights = DynamicVisionTransformer.from_preset(out).count_params()
    lines = stdout.splitlines()
    assert lines[0] == f"file.pth.tar (model_state_dict) -> {out}: small_t2t, {weights:,} weights"
    assert lines[1].split() == ["exit", "tokens", "GFLOPs", "published", "published", "top-1"]
    assert lines[4].split()[:2] == ["3", "4x4"]
    assert lines[4].split()[3:] == ["3.5", "80.00%"]
    assert lines[5].startswith("Thresholds 0.752, 0.659 (published setting 39 of 59")

    (tmp_path / "a.png").write_bytes(images.file_bytes(images.picture(), "PNG"))
    assert cli.main(["predict", str(tmp_path / "a.png"), "--model", str(out), "--json"]) == 0
    prediction = json.loads(capsys.readouterr().out)[0]
    assert prediction["label"] in "abcdefg"
    assert prediction["exit"] in (1, 2, 3)


def test_the_command_says_which_weights_it_took(run: Run, out: Path) -> None:
    read = checkpoint(published_state(SMALL_PRESETS["small_patch"]))
    status, stdout, _ = run(
        read._replace(entry="state_dict_ema", weights="ema"), "--preset", "small_patch", "--out", out
    )
    assert status == 0
    assert "file.pth.tar (state_dict_ema, EMA weights)" in stdout
    assert "published" not in stdout
    provenance = DynamicVisionTransformer.from_preset(out).card["provenance"]
    assert (provenance["entry"], provenance["weights"]) == ("state_dict_ema", "ema")


# What is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("normal_token.norm.bias"), ["1 missing (normal_token.norm.bias)"]),
        (lambda state: {**state, "fc.weight": np.zeros((3, 2), np.float32)}, ["1 unexpected (fc.weight)"]),
        (
            lambda state: {**state, "less_token.blocks.0.attn.qkv.weight": np.zeros((16, 48), np.float32)},
            ["less_token.blocks.0.attn.qkv.weight is (16, 48) and should be (48, 16)"],
        ),
        (
            lambda state: published_state(small_config(**T2T, num_classes=3)),
            ["6 of another shape", "less_less_token.head.weight is (3, 16) and should be (7, 16)"],
        ),
        (
            lambda state: {**state, "less_token.head.bias": np.full(7, np.nan, np.float32)},
            ["less_token.head.bias holds values that are not finite"],
        ),
        (
            lambda state: {**state, "less_token.pos_embed": 2 * state["less_token.pos_embed"]},
            ["less_token.pos_embed is not the fixed sinusoid table"],
        ),
        (lambda state: {"conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}, ["1 unexpected (conv1.weight)"]),
        (lambda state: {}, ["missing"]),
    ],
    ids=["missing", "extra", "transposed", "another class count", "nan", "another table", "another model", "empty"],
)
def test_weights_that_do_not_fit(run: Run, out: Path, change: Any, words: list[str]) -> None:
    read = checkpoint(change(published_state(SMALL_PRESETS["small_t2t"])))
    result = run(read, "--preset", "small_t2t", "--out", out)
    check_refused(result, out, "file.pth.tar (model_state_dict)", *words)
    assert "it fits" not in result[2]


@pytest.mark.parametrize(
    ("weights_of", "preset"),
    [
        ("small_t2t_deep", "small_t2t"),
        ("small_patch", "small_t2t"),
        ("small_t2t", "small_t2t_single"),
        ("small_patch_single", "small_t2t_single"),
        ("small_patch_single", "small_t2t"),  # a start, but of another backbone
    ],
)
def test_weights_of_another_preset_are_recognised(run: Run, out: Path, weights_of: str, preset: str) -> None:
    read = checkpoint(published_state(SMALL_PRESETS[weights_of]))
    check_refused(run(read, "--preset", preset, "--out", out), out, f"it fits --preset {weights_of}\n")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"flops": [1.0, 2.0]}, ["flops is (2,) and should be (3,)"]),
        ({"anytime_classification": 80.0}, ["anytime_classification is () and should be (3,)"]),
        ({"anytime_classification": [70.0, 75.0, np.nan]}, ["anytime_classification must be finite"]),
        ({"dynamic_threshold": np.ones((59, 2))}, ["dynamic_threshold is (59, 2) and should be (59, 3)"]),
        ({"dynamic_threshold": np.ones(3)}, ["dynamic_threshold is (3,) and should be (3, 3)"]),
        ({"dynamic_threshold": np.ones((58, 3))}, ["budgeted_batch_classification is (2, 59) and should be (2, 58)"]),
        ({"dynamic_threshold": np.full((59, 3), np.nan)}, ["dynamic_threshold must be finite"]),
        ({"dynamic_threshold": np.full((59, 3), -0.1)}, ["dynamic_threshold must be finite numbers of at least 0"]),
        ({"budgeted_batch_classification": np.ones((59, 2))}, ["is (59, 2) and should be (2, 59)"]),
    ],
)
def test_figures_that_make_no_sense(found: dict[str, Any], words: list[str]) -> None:
    read = checkpoint({}, **{**figures(), **found})
    with pytest.raises(ValueError, match=r"^file\.pth\.tar: ") as caught:
        convert.published_figures(read.figures, 3, "file.pth.tar")
    for word in words:
        assert word in str(caught.value)


def test_with_figures_that_make_no_sense_nothing_is_written(run: Run, out: Path) -> None:
    read = checkpoint(published_state(SMALL_PRESETS["small_patch"]), dynamic_threshold=np.ones((59, 2)))
    result = run(read, "--preset", "small_patch", "--out", out)
    check_refused(result, out, "file.pth.tar: dynamic_threshold is (59, 2) and should be (59, 3)")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "small_t2d"], ["unknown preset 'small_t2d'", "did you mean small_t2t?"]),
        (["--preset", "small_t2t", "--weights", "best"], ["--weights must be ema or raw, not 'best'"]),
        (["--preset", "small_t2t", "--token-grid", "2"], ["--token-grid is for a single Transformer"]),
        (["--preset", "small_t2t_single", "--token-grid", "5"], ["no soft split from 28 pixels to 5"]),
        (["--preset", "small_t2t_single", "--token-grid", "0"], ["token_grids"]),
        ([], ["--preset"]),
    ],
)
def test_a_wrong_request_is_refused_before_the_file_is_read(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    result = run(unreadable(monkeypatch), *options, "--out", out)
    check_refused(result, out, *words)


def unreadable(monkeypatch: pytest.MonkeyPatch) -> TorchCheckpoint:
    """A checkpoint whose use fails the test."""
    monkeypatch.setattr(convert, "convert_checkpoint", lambda *_: pytest.fail("went on"))
    return checkpoint({})


def test_a_place_that_is_taken_is_refused_before_the_file_is_read(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = unreadable(monkeypatch)
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    for place, words in ((out, "holds other files"), (out / "notes.txt", "is a file")):
        status, stdout, err = run(read, "--preset", "small_t2t", "--out", place)
        assert (status, stdout, err.count("\n")) == (2, "", 1)
        assert words in err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_start_is_called_one(run: Run, out: Path) -> None:
    read = checkpoint(published_state(SMALL_PRESETS["small_patch_single"]))
    status, stdout, err = run(read, "--preset", "small_patch", "--out", out)
    assert (status, err) == (0, "")
    assert "This is a starting point for training, not a trained cascade." in stdout
    card = DynamicVisionTransformer.from_preset(out).card
    assert card["provenance"]["use"] == card["description"] == "a starting point for training, not a trained cascade"
    assert card["thresholds"]["values"] == [NEVER, NEVER]
    assert "published" not in card
