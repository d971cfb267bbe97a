"""What the tab "Many images" draws, as pure functions to HTML: the thresholds in use, the table, its summary.

Every string that comes from a card or a file is escaped here. Nothing is told by colour alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from app.batch import MOST_FILES, Row, Summary
from app.routing import thresholds_text
from app.views import colour_class, gflops, percent


def thresholds_html(model: str, thresholds: Sequence[float] | None) -> str:
    """Which model and which thresholds the next files are classified with; None while another model still comes."""
    name = f"<b>{html.escape(model)}</b>"
    if thresholds is None:
        words = f"Files go through {name}, with the thresholds set in the first tab."
    elif not thresholds:
        words = f"Files go through {name}, which has one exit and so no thresholds."
    else:
        noun = "threshold" if len(set(thresholds)) == 1 else "thresholds"
        text = f'<b data-testid="batch-thresholds">{thresholds_text(thresholds)}</b>'
        words = f"Files go through {name} with the {noun} set in the first tab: {text}."
    return f'<output class="dvt-batch-note" role="status">{words}</output>'


def invitation_html() -> str:
    """What stands in place of results before there are any."""
    return (
        '<section class="dvt-message dvt-quiet">No results yet: choose images, then press <b>Classify</b>. Each file '
        f"runs as little of the cascade as it needs. Up to {MOST_FILES} files at a time.</section>"
    )


def results_html(rows: Sequence[Row], found: Summary, model: str, thresholds: Sequence[float]) -> str:
    """The summary and, below it, a row for every file."""
    return f'<section aria-label="Results">{summary_html(found)}{table_html(rows, model, thresholds)}</section>'


def summary_html(found: Summary) -> str:
    """How many files, what they cost on average, and how many left at each exit."""
    parts = []
    if found.gmacs is not None and found.share is not None:
        parts.append(f"<b>{_files(found.classified)}</b> classified")
        parts.append(f"<b>{gflops(found.gmacs)} GFLOPs</b> each on average")
        parts.append(f"<b>{found.share * 100:.0f}%</b> of the full cascade")
    if found.errors:
        parts.append(f'<b class="dvt-batch-bad">{_files(found.errors)}</b> could not be read')
    words = f'<p class="dvt-batch-summary" role="status" data-testid="batch-summary">{", ".join(parts)}.</p>'
    return words + (exits_html(found) if found.classified else "")


def exits_html(found: Summary) -> str:
    """A bar of the exits' shares, and the count at each."""
    numbered = list(enumerate(found.exits, 1))
    pieces = "".join(
        f'<i class="{colour_class(exit_)}" style="flex:{count}"></i>' for exit_, count in numbered if count
    )
    counts = "".join(
        f'<li data-testid="batch-exit-{exit_}">{badge_html(exit_)} {_files(count)}</li>' for exit_, count in numbered
    )
    return (
        f'<div class="dvt-batch-bar" aria-hidden="true">{pieces}</div>'
        f'<ul class="dvt-batch-counts" aria-label="Files that left at each exit">{counts}</ul>'
    )


def badge_html(exit_number: int) -> str:
    """An exit as its number on its colour."""
    return (
        f'<span class="dvt-batch-exit {colour_class(exit_number)}"><span class="dvt-hidden">exit </span>'
        f"{exit_number}</span>"
    )


def table_html(rows: Sequence[Row], model: str, thresholds: Sequence[float]) -> str:
    """The table, in a box of its own that scrolls, by keyboard too."""
    how = f", stopping at {thresholds_text(thresholds)}" if thresholds else ""
    caption = f"{_files(len(rows))} through {html.escape(model)}{how}"
    number, wide = "dvt-batch-number", "dvt-batch-wide"
    heads = "".join(
        f'<th scope="col" class="{kind}">{text}</th>'
        for text, kind in (
            ("File", ""),
            ("Answer", ""),
            (_short("Confidence", "Conf."), number),
            ("Exit", ""),
            ("GFLOPs", f"{number} {wide}"),
            (_short("Share of full cost", "Cost"), number),
        )
    )
    body = "".join(_row_html(row) for row in rows)
    return (
        '<div class="dvt-batch-scroll" role="region" aria-label="Results of every file" tabindex="0">'
        f'<table class="dvt-batch-table" data-testid="batch-table"><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _short(text: str, on_phones: str) -> str:
    return f'<span class="dvt-batch-wide">{text}</span><span class="dvt-batch-narrow">{on_phones}</span>'


def _row_html(row: Row) -> str:
    head = f'<th scope="row">{html.escape(row.file)}</th>'
    if row.confidence is None or row.exit is None or row.gmacs is None or row.share is None:
        return f'<tr class="dvt-batch-fault">{head}<td colspan="5">{html.escape(row.error)}</td></tr>'
    return (
        f"<tr>{head}<td>{html.escape(row.label)}</td>"
        f'<td class="dvt-batch-number">{percent(row.confidence)}</td><td>{badge_html(row.exit)}</td>'
        f'<td class="dvt-batch-number dvt-batch-wide">{gflops(row.gmacs)}</td>'
        f'<td class="dvt-batch-number">{row.share * 100:.0f}%</td></tr>'
    )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
