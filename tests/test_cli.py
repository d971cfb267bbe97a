"""The `dvt` command: right results on stdout, one clear line on stderr for bad input, and status 2."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dvt_tf
from dvt_tf import cli
from dvt_tf.commands import predict, presets
from dvt_tf.cost import PARTS, count_macs
from tests import images

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cascade with weights of no meaning, which is enough to be told apart from a wrong command."""
    folder = tmp_path_factory.mktemp("models") / "random"
    model = dvt_tf.DynamicVisionTransformer.from_preset("dvt_tiny_digits", load_weights=False)
    card = model.card
    card["thresholds"] = {"values": [0.0, 2.0], "method": "test", "data": "none"}
    model.card = card
    model.save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one picture in each of several formats."""
    folder = tmp_path_factory.mktemp("pictures")
    picture = images.picture()
    (folder / "a.jpg").write_bytes(images.file_bytes(picture, "JPEG", exif=images.exif(6)))
    (folder / "b.png").write_bytes(images.file_bytes(images.see_through(), "PNG"))
    (folder / "c [x].webp").write_bytes(images.file_bytes(picture.rotate(30), "WEBP"))
    (folder / "d.tif").write_bytes(images.file_bytes(picture.convert("CMYK"), "TIFF"))
    return folder


@pytest.fixture(autouse=True)
def _classifiers_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One and the same model folder is read once, not for every command: reading it takes seconds."""
    monkeypatch.setattr(predict, "_classifier", _classifier)


_classifier = functools.cache(predict._classifier)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def check_refused(result: tuple[int, str, str], *words: str) -> None:
    """Status 2, nothing on stdout, one line on stderr with these words."""
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("dvt: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_json_is_what_the_library_says(run: Run, model_folder: Path, pictures: Path) -> None:
    status, out, err = run("predict", pictures, "--model", model_folder, "--threshold", "0.5", "--json")
    assert (status, err) == (0, "")
    results = json.loads(out)
    assert [result["image"] for result in results] == [str(path) for path in sorted(pictures.iterdir())]

    classifier = dvt_tf.AdaptiveClassifier.from_preset(model_folder)
    from dvt_tf.image_files import read_image_bytes

    contents = [read_image_bytes(path) for path in sorted(pictures.iterdir())]
    inputs, _ = dvt_tf.preprocess(contents, classifier.card)
    expected = classifier(inputs, [0.5, 0.5])
    for row, result in enumerate(results):
        assert set(result) == {"image", "label", "confidence", "exit", "gmacs", "share_of_full_cost", "probabilities"}
        assert list(result["probabilities"]) == classifier.card["class_names"]
        np.testing.assert_allclose(list(result["probabilities"].values()), expected["probabilities"][row], atol=1e-6)
        assert result["label"] == max(result["probabilities"], key=result["probabilities"].get)
        assert result["confidence"] == pytest.approx(max(result["probabilities"].values()))
        assert result["exit"] == int(expected["exit"][row])
        macs = count_macs(classifier.model)
        assert result["gmacs"] == pytest.approx(macs[result["exit"] - 1] / 1e9)
        assert result["share_of_full_cost"] == pytest.approx(macs[result["exit"] - 1] / macs[-1])


@pytest.mark.parametrize(
    ("thresholds", "exit_taken"),
    [([], 1), (["never"], 3), (["0"], 1), (["1"], 3), (["never", "0"], 2), (["NEVER", "never"], 3)],
)
def test_thresholds(run: Run, model_folder: Path, pictures: Path, thresholds: list[str], exit_taken: int) -> None:
    options = [word for threshold in thresholds for word in ("--threshold", threshold)]
    status, out, _ = run("predict", pictures / "a.jpg", "--model", model_folder, "--json", *options)
    assert status == 0
    assert json.loads(out)[0]["exit"] == exit_taken


def test_the_table(run: Run, model_folder: Path, pictures: Path) -> None:
    status, out, err = run("predict", pictures, pictures / "a.jpg", "--model", model_folder)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "image"
    assert len(lines) == 1 + 5 + 1
    assert str(pictures / "c [x].webp") in lines[3]  # no part of a name taken for markup, none cut off
    assert "1 of 3" in lines[1]
    assert "thresholds 0, never (the model's own)" in lines[-1]
    assert "multiply-adds, as the paper counts" in lines[-1]


def test_more_images_than_a_batch(run: Run, model_folder: Path, pictures: Path) -> None:
    names = [pictures / "a.jpg"] * 65 + [pictures / "b.png"]
    status, out, _ = run("predict", *names, "--model", model_folder, "--json")
    assert status == 0
    results = json.loads(out)
    assert [result["image"] for result in results] == [str(name) for name in names]
    assert results[0]["confidence"] == pytest.approx(results[64]["confidence"], abs=1e-5)
    assert results[65]["confidence"] != pytest.approx(results[64]["confidence"], abs=1e-5)


@pytest.mark.parametrize("as_json", [False, True])
def test_bad_files_among_good_ones(run: Run, model_folder: Path, pictures: Path, tmp_path: Path, as_json: bool) -> None:
    good = (pictures / "a.jpg").read_bytes()
    (tmp_path / "1 text.jpg").write_text("no image")
    (tmp_path / "2 cut.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "3 good.jpg").write_bytes(good)
    (tmp_path / "4 empty.png").write_bytes(b"")
    (tmp_path / "5 bomb.png").write_bytes(images.declares("PNG", 100_000, 100_000))
    (tmp_path / "6\nline.gif").write_bytes(b"GIF89a")
    options = ["--json"] if as_json else []
    status, out, err = run("predict", tmp_path, tmp_path / "missing.png", "--model", model_folder, *options)
    assert status == 2
    assert "3 good.jpg" in out
    assert [result["image"] for result in json.loads(out)] == [str(tmp_path / "3 good.jpg")] if as_json else True
    lines = err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("dvt: ") for line in lines)
    # What was missing from the start comes first, then the files in their order.
    for line, words in zip(lines, ["missing.png: no such", "1 text", "2 cut", "4 empty", "5 bomb", "6"], strict=True):
        assert words in line


def test_no_good_file_at_all(run: Run, model_folder: Path, tmp_path: Path) -> None:
    check_refused(
        run("predict", tmp_path / "missing.jpg", "--model", model_folder), "missing.jpg: no such file or folder"
    )
    check_refused(run("predict", tmp_path, "--model", model_folder), "holds no image file")
    (tmp_path / "a.png").write_bytes(b"x")
    check_refused(run("predict", tmp_path, "--model", model_folder), "a.png: is not an image")
    status, out, _ = run("predict", tmp_path, "--model", model_folder, "--json")
    assert status == 2
    assert json.loads(out) == []


@pytest.mark.parametrize("threshold", ["-0.1", "1.1", "nan", "inf", "high", ""])
def test_a_threshold_that_is_none(run: Run, model_folder: Path, pictures: Path, threshold: str) -> None:
    result = run("predict", pictures, "--model", model_folder, "--threshold", threshold)
    check_refused(result, "threshold", repr(threshold), "0 to 1", "never")


def test_too_many_thresholds(run: Run, model_folder: Path, pictures: Path) -> None:
    result = run("predict", pictures, "--model", model_folder, *["--threshold", "0.5"] * 3)
    check_refused(result, "given 3 times", "3 exits", "2 times")


def test_a_model_that_is_none(run: Run, pictures: Path, tmp_path: Path) -> None:
    check_refused(run("predict", pictures, "--model", "dvt_tiny_digit"), "dvt_tiny_digit", "dvt_deit_small")
    check_refused(run("predict", pictures, "--model", tmp_path / "nowhere"), "nowhere")
    check_refused(run("predict", pictures, "--model", tmp_path), "config.json")
    check_refused(run("predict", pictures, "--model", "dvt_deit_small"), "dvt convert")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], ["IMAGE"]),
        (["predict", "x.png", "--colour"], ["--colour", "dvt predict --help"]),
        (["predict", "x.png", "--threshold"], ["--threshold"]),
        (["predicted"], ["predicted"]),
        (["--verbose"], ["--verbose"]),
    ],
)
def test_usage_errors_are_one_line(run: Run, arguments: list[str], words: list[str]) -> None:
    check_refused(run(*arguments), *words)


def test_presets(run: Run) -> None:
    status, out, err = run("presets", "--json")
    assert (status, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    digits = rows["dvt_tiny_digits"]
    assert digits["token_grids"] == [7, 10, 14]
    assert digits["image_size"] == 112
    model = dvt_tf.DynamicVisionTransformer.from_preset("dvt_tiny_digits", load_weights=False)
    assert digits["parameters"] == model.count_params()
    assert digits["gmacs"] == [macs / 1e9 for macs in count_macs(model)]
    assert not rows["dvt_deit_small"]["weights_bundled"]
    status, out, _ = run("presets")
    assert status == 0
    assert all(name in out for name in rows)
    assert "7x7, 10x10, 14x14" in out
    assert "multiply-adds" in out


def test_presets_say_what_each_part_costs(run: Run) -> None:
    status, out, _ = run("presets", "--macs", "--json")
    assert status == 0
    for row in json.loads(out):
        assert len(row["macs"]) == len(row["token_grids"]) == len(row["gmacs"])
        assert sum(sum(parts.values()) for parts in row["macs"]) / 1e9 == pytest.approx(row["gmacs"][-1])
    status, out, _ = run("presets", "--macs")
    assert status == 0
    lines = [line for line in out.splitlines() if line.split()[:1] == ["14x14"]]  # of the cascades, in order
    assert lines[0].split()[1:] == ["0.2903", "0.8612", "0.6227", "0.1072", "0.1524", "0.0005", "3.4964"]


def test_presets_fit_a_terminal_of_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run("presets", "--macs")
    assert status == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)  # bold headings
    assert max(map(len, plain.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in out  # nothing is cut short
    assert list(presets._PART_HEADINGS) == list(PARTS)


def test_help(run: Run) -> None:
    for arguments in ([], ["--help"], ["predict", "--help"], ["presets", "--help"]):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        assert "Usage: dvt" in out


def test_a_damaged_image_in_a_data_set_is_one_line(
    run: Run, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvt_tf import datasets, folders

    (tmp_path / "val" / "a").mkdir(parents=True)
    bad = tmp_path / "val" / "a" / "x.jpg"
    bad.write_bytes((pictures / "a.jpg").read_bytes()[:-30])
    card = {**images.card(), "class_names": ["a"]}
    monkeypatch.setattr(folders, "hashed_split", lambda name, derived: "val")

    def read_data() -> None:
        for _ in datasets.load(f"folder:{tmp_path}", "val", card, 4):
            pass

    monkeypatch.setattr(predict, "_classifier", lambda model: read_data())
    check_refused(run("predict", pictures), f"damaged or unreadable image in the data: {bad}")


def test_as_a_process_of_its_own(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    command = [sys.executable, "-m", "dvt_tf.cli", "predict", tmp_path / "x.png", pictures / "a.jpg", "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [*map(str, command), "--model", str(model_folder)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert len(json.loads(done.stdout)) == 1
    assert done.stderr.splitlines() == [f"dvt: {tmp_path / 'x.png'}: is not an image, or a damaged or truncated one"]
