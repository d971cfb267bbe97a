"""Asks TensorFlow Serving over REST what is on images. Needs Python's standard library and nothing else.

For example: python examples/rest_client.py photo.jpg other.png --model dvt --thresholds 0.9,never
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEVER = 2.0  # a threshold above 1 is one that no confidence reaches


class ClientError(Exception):
    """What went wrong, in one line."""


def ask(
    url: str, images: Sequence[bytes], thresholds: Sequence[float] | None = None, timeout: float = 30.0
) -> list[dict[str, Any]]:
    """One request: the server's answer for each image, in order.

    Args:
        url: of the model, such as http://localhost:8501/v1/models/dvt, or that with /versions/3 or /labels/stable.
        images: contents of image files; no more than the server's max_batch_size.
        thresholds: one for each exit but the last, here the same for all images; None for the model's own.
        timeout: seconds.

    Raises:
        ClientError: no server there, no such model or version, or a request that it refuses.
    """
    rows: list[Any] = [{"b64": base64.b64encode(image).decode()} for image in images]
    body: dict[str, Any] = {"instances": rows}
    if thresholds is not None:
        # Every row has thresholds of its own, so images of one request may well be given different ones.
        rows = [{"image_bytes": row, "thresholds": list(thresholds)} for row in rows]
        body = {"signature_name": "with_thresholds", "instances": rows}
    try:
        request = urllib.request.Request(f"{url}:predict", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return json.load(reply)["predictions"]
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):  # else it is no answer of this server's
            text = str(json.loads(text)["error"])
        raise ClientError(f"the server refuses ({error.code}): {' '.join(text.split())}") from None
    except urllib.error.URLError as error:
        raise ClientError(f"no server answers at {url}: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise ClientError(f"no answer that makes sense from {url}: {error or type(error).__name__}") from None


def read_files(names: Sequence[str]) -> list[bytes]:
    """The files' contents; what they are is for the server to say."""
    try:
        return [Path(name).read_bytes() for name in names]
    except OSError as error:
        raise ClientError(f"cannot read {error.filename!r}: {error.strerror}") from None


def parse_thresholds(text: str) -> list[float]:
    """Numbers from 0 to 1 or the word never, with commas in between."""
    values = []
    for part in text.split(","):
        try:
            value = NEVER if part.strip() == "never" else float(part)
        except ValueError:
            value = float("nan")
        if not (0 <= value <= 1 or value == NEVER):
            raise ClientError(f"threshold {part.strip()!r} must be a number from 0 to 1, or the word never")
        values.append(value)
    return values


def report(names: Sequence[str], answers: Sequence[dict[str, Any]]) -> bool:
    """Prints a line for each image; whether all of them could be read."""
    for name, answer in zip(names, answers):
        if answer["valid"]:
            sure, exit_, cost = answer["confidence"], answer["exit"], answer["gmacs"]
            print(f"{name}: {answer['label']} ({sure:.3f}), left at exit {exit_} after {cost:.3g} GFLOPs")
        else:
            print(f"{name}: no image that the model can read")
    return all(answer["valid"] for answer in answers)


def model_url(server: str, model: str, version: int | None, label: str | None) -> str:
    """Where a model, or one of its versions, is asked."""
    part = f"/versions/{version}" if version is not None else f"/labels/{label}" if label else ""
    return f"{server if '://' in server else f'http://{server}'}".rstrip("/") + f"/v1/models/{model}{part}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 if every file was an image, 1 if not, 2 if something went wrong."""
    parser = argparse.ArgumentParser(description="Ask TensorFlow Serving over REST what is on images.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG, BMP or GIF")
    parser.add_argument("--server", default="http://localhost:8501", metavar="URL", help="default %(default)s")
    parser.add_argument("--model", default="dvt", metavar="NAME", help="its name on the server; default %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, metavar="N", help="by default the highest that is served")
    which.add_argument("--label", metavar="LABEL", help="a label of a version, such as stable")
    parser.add_argument(
        "--thresholds", metavar="T,T", help="from 0 to 1 or never, one for each exit but the last; default the model's"
    )
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="images in a request; default %(default)s")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds; default %(default)s")
    given = parser.parse_args(arguments)
    try:
        images = read_files(given.files)
        thresholds = parse_thresholds(given.thresholds) if given.thresholds else None
        url = model_url(given.server, given.model, given.version, given.label)
        answers: list[dict[str, Any]] = []
        for start in range(0, len(images), max(given.rows, 1)):
            answers += ask(url, images[start : start + max(given.rows, 1)], thresholds, given.timeout)
    except ClientError as error:
        print(f"rest_client: {error}", file=sys.stderr)
        return 2
    return 0 if report(given.files, answers) else 1


if __name__ == "__main__":
    sys.exit(main())
