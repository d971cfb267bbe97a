"""What a benchmark found: tables that are shown, and written as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine
from dvt_tf.files import written_whole

Out = Annotated[Path | None, typer.Option(help="A folder to write the tables to as well, as Markdown and CSV.")]


class Report:
    """The tables of one benchmark.

    Args:
        name: of its files: `name.md`, and `name_1.csv` for its first table.
        title: a line that says what was measured.
        out: where to write; None to show alone.
    """

    def __init__(self, name: str, title: str, out: Path | None = None) -> None:
        self.name, self.title, self.out = name, title, out
        self._console = Console(highlight=False)
        self._markdown = [f"## {title}", machine()]
        self._tables = 0
        self._console.print(f"[bold]{title}[/bold]\n{machine()}")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        """Shows one table and keeps it; every cell is text, the first column's to the left."""
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for number, heading in enumerate(headings):
            shown.add_column(heading, justify="right" if number else "left")
        for row in rows:
            shown.add_row(*row)
        if caption:
            self._console.print(caption)
        self._console.print(shown)
        lines = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]
        self._markdown += [*([caption] if caption else []), "\n".join(lines)]
        self._tables += 1
        if self.out is not None:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([headings, *rows])
            self._write(f"{self.name}_{self._tables}.csv", text.getvalue())

    def say(self, line: str) -> None:
        """Shows a line and keeps it."""
        self._console.print(line)
        self._markdown.append(line)

    def close(self) -> None:
        """Writes what was kept."""
        if self.out is not None:
            self._write(f"{self.name}.md", "\n\n".join(self._markdown) + "\n")

    def _write(self, name: str, text: str) -> None:
        assert self.out is not None
        self.out.mkdir(parents=True, exist_ok=True)
        with written_whole(self.out / name) as partial:
            partial.write_text(text, encoding="utf-8")
