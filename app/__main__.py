"""`python -m app`: starts the page for one model or several."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

DEFAULT_MODEL = "dvt_tiny_digits"
AUTH_VARIABLE = "DVT_PAGE_AUTH"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and status 2, without the usage box."""
        fail(f"{message} (see python -m app --help)")


def fail(message: str) -> NoReturn:
    """Ends the command with one line on stderr and exit status 2."""
    print(f"python -m app: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options: `model`, `data`, `results`, `beside` (lists), `host`, `port`, `auth` (a list of pairs or None)."""
    parser = _Parser(prog="python -m app", description="The page that shows dynamic inference.")
    parser.add_argument(
        "--model",
        action="append",
        metavar="DIR|PRESET",
        help=f"a model folder or a preset's name; several times for a selector (default {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SPEC",
        help="test images for the second tab: digits, shapes, folder:PATH, shards:PATH or tfds:NAME; if several are "
        "given, a model takes the first that has its classes (default: digits or shapes, for a model that knows them)",
    )
    parser.add_argument(
        "--results",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a results.safetensors that dvt evaluate --out wrote, so that the second tab need not run the model",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a summary.json of dvt evaluate of another model on the same data, to plot beside",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone; 0.0.0.0 is everyone who can reach it)",
    )
    parser.add_argument("--port", type=port_number, default=7860, help="port to listen on (default 7860)")
    parser.add_argument(
        "--auth",
        action="append",
        type=credentials,
        metavar="USER:PASSWORD",
        help=f"ask visitors for this name and password; several times for several, or in the variable {AUTH_VARIABLE}, "
        "where no list of processes shows it",
    )
    options = parser.parse_args(argv)
    if options.auth is None and os.environ.get(AUTH_VARIABLE):
        try:
            options.auth = [credentials(os.environ[AUTH_VARIABLE])]
        except argparse.ArgumentTypeError as error:
            fail(f"{AUTH_VARIABLE}: {error}")
    options.model = list(dict.fromkeys(options.model or [DEFAULT_MODEL]))
    return options


def port_number(text: str) -> int:
    """A port from 1 to 65535."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a whole number from 1 to 65535")
    return int(text)


def credentials(text: str) -> tuple[str, str]:
    """A name and a password with a colon between them."""
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise argparse.ArgumentTypeError("give a name and a password as USER:PASSWORD")
    return name, password


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
    from app.kept import kept_sets
    from app.page import build_page, launch

    try:
        predictors = load_all(options.model)
    except (ValueError, FileNotFoundError) as error:
        fail(f"--model: {error}")
    try:
        sets = kept_sets(predictors, options.data, options.results, options.beside)
    except (ValueError, FileNotFoundError) as error:
        fail(str(error))
    page = build_page(predictors, sets)
    try:
        address = launch(page, options.host, options.port, auth=options.auth)
    except OSError as error:
        fail(f"cannot listen on {options.host}:{options.port}: {error}")
    print(f"The page is at {address.rstrip('/')} (stop it with Ctrl-C)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: closing removes what visitors uploaded
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
