"""Asks TensorFlow Serving over gRPC what is on images. Needs `pip install tensorflow-serving-api grpcio`.

For example: python examples/grpc_client.py photo.jpg other.png --model dvt --thresholds 0.9,never
The messages bring TensorFlow with them, so that the program takes seconds to start; one that stays does it once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported, which says much otherwise

import grpc  # type: ignore[import-untyped]
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # type: ignore[import-untyped]

NEVER = 2.0  # a threshold above 1 is one that no confidence reaches


class ClientError(Exception):
    """What went wrong, in one line."""


def ask(
    stub: Any,
    model: str,
    images: Sequence[bytes],
    thresholds: Sequence[float] | None = None,
    version: int | None = None,
    label: str | None = None,
    timeout: float = 30.0,
) -> dict[str, Any]:
    """One request: the server's outputs, arrays whose rows are the images'.

    Args:
        stub: a PredictionServiceStub. model: its name on the server.
        images: contents of image files; no more than the server's max_batch_size.
        thresholds: one for each exit but the last, here the same for all images; None for the model's own.
        version: by default the highest that is served. label: of a version, instead of its number. timeout: seconds.

    Raises:
        ClientError: no server there, no such model or version, or a request that it refuses.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default" if thresholds is None else "with_thresholds"
    if version is not None:
        request.model_spec.version.value = version
    elif label:
        request.model_spec.version_label = label
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(images), tf.string, [len(images)]))
    if thresholds is not None:
        # Every row has thresholds of its own, so images of one request may well be given different ones.
        rows = [list(thresholds)] * len(images)
        request.inputs["thresholds"].CopyFrom(tf.make_tensor_proto(rows, tf.float32))
    try:
        reply = stub.Predict(request, timeout=timeout)
    except grpc.RpcError as error:
        raise ClientError(f"{error.code().name}: {' '.join(error.details().split())}") from None
    return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}


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


def report(names: Sequence[str], outputs: dict[str, Any]) -> bool:
    """Prints a line for each image; whether all of them could be read."""
    for row, name in enumerate(names):
        if outputs["valid"][row]:
            label, sure = outputs["label"][row].decode(), outputs["confidence"][row]
            exit_, cost = outputs["exit"][row], outputs["gmacs"][row]
            print(f"{name}: {label} ({sure:.3f}), left at exit {exit_} after {cost:.3g} GFLOPs")
        else:
            print(f"{name}: no image that the model can read")
    return bool(outputs["valid"].all())


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 if every file was an image, 1 if not, 2 if something went wrong."""
    parser = argparse.ArgumentParser(description="Ask TensorFlow Serving over gRPC what is on images.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG, BMP or GIF")
    parser.add_argument("--server", default="localhost:8500", metavar="HOST:PORT", help="default %(default)s")
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
    rows, all_valid = max(given.rows, 1), True
    try:
        images = read_files(given.files)
        thresholds = parse_thresholds(given.thresholds) if given.thresholds else None
        with grpc.insecure_channel(given.server, options=[("grpc.max_receive_message_length", -1)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for start in range(0, len(images), rows):
                some = slice(start, start + rows)
                outputs = ask(
                    stub, given.model, images[some], thresholds, given.version, given.label, timeout=given.timeout
                )
                all_valid &= report(given.files[some], outputs)
    except ClientError as error:
        print(f"grpc_client: {error}", file=sys.stderr)
        return 2
    return 0 if all_valid else 1


if __name__ == "__main__":
    sys.exit(main())
