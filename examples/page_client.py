"""Asks a running page (python -m app) what is on images, through its endpoints for programs. Needs gradio_client alone.

One image at a time, where it also shows at which exit the image leaves at other thresholds; for that the page runs
nothing, as the probabilities of every exit came with the first answer:

    python examples/page_client.py photo.jpg other.png --reroute 0.5,0.9,never

Many at a time, each by as much of the cascade as it needs:

    python examples/page_client.py --batch photos/*.jpg --threshold 0.8

Where the page asks for a name and a password, set the variable DVT_PAGE_AUTH to USER:PASSWORD. It ends with 0 if every
file was an image, 1 if not, and 2 if something else went wrong.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: the client asks for no one else

import httpx
from gradio_client import Client, handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError, AuthenticationError  # type: ignore[import-untyped]

AUTH_VARIABLE = "DVT_PAGE_AUTH"
NEVER = 2.0  # a threshold above 1 is one that no confidence reaches
FILES_A_CALL = 64  # as many as /predict_batch takes


class ClientError(Exception):
    """What went wrong, in one line."""


def connect(page: str, auth: str | None) -> Client:
    """A client of the page at that address; `auth` is USER:PASSWORD, where it asks for them.

    Raises:
        ClientError: nothing answers there, or not a page, or it lets nobody in without the right name and password.
    """
    url = page if "://" in page else f"http://{page}"
    name, colon, password = (auth or "").partition(":")
    known = (name, password) if colon else None
    try:
        client = Client(url, auth=known, verbose=False, download_files=False, analytics_enabled=False)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ClientError(f"no page answers at {url} ({error}): start it with python -m app") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # it takes the answer for granted
        if isinstance(error, AuthenticationError) or str(error).startswith("Could not login"):
            wanted = "refuses this name and password" if known else "asks for a name and a password"
            raise ClientError(
                f"the page at {url} {wanted}: set the variable {AUTH_VARIABLE} to USER:PASSWORD"
            ) from None
        raise ClientError(f"what answers at {url} is no page of Gradio's") from None
    missing = {"/predict", "/route", "/predict_batch"} - set(endpoints(client))
    if missing:
        raise ClientError(f"the page at {url} has no endpoint {', '.join(sorted(missing))}")
    return client


def endpoints(client: Client) -> list[str]:
    """What the page offers to programs."""
    api: Any = client.view_api(return_format="dict", print_info=False)
    return list(api["named_endpoints"])


def asked(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """The page's answer.

    Raises:
        AppError: the page refuses, in words.
        ClientError: it is gone.
    """
    try:
        return call(*given, **named)
    except AppError:  # a ValueError too
        raise
    except (httpx.HTTPError, OSError) as error:
        raise ClientError(f"the page does not answer any more ({error or type(error).__name__})") from None
    except ValueError as error:  # of the client itself: a file that the page would not take
        raise ClientError(str(error)) from None


def classify(client: Client, names: Sequence[str], reroute: Sequence[float], options: dict[str, Any]) -> bool:
    """Prints what is on each image, and where it leaves at other thresholds; whether all were images."""
    good = True
    for name in names:
        try:
            answer = asked(client.predict, image=handle_file(name), **options, api_name="/predict")
        except AppError as error:
            if not is_about(error, name):
                raise
            print(error)
            good = False
            continue
        print(f"{name}: {line(answer)}")
        for threshold in reroute:
            again = asked(
                client.predict,
                probabilities=answer["probabilities"],
                thresholds=threshold,
                model=answer["model"],
                api_name="/route",
            )
            print(f"  at {'never' if threshold > 1 else f'{threshold:g}'}: {line(again)}")
    return good


def is_about(error: AppError, name: str) -> bool:
    """Whether the page refuses this file, not the call."""
    return str(error).startswith(f"{Path(name).name}: ")


def classify_batch(client: Client, names: Sequence[str], options: dict[str, Any]) -> bool:
    """Prints what is on each image, many to a call; whether all were images."""
    good = True
    for some in parts(names, FILES_A_CALL):
        images = [handle_file(name) for name in some]
        answers = asked(client.predict, images=images, **options, api_name="/predict_batch")
        for name, answer in zip(some, answers):
            print(f"{name}: {answer['error'] or line(answer)}")
            good = good and answer["error"] is None
    return good


def parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """So many at a time."""
    for start in range(0, len(names), size):
        yield names[start : start + size]


def line(answer: dict[str, Any]) -> str:
    """An answer in words."""
    cost = f"{answer['gmacs']:.3g} GFLOPs"
    return f"{answer['label']} ({answer['confidence']:.3f}), left at exit {answer['exit']} after {cost}"


def parse_budget(text: str) -> float:
    """GFLOPs, a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of GFLOPs above 0")
    return value


def parse_threshold(text: str) -> float:
    """A number from 0 to 1, or the word never."""
    try:
        value = NEVER if text.strip() == "never" else float(text)
    except ValueError:
        value = float("nan")
    if not (0 <= value <= 1 or value == NEVER):
        raise ClientError(f"threshold {text.strip()!r} must be a number from 0 to 1, or the word never")
    return value


def check_files(names: Sequence[str]) -> None:
    """Raises ClientError for what is not there; what is in a file is for the page to say."""
    for name in names:
        if not Path(name).is_file():
            raise ClientError(f"{name}: {'is a folder' if Path(name).is_dir() else 'no such file'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 if every file was an image, 1 if not, 2 if something went wrong."""
    parser = argparse.ArgumentParser(description="Ask a running page what is on images.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="an image file")
    parser.add_argument("--page", default="http://127.0.0.1:7860", metavar="URL", help="default %(default)s")
    parser.add_argument("--model", metavar="NAME", help="one of the page's models; by default its first")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--threshold", metavar="T", help="from 0 to 1 or never, for every exit; default the model's own")
    which.add_argument(
        "--budget", type=parse_budget, metavar="GFLOPS", help="instead: what an image may cost on average"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--reroute", default="", metavar="T,T", help="other thresholds to show each image at")
    how.add_argument("--batch", action="store_true", help=f"{FILES_A_CALL} files in a call")
    given = parser.parse_args(arguments)
    try:
        reroute = [parse_threshold(text) for text in given.reroute.split(",")] if given.reroute else []
        threshold = None if given.threshold is None else parse_threshold(given.threshold)
        options = {"threshold": threshold, "model": given.model, "budget": given.budget}
        check_files(given.files)
        client = connect(given.page, os.environ.get(AUTH_VARIABLE))
        if given.batch:
            return 0 if classify_batch(client, given.files, options) else 1
        return 0 if classify(client, given.files, reroute, options) else 1
    except (ClientError, AppError) as error:
        print(f"page_client: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
