"""PyTorch files: every layout that is published, nothing that is not data, and whole files converted by the command."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvt_tf
from dvt_tf import cli
from dvt_tf.torch_files import read_checkpoint
from tests.checkpoint_files import (
    SMALL_PRESETS,
    add_small_presets,
    as_tensors,
    figures,
    published_state,
    require_torch,
    save_published,
)
from tests.parity import load_fixture, make_images, make_state

Run = Callable[..., tuple[int, str, str]]
STATE = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head.bias": np.float32([0.5, -1])}


@pytest.fixture(scope="module")
def torch() -> Any:
    return require_torch()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pth.tar"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        status = cli.main(["convert", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def check_state(found: dict[str, np.ndarray], expected: dict[str, np.ndarray] = STATE) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


# Layouts


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("entry", ["model_state_dict", "state_dict", "model", "state_dict_ema", "model_ema", ""])
def test_weights_are_found_wherever_they_are_published(
    torch: Any, path: Path, entry: str, prefix: str, new_format: bool
) -> None:
    state = OrderedDict(as_tensors(torch, STATE, prefix))
    content = {entry: state, "epoch": 3} if entry else state
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    found = read_checkpoint(path)
    check_state(found.state)
    assert (found.path, found.entry) == (path, entry)
    assert found.weights == ("ema" if "ema" in entry else "raw")
    assert found.figures == {}
    assert len(found.sha256) == 64


@pytest.mark.parametrize(("raw", "ema"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_shadow_weights_come_first_unless_the_others_are_asked_for(torch: Any, path: Path, raw: str, ema: str) -> None:
    shadow = {name: value + 1 for name, value in STATE.items()}
    torch.save({raw: as_tensors(torch, STATE), ema: as_tensors(torch, shadow)}, path)
    for weights, entry, expected in ((None, ema, shadow), ("ema", ema, shadow), ("raw", raw, STATE)):
        found = read_checkpoint(path, weights)
        assert found.entry == entry
        check_state(found.state, expected)


@pytest.mark.parametrize(
    ("entry", "weights", "message"),
    [
        ("model", "ema", "holds no ema weights; it has model"),
        ("state_dict_ema", "raw", "holds no raw weights; it has state_dict_ema"),
        ("", "ema", "does not say that they are ema weights"),
    ],
)
def test_weights_that_are_asked_for_and_not_there(
    torch: Any, path: Path, entry: str, weights: str, message: str
) -> None:
    state = as_tensors(torch, STATE)
    torch.save({entry: state} if entry else state, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path, weights)


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_every_float_becomes_float32(torch: Any, path: Path, kind: str) -> None:
    torch.save({name: tensor.to(getattr(torch, kind)) for name, tensor in as_tensors(torch, STATE).items()}, path)
    check_state(read_checkpoint(path).state)


def test_parameters_slices_and_arrays_are_weights_too(torch: Any, path: Path) -> None:
    state = {
        "head.weight": torch.nn.Parameter(torch.arange(6.0).reshape(3, 2).T.reshape(2, 3).clone()),
        "part": torch.arange(10.0)[::2],
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "array": np.arange(3.0),
    }
    torch.save({"model": state}, path)
    found = read_checkpoint(path).state
    np.testing.assert_array_equal(found["part"], [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(found["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["array"], [0, 1, 2])


@pytest.mark.parametrize("kind", ["lists", "tensors", "arrays", "scalars"])
def test_figures_may_be_lists_tensors_or_arrays(torch: Any, path: Path, kind: str) -> None:
    convert: dict[str, Callable[[Any], Any]] = {
        "lists": lambda value: np.asarray(value).tolist(),
        "tensors": lambda value: torch.tensor(np.asarray(value)),
        "arrays": np.asarray,
        "scalars": lambda value: [torch.tensor(row) if np.ndim(row) else np.float64(row) for row in value],
    }
    torch.save(
        {"model_state_dict": as_tensors(torch, STATE), **{k: convert[kind](v) for k, v in figures().items()}}, path
    )
    found = read_checkpoint(path).figures
    assert list(found) == list(figures())
    for name, value in figures().items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_what_a_training_keeps_beside_its_weights_is_no_hindrance(torch: Any, path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=5e-4, model="deit_small", betas=None),
        "metric": np.float64(79.9),
        "best": np.int64(3),
        "optimizer": {
            "state": {0: {"step": 5, "exp_avg": torch.zeros(2)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }
    torch.save({"model": as_tensors(torch, STATE), **beside}, path)
    check_state(read_checkpoint(path).state)


# What is no checkpoint


class Runs:
    """Pickled, it asks whoever reads it to call a function with these arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def leave_a_trace(trace: Path) -> list[tuple[str, Runs]]:
    """Ways to run code by being read, by the name that the refusal gives them."""
    return [
        (f"{os.system.__module__}.system", Runs(os.system, f"touch {trace}")),
        ("eval", Runs(eval, f"open({str(trace)!r}, 'w')")),
        (f"{open.__module__}.open", Runs(open, str(trace), "w")),  # io or, from Python 3.12, _io
    ]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_file_that_asks_for_code_is_refused_and_runs_nothing(
    torch: Any, run: Run, path: Path, which: int, how: str
) -> None:
    trace, out = path.parent / "trace", path.parent / "out"
    name, runs = leave_a_trace(trace)[which]
    content = {"model": as_tensors(torch, STATE), "args": runs}
    if how == "pickle":
        path.write_bytes(pickle.dumps(runs, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    result = run(path, "--preset", "t2t_vit_12", "--out", out)
    assert not trace.exists()
    check_refused(result, path, "is refused, and nothing in it was run", f"it asks for {name},")
    # The trace would have been left by a reader that trusts.
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if how != "pickle" else pickle.load(file)  # noqa: S301
    assert trace.exists()
    trace.unlink()


def check_refused(result: tuple[int, str, str], path: Path, *words: str) -> None:
    """Status 2, one line with the file's name and these words, and nothing in the folder but the file."""
    status, stdout, err = result
    assert (status, stdout) == (2, "")
    assert err.startswith("dvt: ")
    assert err.count("\n") == 1
    for word in (str(path), *words):
        assert word in err
    assert [found for found in path.parent.iterdir() if found != path] == []


def truncated(torch: Any, path: Path, new_format: bool) -> None:
    torch.save(as_tensors(torch, STATE), path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[:-40])


NOT_ONE = "is not a PyTorch checkpoint, or a damaged or truncated one"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda torch, path: truncated(torch, path, True), NOT_ONE),
        (lambda torch, path: truncated(torch, path, False), NOT_ONE),
        (lambda torch, path: path.write_text("weights\n"), NOT_ONE),
        (lambda torch, path: path.write_bytes(bytes(range(256)) * 9), NOT_ONE),
        (lambda torch, path: path.write_bytes(pickle.dumps({"model": 1})), NOT_ONE),
        (lambda torch, path: torch.save(torch.zeros(3), path), "holds a Tensor"),
        (lambda torch, path: torch.save([STATE], path), "holds a list"),
        (lambda torch, path: torch.save({}, path), "holds no weights"),
        (lambda torch, path: torch.save({"epoch": 1, "net": {}}, path), "holds no weights: none of model_state_dict"),
        (lambda torch, path: torch.save({"model": {"a": "b"}}, path), "a is a str, not an array of real numbers"),
        (lambda torch, path: torch.save({"model": {"a": torch.eye(3).to_sparse()}}, path), "not a plain array"),
        (lambda torch, path: torch.save({"model": {}, "flops": [[1.0], 2.0]}, path), "flops is not a list or table"),
        (lambda torch, path: torch.save({"model": {}, "flops": "many"}, path), "flops is not a list or table"),
        (lambda torch, path: torch.save(torch.nn.Linear(2, 2), path), "it asks for torch.nn.modules.linear.Linear"),
        (
            lambda torch, path: torch.save({"model": as_tensors(torch, STATE)}, path),
            "missing (tokens_to_token.attention1",
        ),
    ],
    ids=[
        *("cut zip", "cut legacy", "text", "bytes", "plain pickle", "tensor", "list", "empty", "no weights"),
        *("text for a weight", "sparse", "ragged figure", "word for a figure", "whole module", "another model"),
    ],
)
def test_a_file_that_is_no_checkpoint(torch: Any, run: Run, path: Path, make: Any, words: str) -> None:
    make(torch, path)
    check_refused(run(path, "--preset", "t2t_vit_12", "--out", path.parent / "out"), path, words)


def test_a_file_that_is_not_there_or_empty_or_a_folder(run: Run, path: Path) -> None:
    request = (path, "--preset", "t2t_vit_12", "--out", path.parent / "out")
    check_refused(run(*request), path, "does not exist")
    path.write_bytes(b"")
    check_refused(run(*request), path, "is empty")
    path.unlink()
    path.mkdir()
    check_refused(run(*request), path, "is a folder")


def test_without_pytorch_one_line_says_how_to_get_it(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path.write_bytes(b"something")
    result = run(path, "--preset", "t2t_vit_12", "--out", path.parent / "out")
    check_refused(result, path, "needs PyTorch: pip install torch", "'dvt-tf[pytorch]'", "make setup PYTORCH=1")


def test_a_pytorch_that_is_not_safe_is_refused(torch: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(as_tensors(torch, STATE), path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(ValueError, match=r"PyTorch 2\.9\.1.*torch>=2\.10"):
        read_checkpoint(path)


# Whole files


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_a_single_transformers_file(
    torch: Any, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    add_small_presets(monkeypatch)
    state, ema = (published_state(SMALL_PRESETS["small_t2t_single"], seed) for seed in (0, 1))
    content = {"state_dict": as_tensors(torch, state, "module."), "state_dict_ema": as_tensors(torch, ema, "module.")}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    heads = {}
    for weights in ("ema", "raw"):
        out = path.parent / weights
        status, stdout, err = run(path, "--preset", "small_t2t_single", "--out", out, "--weights", weights)
        assert (status, err) == (0, "")
        assert ("EMA weights" in stdout) == (weights == "ema")
        heads[weights] = dvt_tf.DynamicVisionTransformer.from_preset(out).transformers[0].head.bias.numpy()
    np.testing.assert_array_equal(heads["ema"], ema["head.bias"])
    np.testing.assert_array_equal(heads["raw"], state["head.bias"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("fixture", "preset"), [("DVT_T2t_vit_12", "dvt_t2t_vit_12"), ("DVT_Deit_small", "dvt_deit_small")]
)
def test_a_file_of_the_published_size_gives_the_published_logits(
    torch: Any, run: Run, path: Path, fixture: str, preset: str
) -> None:
    description, published = load_fixture(fixture)
    save_published(torch, path, make_state(description), **figures())
    out = path.parent / "model"
    status, stdout, err = run(path, "--preset", preset, "--out", out)
    assert (status, err) == (0, "")
    assert "(model_state_dict)" in stdout
    path.unlink()
    model = dvt_tf.DynamicVisionTransformer.from_preset(out)
    for k, logits in enumerate(model(make_images(description)).values()):
        np.testing.assert_allclose(logits, published["logits"][k], rtol=0, atol=5e-5)
    assert len(model.card["published"]["thresholds"]) == 59
    assert model.card["preprocessing"]["resize_short_side"] == 256
    assert [found.name for found in path.parent.iterdir()] == ["model"]
