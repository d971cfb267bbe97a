"""Many files through a model with real early exit: plain functions from files to rows, to a summary, to a CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from app.inference import Predictor, uploaded_bytes
from dvt_tf.image_files import ImageError

BATCH = 16  # files that are classified together
MOST_FILES = 500  # at a time
CSV_COLUMNS = ("file", "label", "confidence", "exit", "gflops", "share_of_full_cost", "error")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # of cells that a spreadsheet would compute


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one file.

    file: its own name. label, confidence, exit (1-based), gmacs (spent, 10^9 multiply-accumulates), share (of the full
    cascade's cost, 0 to 1): the answer, "" and None where there is none. error: why there is none, a sentence, or "".
    """

    file: str
    label: str = ""
    confidence: float | None = None
    exit: int | None = None
    gmacs: float | None = None
    share: float | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Summary:
    """exits: how many files left at each of the K exits. errors: how many have no answer. gmacs, share: means of the
    files that have one, None without any.
    """

    exits: tuple[int, ...]
    errors: int
    gmacs: float | None
    share: float | None

    @property
    def classified(self) -> int:
        """How many files have an answer."""
        return sum(self.exits)


def check_count(count: int, most: int = MOST_FILES) -> None:
    """Raises ValueError for too many files."""
    if count > most:
        raise ValueError(f"{count} files are too many: give at most {most} at a time")


def classify_files(
    predictor: Predictor,
    paths: Sequence[str],
    thresholds: Sequence[float],
    on_done: Callable[[int, int], None],
    names: Sequence[str] | None = None,
) -> list[Row]:
    """Classifies files, each by as much of the cascade as it needs; one row for each, in order.

    Args:
        predictor: the model.
        paths: of the files; what is no image gets a row that says so.
        thresholds: K-1.
        on_done: is told after every batch how many files are done, and of how many.
        names: what the files are called; by default as the last parts of their paths.

    Raises:
        ValueError: more than `MOST_FILES` files, or the model cannot be loaded.
        FileNotFoundError: the model is no longer there.
    """
    check_count(len(paths))
    names = [Path(path).name for path in paths] if names is None else names
    rows: list[Row] = []
    for start in range(0, len(paths), BATCH):
        rows += _classify_batch(predictor, paths[start : start + BATCH], names[start : start + BATCH], thresholds)
        on_done(len(rows), len(paths))
    return rows


def _classify_batch(
    predictor: Predictor, paths: Sequence[str], names: Sequence[str], thresholds: Sequence[float]
) -> list[Row]:
    rows = [Row(name, error="This file is a damaged image.") for name in names]
    contents: dict[int, bytes] = {}
    for at, path in enumerate(paths):
        try:
            contents[at] = uploaded_bytes(path)
        except ImageError as error:
            rows[at] = Row(names[at], error=_sentence(error, path))
    answers = predictor.classify(list(contents.values()), thresholds) if contents else []
    for at, answer in zip(contents, answers, strict=True):
        if answer is not None:
            rows[at] = Row(names[at], **answer, share=answer["gmacs"] / predictor.gmacs[-1])
    return rows


def _sentence(error: ImageError, path: str) -> str:
    """`name: is empty, not an image` -> `This file is empty, not an image.`"""
    before, text = str(error).partition(f"{Path(path).name}: ")[::2]
    return f"This file {text}." if text and not before else f"This file cannot be read: {error}."


def summary(rows: Sequence[Row], num_exits: int) -> Summary:
    """How many files left where, and what they cost on average."""
    exits = [row.exit for row in rows if row.exit is not None]
    costs = [row.gmacs for row in rows if row.gmacs is not None]
    shares = [row.share for row in rows if row.share is not None]
    return Summary(
        exits=tuple(exits.count(number) for number in range(1, num_exits + 1)),
        errors=len(rows) - len(exits),
        gmacs=sum(costs) / len(costs) if costs else None,
        share=sum(shares) / len(shares) if shares else None,
    )


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as a CSV with a header, lines ending as RFC 4180 has them; empty cells where there is no answer.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        numbers = (_cell(row.confidence), row.exit, _cell(row.gmacs), _cell(row.share))
        writer.writerow((_inert(row.file), _inert(row.label), *numbers, _inert(row.error)))
    return text.getvalue()


def _cell(value: float | None) -> str:
    """Nine digits, which is all that a float32 holds."""
    return "" if value is None else f"{value:.9g}"


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
