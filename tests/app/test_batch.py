"""Many files, without a page: a row for each in order, whatever the others are; the summary, the CSV, what is drawn."""

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app import batch, batch_tab, batch_views, routing
from app.batch import CSV_COLUMNS, FORMULA_STARTS, MOST_FILES, Row, classify_files, summary, to_csv
from app.file_lists import Upload, own_name
from app.handlers import Handlers
from app.inference import Predictor, load_all, uploaded_bytes
from dvt_tf.exit_rule import NEVER
from tests.app.models import PETS, page_model


@pytest.fixture(scope="module")
def pets() -> Predictor:
    return Predictor(page_model((2, 3, 4), PETS), "pets")


def quiet(done: int, total: int) -> None:
    """Tells nobody."""


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """18 files, which are two batches: some no images, two of one name, and kinds that the graph does not read."""
    paths = [noise(tmp_path / f"{seed}.png", seed) for seed in range(12)]
    paths.insert(1, tmp_path / "words.png")
    paths[1].write_text("no image")
    paths.insert(3, noise(tmp_path / "cut.png", 90))
    paths[3].write_bytes(paths[3].read_bytes()[:900])
    paths += [tmp_path / "empty.jpg", noise(tmp_path / "a.webp", 91), noise(tmp_path / "again" / "0.png", 92)]
    paths[-3].write_bytes(b"")
    paths.append(tmp_path / "gone.png")
    return [str(path) for path in paths]


def test_every_file_has_a_row_in_order_and_the_answer_it_has_alone(pets: Predictor, files: list[str]) -> None:
    middle = float(np.median([max(pets.analyse(uploaded_bytes(files[at])).probabilities[0]) for at in (0, 2, 4, 5, 6)]))
    thresholds = [middle, middle]
    told: list[tuple[int, int]] = []
    rows = classify_files(pets, files, thresholds, lambda done, total: told.append((done, total)))
    assert told == [(16, 18), (18, 18)]
    assert [row.file for row in rows] == [Path(path).name for path in files]
    assert [row.file for row in rows if row.error] == ["words.png", "cut.png", "empty.jpg", "gone.png"]
    for path, row in zip(files, rows, strict=True):
        if row.error:
            assert (row.label, row.confidence, row.exit, row.gmacs, row.share) == ("", None, None, None, None)
            continue
        decision = routing.decide(pets.analyse(uploaded_bytes(path)).probabilities, thresholds, pets.gmacs)
        assert (row.label, row.exit, row.gmacs) == (PETS[decision.label], decision.exit, decision.gmacs)
        assert row.confidence == pytest.approx(decision.confidence, abs=1e-5)
        assert row.share == pytest.approx(decision.share)
    assert len({row.exit for row in rows if not row.error}) > 1


def test_errors_are_sentences_without_a_folder(pets: Predictor, files: list[str], tmp_path: Path) -> None:
    errors = [row.error for row in classify_files(pets, files, [0.5, 0.5], quiet) if row.error]
    assert errors == [
        "This file is not an image, or a damaged or truncated one.",
        "This file is a damaged or truncated PNG file.",
        "This file is empty, not an image.",
        "This file is no longer here; upload it again.",
    ]
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (row,) = classify_files(pets, [str(tmp_path / "bomb.png")], [0.5, 0.5], quiet)
    assert row.error.startswith("This file has ")
    assert row.error.endswith("; the limit is 64 million.")


def test_what_the_graph_alone_finds_damaged_is_a_row_too(
    pets: Predictor, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pets, "classify", lambda images, thresholds: [None] * len(images))
    rows = classify_files(pets, files[:1], [0.5, 0.5], quiet)
    assert rows == [Row("0.png", error="This file is a damaged image.")]


def test_a_batch_without_an_image_and_no_files_at_all(pets: Predictor, files: list[str]) -> None:
    assert classify_files(pets, [], [0.5, 0.5], quiet) == []
    assert [bool(row.error) for row in classify_files(pets, [files[1], files[-1]], [0.5, 0.5], quiet)] == [True, True]


def test_files_are_called_as_told(pets: Predictor, files: list[str]) -> None:
    rows = classify_files(pets, [*files[:2], files[0]], [0.0, 0.0], quiet, ["a?.png", "b", "a?.png"])
    assert [row.file for row in rows] == ["a?.png", "b", "a?.png"]
    assert rows[1].error == "This file is not an image, or a damaged or truncated one."


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("holiday?.png", "holiday?.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.png", "cat.png"),
        ("folder/", "stored.png"),
        ("", "stored.png"),
        (None, "stored.png"),
    ],
)
def test_a_files_own_name_has_no_folder(given_name: str | None, name: str) -> None:
    assert own_name("/tmp/gradio/0123/stored.png", given_name) == name


def test_too_many_files_are_refused_before_any_is_read(pets: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "uploaded_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ValueError, match=f"^{MOST_FILES + 1} files are too many: give at most {MOST_FILES} at a time$"):
        classify_files(pets, ["a.png"] * (MOST_FILES + 1), [0.5, 0.5], quiet)


def test_the_summary_counts_exits_and_leaves_errors_out_of_the_means() -> None:
    rows = [Row("a", "cat", 0.9, 1, 1.0, 0.25), Row("b", error="no"), Row("c", "cat", 0.9, 3, 4.0, 1.0)]
    found = summary(rows, 3)
    assert (found.exits, found.errors, found.classified) == ((1, 0, 1), 1, 2)
    assert (found.gmacs, found.share) == (2.5, 0.625)
    nothing = summary([Row("b", error="no")], 3)
    assert (nothing.exits, nothing.errors, nothing.gmacs, nothing.share) == ((0, 0, 0), 1, None, None)


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def original(cell: str) -> str:
    """A text cell without the apostrophe that keeps it from being computed."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


# A text that already looks like a kept one would come back without its apostrophe; a null byte is in no file's name,
# and Python 3.10 reads none.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))).filter(
    lambda text: original(text) == text
)
shares = st.floats(0, 1, width=32)
answers = st.builds(Row, texts, texts, shares, st.integers(1, 9), st.floats(0, 100, width=32), shares)
faults = st.builds(lambda file, error: Row(file, error=error), texts, texts)


@given(st.lists(answers | faults, max_size=5))
def test_a_csv_reads_back_as_it_was(rows: list[Row]) -> None:
    header, *lines = read_csv(to_csv(rows))
    assert tuple(header) == CSV_COLUMNS
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        file, label, confidence, exit_, gflops, share, error = line
        assert [original(cell) for cell in (file, label, error)] == [row.file, row.label, row.error]
        assert not any(cell.startswith(FORMULA_STARTS) for cell in (file, label, error))
        if row.exit is None:
            assert (confidence, exit_, gflops, share) == ("", "", "", "")
        else:
            assert int(exit_) == row.exit
            numbers = [np.float32(cell) for cell in (confidence, gflops, share)]
            assert numbers == [row.confidence, row.gmacs, row.share]


def test_a_csv_is_quoted_and_inert() -> None:
    text = to_csv([Row('=1+1, "x"', "-cat", 0.5, 2, 0.25, 0.125), Row("@b\nc", error="\tno"), Row("a-b", "'+")])
    assert text.split("\r\n") == [
        "file,label,confidence,exit,gflops,share_of_full_cost,error",
        '"\'=1+1, ""x""",\'-cat,0.5,2,0.25,0.125,',
        "\"'@b\nc\",,,,,,'\tno",
        "a-b,'+,,,,,",
        "",
    ]


def test_csv_files_have_folders_of_their_own_and_a_mark_for_spreadsheets(tmp_path: Path) -> None:
    first, second = batch_tab.write_csv("ä\r\n", tmp_path), batch_tab.write_csv("\ud800", tmp_path)
    assert Path(first).parent != Path(second).parent
    assert Path(first).name == Path(second).name == batch_tab.CSV_NAME
    assert Path(first).is_relative_to(tmp_path)
    assert Path(first).read_bytes() == b"\xef\xbb\xbf\xc3\xa4\r\n"


def tried(
    handlers: Handlers,
    files: list[str],
    model: str,
    thresholds: list[float],
    on_done: Callable[[int, int], None] = quiet,
) -> tuple[str, str]:
    """HTML and CSV, "" for none."""
    uploads = [Upload(path, Path(path).name) for path in files]
    shown, text = batch_tab.classified(handlers, uploads, model, thresholds, on_done)
    return shown, text or ""


def test_the_tab_classifies_with_the_thresholds_given(pets: Predictor, files: list[str]) -> None:
    handlers = Handlers([pets])
    told: list[tuple[int, int]] = []
    shown, text = tried(handlers, files, "pets", [0.0, NEVER], on_done=lambda done, total: told.append((done, total)))
    assert told == [(0, 18), (16, 18), (18, 18)]
    assert "14 files</b> classified" in shown
    assert "4 files</b> could not be read" in shown
    assert "stopping at 0.00, then never early" in shown
    assert [line[3] for line in read_csv(text)[1:3]] == ["1", ""]
    everything, _ = tried(handlers, files[:1], "pets", [NEVER, NEVER])
    assert "<b>100%</b> of the full cascade" in everything


def test_the_tab_says_what_is_wrong(pets: Predictor, files: list[str], tmp_path: Path) -> None:
    page_model((2, 4), PETS).save_to_preset(tmp_path / "broken")
    (tmp_path / "broken" / "weights.safetensors").write_bytes(b"no weights")
    (broken,) = load_all([str(tmp_path / "broken")], load_first=False)
    handlers = Handlers([pets, broken])
    assert tried(handlers, [], "pets", [0.5, 0.5]) == (batch_views.invitation_html(), "")
    for said, (shown, text) in {
        "501 files are too many": tried(handlers, files[:1] * 501, "pets", [0.5, 0.5]),
        "press Classify again": tried(handlers, files, "pets", [0.5]),
        "missing or damaged": tried(handlers, files, "broken", [0.5]),
    }.items():
        assert text == ""
        assert said in shown
        assert 'role="alert"' in shown


def test_the_note_names_the_model_and_the_thresholds() -> None:
    assert "the threshold set in the first tab" in batch_views.thresholds_html("pets", [0.7, 0.7])
    assert ">0.70</b>" in batch_views.thresholds_html("pets", [0.7, 0.7])
    assert ">0.70, then never early</b>" in batch_views.thresholds_html("<pets>", [0.7, NEVER])
    assert "&lt;pets&gt;" in batch_views.thresholds_html("<pets>", [0.7, NEVER])
    assert "one exit" in batch_views.thresholds_html("pets", [])
    assert "0." not in batch_views.thresholds_html("pets", None)


def test_the_table_is_escaped_and_tells_exits_by_colour_and_number() -> None:
    row = Row("<b>.png", "<cat>", 0.98, 2, 0.5, 0.25)
    rows = [row, dataclasses.replace(row, exit=1), Row("c&d", error="<no>")]
    shown = batch_views.results_html(rows, summary(rows, 3), "<m>", [0.5, 0.5])
    assert "<b>.png" not in shown
    for text in ("&lt;b&gt;.png", "&lt;cat&gt;", "c&amp;d", "&lt;no&gt;", "3 files through &lt;m&gt;"):
        assert text in shown
    assert shown.count('<th scope="row">') == 3
    assert shown.count('<th scope="col"') == 6
    assert batch_views.badge_html(2) in shown
    assert 'dvt-exit-2"><span class="dvt-hidden">exit </span>2</span>' in batch_views.badge_html(2)
    only_bad = batch_views.results_html(rows[2:], summary(rows[2:], 3), "m", [])
    assert "1 file</b> could not be read." in only_bad
    assert "classified" not in only_bad
