"""The `dvt` command. Bad input is one line on stderr, `dvt: ...`, and exit status 2; results alone go to stdout.

TensorFlow and all that needs it is imported inside the commands, so that `dvt --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

# Before TensorFlow is first imported: what it logs would stand between the person and the one line meant for them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import typer

from dvt_tf.commands.calibrate import calibrate
from dvt_tf.commands.console import complain
from dvt_tf.commands.convert import convert
from dvt_tf.commands.evaluate import evaluate
from dvt_tf.commands.export import export
from dvt_tf.commands.predict import predict
from dvt_tf.commands.presets import presets

# Typer carries its own copy of click in newer releases, so the class is found from one that Typer names.
_CLICK_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Dynamic Vision Transformers: classify images with no more tokens than each one needs.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dvt` with these arguments (by default the process's own) and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result = typer.main.get_command(app).main(arguments, prog_name="dvt", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except _CLICK_ERROR as error:
        context = getattr(error, "ctx", None)
        return complain(f"{error.format_message()} (see {context.command_path if context else 'dvt'} --help)")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except ValueError as error:  # ImageError and every refusal of the library
        return complain(str(error))
    except Exception as error:
        message = _damaged_data_message(error)
        if message is None:
            raise
        return complain(message)


@app.callback()
def _dvt() -> None:
    """Dynamic Vision Transformers: classify images with no more tokens than each one needs."""


for command in (predict, evaluate, calibrate, convert, export, presets):
    app.command()(command)


def _damaged_data_message(error: Exception) -> str | None:
    """Of the errors of TensorFlow's that are bad input: something damaged met while data is read."""
    from dvt_tf.datasets import damaged_data_message

    return damaged_data_message(error)


if __name__ == "__main__":
    sys.exit(main())
