"""Model folders, whole or not at all and strictly read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from dvt_tf import checkpoints
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights, state_of, weights_digest
from tests.cascades import small_cascade

NAME = "transformers.0.head.kernel"
POINT = {"gmacs": 1.0, "top1": 0.5, "thresholds": [0.5, 0.5]}  # of a card's budgets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved cascade; the only thing in its parent folder."""
    small_cascade().save_to_preset(tmp_path / "model")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    state = safetensors.numpy.load_file(folder / "weights.safetensors")
    change(state)
    safetensors.numpy.save_file(state, folder / "weights.safetensors")


def rewrite_card(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    card = json.loads((folder / "config.json").read_text())
    change(card)
    (folder / "config.json").write_text(json.dumps(card))


# Saving


def test_a_folder_is_safetensors_in_float32_and_a_readable_card(tmp_path: Path) -> None:
    model = small_cascade(dtype="mixed_bfloat16")
    model.card["class_names"][0] = "Übergröße"
    model.save_to_preset(tmp_path / "some" / "where" / "model")
    folder = tmp_path / "some" / "where" / "model"
    assert sorted(contents(folder)) == ["config.json", "weights.safetensors"]
    with safetensors.safe_open(folder / "weights.safetensors", "np") as file:
        assert set(file.keys()) == {name for name, _ in named_weights(model)}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118 not a mapping
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert "Übergröße" in text
    assert json.loads(text) == model.card
    assert DynamicVisionTransformer.from_preset(folder).card == model.card


def test_names_are_paths_of_attributes() -> None:
    names = [name for name, _ in named_weights(small_cascade())]
    assert len(names) == len(set(names))
    for name in (
        "transformers.0.embedding.kernel",
        "transformers.0.position.class_token",
        "transformers.1.blocks.1.attention.qkv.bias",
        "transformers.1.feature_reuse.0.mlp.fc2.kernel",
        "transformers.2.relationship_reuse.kernel1",
        "transformers.2.norm.gamma",
        NAME,
    ):
        assert name in names


def test_saving_again_replaces_the_folder(folder: Path) -> None:
    other = small_cascade(seed=1, token_grids=(2, 4))
    other.save_to_preset(folder)
    again = DynamicVisionTransformer.from_preset(folder)
    assert again.config == other.config
    np.testing.assert_array_equal(state_of(again)[NAME], state_of(other)[NAME])
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.long
def test_a_folder_given_as_a_link_or_relatively_is_replaced_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "latest").symlink_to(folder, target_is_directory=True)
    small_cascade(seed=1).save_to_preset(folder.parent / "latest")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["latest", "model"]
    np.testing.assert_array_equal(
        state_of(DynamicVisionTransformer.from_preset(folder))[NAME], state_of(small_cascade(seed=1))[NAME]
    )
    monkeypatch.chdir(folder.parent)
    small_cascade(seed=2).save_to_preset("model")
    np.testing.assert_array_equal(
        state_of(DynamicVisionTransformer.from_preset(folder))[NAME], state_of(small_cascade(seed=2))[NAME]
    )


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match="is a file; a model is saved into a folder"):
        small_cascade().save_to_preset(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_with_other_files_is_left_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(ValueError, match="holds other files"):
        small_cascade(seed=1).save_to_preset(folder)
    assert contents(folder) == before


class DiskFullError(OSError):
    """What the tests below raise in the middle of a save."""


def break_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_written(path: Path, contents: bytes) -> int:
        with path.open("wb") as file:
            file.write(contents[: len(contents) // 2])
        raise DiskFullError("disk full")

    monkeypatch.setattr(checkpoints.Path, "write_bytes", half_written)


def break_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.json, "dumps", lambda *_, **__: (_ for _ in ()).throw(DiskFullError("disk full")))


def break_first_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    break_rename(monkeypatch, 1)


def break_second_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    break_rename(monkeypatch, 2)


def break_rename(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    original, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == which:
            raise DiskFullError("disk full")
        original(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", replace)


@pytest.mark.parametrize("breaking", [break_weights, break_card, break_first_rename, break_second_rename])
def test_a_failed_save_leaves_the_old_model_and_nothing_else(
    folder: Path, breaking: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, model = contents(folder), small_cascade(seed=1)
    breaking(monkeypatch)
    with pytest.raises(DiskFullError):
        model.save_to_preset(folder)
    monkeypatch.undo()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert contents(folder) == before


@pytest.mark.parametrize("breaking", [break_weights, break_card, break_first_rename])
def test_a_failed_first_save_leaves_nothing(
    tmp_path: Path, breaking: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_cascade()
    breaking(monkeypatch)
    with pytest.raises(DiskFullError):
        model.save_to_preset(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# Telling weights apart


def test_a_digest_is_that_of_the_weights(folder: Path) -> None:
    model = DynamicVisionTransformer.from_preset(folder)
    digest = weights_digest(model)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert weights_digest(DynamicVisionTransformer.from_preset(folder)) == digest
    assert weights_digest(DynamicVisionTransformer.from_preset(folder, dtype="mixed_bfloat16")) == digest
    weight = model.transformers[1].head.bias
    weight.assign_add(np.eye(1, 7, 3, dtype=np.float32)[0] * 1e-6)
    assert weights_digest(model) != digest


# Reading


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(NAME), rf"1 missing \({NAME}\)"),
        (lambda state: state.update(stray=np.zeros(3, np.float32)), r"1 unexpected \(stray\)"),
        (
            lambda state: state.update({NAME: np.zeros((16, 8), np.float32)}),
            rf"{NAME} is \(16, 8\) and should be \(16, 7\)",
        ),
        (lambda state: state.update({NAME: state[NAME].T.copy()}), r"is \(7, 16\) and should be \(16, 7\)"),
        (lambda state: state.update({NAME: state[NAME] * np.nan}), rf"{NAME} holds values that are not finite"),
        (lambda state: state.update({NAME: state[NAME] * np.inf}), rf"{NAME} holds values that are not finite"),
        (
            lambda state: state.clear() or state.update({"a.b": np.ones(3, np.float32)}),
            r"missing .*, \.\.\.\); 1 unexpected",
        ),
    ],
    ids=["missing", "extra", "shape", "transposed", "nan", "infinite", "foreign"],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder: Path, change: Any, message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        DynamicVisionTransformer.from_preset(folder)
    assert str(folder / "weights.safetensors") in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_weights_file_is_refused(folder: Path, kept: int) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a readable safetensors file"):
        DynamicVisionTransformer.from_preset(folder)


@pytest.mark.parametrize("content", [b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60, b"\x10\0\0\0\0\0\0\0{not json at all}"])
def test_a_file_of_another_format_is_refused(folder: Path, content: bytes) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        DynamicVisionTransformer.from_preset(folder)


def test_a_refused_load_changes_nothing(folder: Path) -> None:
    model = small_cascade(seed=3)
    before = state_of(model)
    rewrite(
        folder, lambda state: state.update({"transformers.2.head.bias": state["transformers.2.head.bias"] * np.nan})
    )
    with pytest.raises(ValueError, match="not finite"):
        checkpoints.load_weights(model, folder / "weights.safetensors")
    after = state_of(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not fit this cascade"):
        DynamicVisionTransformer.from_preset(folder, num_classes=5)
    with pytest.raises(ValueError, match="unexpected"):
        DynamicVisionTransformer.from_preset(folder, feature_reuse="none")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"card"', "{}", '{"format_version": 2}', "\x00\x01"])
def test_a_damaged_card_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        DynamicVisionTransformer.from_preset(folder)


def test_a_card_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        DynamicVisionTransformer.from_preset(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("config"),
        lambda card: card.pop("class_names"),
        lambda card: card.pop("thresholds"),
        lambda card: card.pop("preprocessing"),
        lambda card: card.update(format_version="1.0"),
        lambda card: card["class_names"].pop(),
        lambda card: card["thresholds"]["values"].append(0.5),
        lambda card: card["thresholds"].pop("values"),
        lambda card: card["config"].update(width=3),
        lambda card: card["config"].update(dim="wide"),
        lambda card: card["config"].update(token_grids=[4, 3, 2]),
        lambda card: card.update(class_names=None),
        lambda card: card.update(class_names="abcdefg"),
        lambda card: card.update(config=None),
        lambda card: card.update(config=[1]),
        lambda card: card["config"].update(token_grids=7),
        lambda card: card.update(thresholds=None),
        lambda card: card.update(thresholds=[0.5, 0.5]),
        lambda card: card["thresholds"].update(values=None),
        lambda card: card["thresholds"].update(values=["high", "low"]),
        lambda card: card["thresholds"].update(values=[-1.0, 0.5]),
        lambda card: card.update(preprocessing=None),
        lambda card: card.update(preprocessing={}),
        lambda card: card.update(class_ids=["n01", "n02"]),
        lambda card: card.update(class_ids=["n01"] * 7),
        lambda card: card.update(class_ids="n012345"),
        lambda card: card.update(class_ids=["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n6"]),
        lambda card: card.update(class_ids=[1, 2, 3, 4, 5, 6, 7]),
        lambda card: card.update(budgets=[]),
        lambda card: card.update(budgets={"points": [], "measure": "fun"}),
        lambda card: card.update(budgets={"points": [{"gmacs": 1.0, "top1": 0.5}], "measure": "top1"}),
        lambda card: card.update(budgets={"points": [{**POINT, "gmacs": None}], "measure": "top1"}),
        lambda card: card.update(budgets={"points": [{**POINT, "thresholds": [0.5]}], "measure": "top1"}),
        lambda card: card.update(budgets={"points": [POINT], "measure": "agreement"}),
        lambda card: card.update(budgets={"points": [POINT], "measure": "top1", "full": "most"}),
    ],
    ids=[
        *("no config", "no class names", "no thresholds", "no preprocessing", "version", "too few names"),
        *("too many thresholds", "no values", "unknown field", "wrong kind", "falling grids"),
        *("null names", "one string of names", "null config", "list config", "grids a number", "null thresholds"),
        *("list thresholds", "null values", "words for thresholds", "negative threshold", "null preprocessing"),
        *("empty preprocessing", "too few ids", "ids alike", "one string of ids", "an id twice", "numbers for ids"),
        *("list of budgets", "unknown measure", "a budget without thresholds", "a budget without a cost"),
        *("a budget with too few thresholds", "a budget without its measure", "words for the last exit"),
    ],
)
def test_a_card_that_says_nonsense_is_refused(folder: Path, change: Any) -> None:
    rewrite_card(folder, change)
    with pytest.raises(ValueError, match=r"."):
        DynamicVisionTransformer.from_preset(folder)


def test_a_card_may_say_more() -> None:
    model = small_cascade()
    model.card["figures"] = {"test": {"top1": [0.5, 0.6, 0.7]}}
    model.card["another"] = {"thing": 1}
    assert DynamicVisionTransformer.from_config(model.get_config()).card == model.card


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        DynamicVisionTransformer.from_preset(tmp_path / "nowhere")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors' does not exist"):
        DynamicVisionTransformer.from_preset(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"is no model folder: it has no config\.json"):
        DynamicVisionTransformer.from_preset(str(folder))


def test_a_file_is_no_model_folder(folder: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"is a file|not a folder|no model folder"):
        DynamicVisionTransformer.from_preset(folder / "config.json")
