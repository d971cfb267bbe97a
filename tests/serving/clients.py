"""Clients for the tests: a connection each, and rows that they send as a request of their protocol."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving.messages import to_array, to_message
from tests.serving.models import Answer, Row


class RestClient:
    """Rows or columns of JSON over one connection."""

    def __init__(self, address: str, model: str, by_columns: bool = False) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
        self._path, self._by_columns = f"/v1/models/{model}:predict", by_columns

    def ask(self, signature: str, rows: Sequence[Row]) -> tuple[int | None, list[Answer]]:
        """The answer to each row; REST does not say of which version."""
        rows_json = [{name: _to_json(value) for name, value in row.inputs.items()} for row in rows]
        request: dict[str, Any] = {"signature_name": signature}
        if self._by_columns:
            request["inputs"] = {name: [row[name] for row in rows_json] for name in rows_json[0]}
        else:
            request["instances"] = rows_json
        self._connection.request("POST", self._path, json.dumps(request))
        reply = self._connection.getresponse()
        answer = json.loads(reply.read())
        assert reply.status == 200, answer
        if not self._by_columns:
            return None, answer["predictions"]
        columns = answer["outputs"]
        return None, [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


class GrpcClient:
    """Messages over a connection of its own."""

    def __init__(self, address: str, model: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model

    def ask(self, signature: str, rows: Sequence[Row]) -> tuple[int | None, list[Answer]]:
        """The version, and its answer to each row."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self._model, signature
        for name, first in rows[0].inputs.items():
            values = [row.inputs[name] for row in rows]
            column = np.array(values, object if isinstance(first, bytes) else np.asarray(first).dtype)
            request.inputs[name].CopyFrom(to_message(column))
        reply = self._stub.Predict(request, timeout=120)
        columns = {name: to_array(value) for name, value in reply.outputs.items()}
        answers = [{name: value[row] for name, value in columns.items()} for row in range(len(rows))]
        return reply.model_spec.version.value, answers

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


def _to_json(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else np.asarray(value).tolist()
