"""What the commands share: their options, tables, and lines on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dvt_tf.cascade import DynamicVisionTransformer

DEFAULT_MODEL = "dvt_tiny_digits"
GFLOPS_NOTE = "GFLOPs are multiply-adds, as the paper counts."
BATCH = 64  # images read and classified at once
BAD_INPUT = 2  # exit status

ModelOption = Annotated[
    str, typer.Option(metavar="DIR|PRESET", help="A model folder, or a preset whose weights are bundled.")
]


def start_tensorflow() -> None:
    """Import TensorFlow in silence. Its newer releases log to file descriptor 2 while they load, whatever the level."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    tf.get_logger().setLevel("ERROR")


def table(*columns: str) -> Table:
    """A table with these headings; one that starts with > is for numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return made


def print_table(rows: Table, note: str) -> None:
    """A table on stdout, and a note below it."""
    # In a pipe there is no width to keep to, and a name cut short would be of no use there.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=10_000)
    console.print(rows)
    console.print(Text(note, style="dim"))


def complain(message: str) -> int:
    """The one line about bad input, on stderr -> the exit status that goes with it."""
    print(f"dvt: {printable(' '.join(message.split()))}", file=sys.stderr)
    return BAD_INPUT


def printable(text: str) -> str:
    """On one line, whatever a file is called."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def say(message: str) -> None:
    """A line on stderr that is no complaint."""
    print(f"dvt: note: {printable(' '.join(message.split()))}", file=sys.stderr)


def say_if_stale(model: DynamicVisionTransformer) -> None:
    """Says so on stderr where a card's thresholds were chosen for other weights."""
    from dvt_tf.calibration import stale_note

    note = stale_note(model)
    if note:
        say(note)
