"""`python -m app`: starts the page for one model or several."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

DEFAULT_MODEL = "dvt_tiny_digits"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and status 2, without the usage box."""
        fail(f"{message} (see python -m app --help)")


def fail(message: str) -> NoReturn:
    """Ends the command with one line on stderr and exit status 2."""
    print(f"python -m app: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options: `model` (list of names or folders), `host`, `port`."""
    parser = _Parser(prog="python -m app", description="The page that shows dynamic inference.")
    parser.add_argument(
        "--model",
        action="append",
        metavar="DIR|PRESET",
        help=f"a model folder or a preset's name; several times for a selector (default {DEFAULT_MODEL})",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=port_number, default=7860, help="port to listen on (default 7860)")
    options = parser.parse_args(argv)
    options.model = list(dict.fromkeys(options.model or [DEFAULT_MODEL]))
    return options


def port_number(text: str) -> int:
    """A port from 1 to 65535."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a whole number from 1 to 65535")
    return int(text)


def check_free(host: str, port: int) -> None:
    """Fails where nothing can listen there: sooner and clearer than the server would, before any model is loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        fail(f"--host {host}: no such address on this machine")
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            fail(
                f"cannot listen on {host}:{port} ({(error.strerror or str(error)).lower()}): choose another with --port"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Loads the models, starts the page, prints its address, and serves until interrupted."""
    options = parse(argv)
    check_free(options.host, options.port)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("Loading the model ...", flush=True)

    from app.inference import load_all
    from app.page import build_page, launch

    try:
        predictors = load_all(options.model)
    except (ValueError, FileNotFoundError) as error:
        fail(f"--model: {error}")
    page = build_page(predictors)
    try:
        address = launch(page, options.host, options.port)
    except OSError as error:
        fail(f"cannot listen on {options.host}:{options.port}: {error}")
    print(f"The page is at {address.rstrip('/')} (stop it with Ctrl-C)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not break the closing
        page.close(verbose=False)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the page was up
        raise SystemExit(130) from None
