"""Rows of several clients in one batch, what is refused, versions and labels: over the real protocols."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from dvt_tf.exit_rule import NEVER
from tests.serving.clients import GrpcClient, RestClient
from tests.serving.files import broken_files, good_files
from tests.serving.messages import to_message
from tests.serving.models import Alone, Row, same
from tests.serving.running import RunningServer

pytestmark = pytest.mark.one_stack


def post(server: RunningServer, path: str, body: Any) -> tuple[int, Any]:
    """Status and answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(server.rest + path, data), timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_one_batch_of_several_clients_leaves_every_row_as_it_is_alone(
    server: RunningServer, alone: dict[int, Alone]
) -> None:
    """Eight clients, two rows each, a broken one in each pair: sixteen rows, which is one batch."""
    files = list(zip(good_files(8, seed=3), broken_files(), strict=True))
    thresholds = [[0.0, 0.0], [0.6, 0.5], [NEVER, 0.0], [NEVER, NEVER]] * 2
    requests = []
    for at, pair in enumerate(files):
        rows = [Row("", {"image_bytes": file, "thresholds": np.float32(thresholds[at])}, {}) for file in pair]
        requests.append(rows[:: -1 if at % 2 else 1])
    clients = [
        GrpcClient(server.grpc, "dvt") if at % 2 else RestClient(server.rest, "dvt", by_columns=at % 4 == 0)
        for at in range(len(requests))
    ]
    one_batch = [2, "with_thresholds", 8, 16, 16]
    answers: list[Any] = [None] * len(requests)
    start = threading.Barrier(len(requests))

    def ask(at: int) -> None:
        start.wait()
        answers[at] = clients[at].ask("with_thresholds", requests[at])[1]

    for _ in range(20):  # until they have met
        threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for rows, found in zip(requests, answers, strict=True):
            for row, answer in zip(rows, found, strict=True):
                image, given = row.inputs["image_bytes"], row.inputs["thresholds"]
                if alone[2].is_clear(image, given):
                    assert same(answer, alone[2].ask(image, given)), answer
        if any(batch[:5] == one_batch for batch in server.get("/batches")):
            break
    else:
        pytest.fail(f"never one batch: {server.get('/batches')}")
    assert [sum(answer["valid"] for answer in found) for found in answers] == [1] * 8
    for client in clients:
        client.close()


def test_what_rest_refuses(server: RunningServer) -> None:
    image = {"b64": "aGVsbG8="}
    model = "/v1/models/dvt"
    too_many = {"instances": [image] * 17}
    for path, body, status, message in [
        (f"{model}:predict", b"{", 400, "JSON Parse error"),
        (f"{model}:predict", {}, 400, "one of 'inputs' or 'instances'"),
        (f"{model}:predict", {"instances": []}, 400, "a list with values"),
        (f"{model}:predict", {"instances": [{"image": image}]}, 400, "keys of each instance must be equal"),
        (f"{model}:predict", {"inputs": {"image": [image]}}, 400, "does not have named input: image"),
        (f"{model}:predict", {"instances": [{"b64": "no base64"}]}, 400, "Failed to process key: image_bytes"),
        (f"{model}:predict", {"instances": [image], "signature_name": "x"}, 400, "not found in signature def"),
        (f"{model}:predict", too_many, 400, "Task size 17 is larger than maximum input batch size 16"),
        (f"{model}:classify", {"instances": [image]}, 400, "Malformed request"),
        (f"{model}/labels/beta:predict", {"instances": [image]}, 400, "Unrecognized servable version label: beta"),
        (
            f"{model}/versions/7:predict",
            {"instances": [image]},
            404,
            "Servable not found for request: Specific(dvt, 7)",
        ),
        ("/v1/models/other:predict", {"instances": [image]}, 404, "Servable not found for request: Latest(other)"),
    ]:
        found, answer = post(server, path, body)
        assert (found, set(answer)) == (status, {"error"}), (path, body)
        assert message in answer["error"]
    for row in ([0.5], [0.5, 0.5, 0.5]):
        body = {"signature_name": "with_thresholds", "instances": [{"image_bytes": image, "thresholds": row}]}
        found, answer = post(server, f"{model}:predict", body)
        assert found == 400
        assert f"thresholds is float32 [1, {len(row)}], not float32 [-1, 2]" in answer["error"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get(f"{model}/versions/7")


def test_what_grpc_refuses(server: RunningServer) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        images = to_message(np.array([b"", b"x"], object))
        for spec, inputs, code in [
            ({"name": "other"}, {"image_bytes": images}, grpc.StatusCode.NOT_FOUND),
            ({"name": "dvt", "version": {"value": 7}}, {"image_bytes": images}, grpc.StatusCode.NOT_FOUND),
            ({"name": "dvt", "version_label": "beta"}, {"image_bytes": images}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"name": "dvt"}, {"images": images}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"name": "dvt"}, {"image_bytes": to_message(np.zeros(2, np.float32))}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"name": "dvt"}, {"image_bytes": to_message(np.zeros(0, object))}, grpc.StatusCode.INVALID_ARGUMENT),
        ]:
            with pytest.raises(grpc.RpcError) as raised:
                stub.Predict(predict_pb2.PredictRequest(model_spec=spec, inputs=inputs), timeout=60)
            assert raised.value.code() == code, (spec, inputs)


def test_a_broken_row_is_answered_and_names_stay_out_of_it(server: RunningServer, alone: dict[int, Alone]) -> None:
    """Of one input the name may be left out, and its value may be given by name."""
    status, short = post(server, "/v1/models/dvt:predict", {"instances": [{"b64": ""}]})
    _, named = post(server, "/v1/models/dvt:predict", {"instances": [{"image_bytes": {"b64": ""}}]})
    _, columns = post(server, "/v1/models/dvt:predict", {"inputs": [{"b64": ""}]})
    assert (status, short) == (200, named)
    assert same(short["predictions"][0], alone[2].ask(b""))
    assert columns["outputs"] == {name: [value] for name, value in short["predictions"][0].items()}


def test_labels_roll_out_and_back(server: RunningServer, models_config: Path, alone: dict[int, Alone]) -> None:
    """By changing the configuration file, which the server reads again."""
    [image] = good_files(1, seed=5)
    expected = {version: one.ask(image) for version, one in alone.items()}
    assert not same(expected[1], expected[2])
    row = Row("serving_default", {"image_bytes": image}, {})
    client = RestClient(server.rest, "dvt/labels/stable")

    def wait_for(version: int) -> None:
        give_up = time.monotonic() + 30
        while not same(client.ask("serving_default", [row])[1][0], expected[version]):
            assert time.monotonic() < give_up
            time.sleep(0.05)

    assert server.versions("dvt") == {1: "AVAILABLE", 2: "AVAILABLE"}
    before = models_config.read_text()
    wait_for(1)
    models_config.write_text(before.replace('key: "stable"\n      value: 1', 'key: "stable"\n      value: 2'))
    wait_for(2)
    models_config.write_text(before)
    wait_for(1)
    client.close()
