"""A small server for tests, with TensorFlow Serving's protocols and flags; it is no server for anybody else.

gRPC is PredictionService.Predict with the real messages; REST is predict and model status. Sessions run through
TensorFlow's C API. Once it serves, it prints one line of JSON: its ports. Beyond the real server's paths,
GET /batches tells which batches have run.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import http.server
import json
import re
import signal
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tests.serving.batching import INVALID_ARGUMENT, NOT_FOUND, Arrays, Batching, ServingError
from tests.serving.messages import to_array, to_message
from tests.serving.tf_c_api import TensorInfo
from tests.serving.versions import Model, ModelConfig

# After `messages`, which sees to it that these need not start TensorFlow.
from google.protobuf import text_format  # isort: skip
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # isort: skip
from tensorflow_serving.config import model_server_config_pb2  # isort: skip

_STRING = np.dtype(object)
_HTTP_STATUS = {INVALID_ARGUMENT: 400, NOT_FOUND: 404}
_GRPC_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict")
_MODEL_STATUS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?")


class Server:
    """The models, and what answers for them."""

    def __init__(self, configs: list[ModelConfig], batching: Batching | None) -> None:
        self.models = {config.name: Model(config, batching) for config in configs}

    def model(self, name: str) -> Model:
        """By its name."""
        if name not in self.models:
            raise ServingError(NOT_FOUND, f"Servable not found for request: Latest({name})")
        return self.models[name]

    def update(self, configs: list[ModelConfig]) -> None:
        """Takes over new labels and versions, then looks for new versions in the folders."""
        for config in configs:
            self.models[config.name].update(config)

    def close(self) -> None:
        """Frees all."""
        for model in self.models.values():
            model.close()


# gRPC


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict; the other methods answer that they are not implemented."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers one request."""
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        try:
            inputs = {name: to_array(tensor) for name, tensor in request.inputs.items()}
            with self._server.model(spec.name).use(number, spec.version_label) as version:
                outputs = version.predict(spec.signature_name, inputs)
                answer = predict_pb2.PredictResponse()
                answer.model_spec.name, answer.model_spec.version.value = spec.name, version.number
                answer.model_spec.signature_name = spec.signature_name or "serving_default"
        except ServingError as error:
            context.abort(_GRPC_STATUS[error.code], str(error))
        for name, value in outputs.items():
            answer.outputs[name].CopyFrom(to_message(value))
        return answer


# REST


class RestHandler(http.server.BaseHTTPRequestHandler):
    """One connection; `server.serves` is the Server."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: sent apart, they wait for each other's acknowledgement

    def do_GET(self) -> None:
        """Status of a model."""
        self._reply(self._status)

    def do_POST(self) -> None:
        """Predict."""
        self._reply(self._predict)

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def _reply(self, answer: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, content = 200, answer(body)
        except ServingError as error:
            status, content = _HTTP_STATUS.get(error.code, 500), {"error": str(error)}
        text = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def _status(self, body: bytes) -> Any:
        serves: Server = self.server.serves  # type: ignore[attr-defined]
        if self.path == "/batches":
            return [batch for model in serves.models.values() for batch in model.batches()]
        match = _MODEL_STATUS.fullmatch(self.path)
        if not match:
            raise ServingError(INVALID_ARGUMENT, f"Malformed request: GET {self.path}")
        name, number = match.groups()
        states = [state for state in serves.model(name).status() if number in (None, str(state[0]))]
        if not states:
            raise ServingError(NOT_FOUND, f"Could not find version {number} of model {name}")
        return {
            "model_version_status": [
                {
                    "version": str(version),
                    "state": state,
                    "status": {"error_code": "UNKNOWN" if message else "OK", "error_message": message},
                }
                for version, state, message in states
            ]
        }

    def _predict(self, body: bytes) -> Any:
        match = _PREDICT.fullmatch(self.path)
        if not match:
            raise ServingError(INVALID_ARGUMENT, f"Malformed request: POST {self.path}")
        name, number, label = match.groups()
        try:
            request = json.loads(body)
        except ValueError as error:
            raise ServingError(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
        if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
            raise ServingError(INVALID_ARGUMENT, "expecting an object with one of 'inputs' or 'instances'")
        signature = request.get("signature_name", "")
        with self.server.serves.model(name).use(number and int(number), label or "") as version:  # type: ignore[attr-defined]
            inputs = _from_json(request, version.signature(signature).inputs)
            outputs = version.predict(signature, inputs)
        columns = {name: _to_json(value) for name, value in outputs.items()}
        if "inputs" in request:
            return {"outputs": columns}
        return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


class RestServer(http.server.ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, serves: Server) -> None:
        super().__init__(("127.0.0.1", port), RestHandler)
        self.serves = serves


def _from_json(request: dict[str, Any], tensors: dict[str, TensorInfo]) -> Arrays:
    if "inputs" in request:
        columns = request["inputs"]
        if not isinstance(columns, dict) or set(columns) == {"b64"}:
            columns = {next(iter(tensors)): columns}  # of a single input the name may be left out
    else:
        rows = request["instances"]
        if not isinstance(rows, list) or not rows:
            raise ServingError(INVALID_ARGUMENT, "'instances' must be a list with values")
        named = isinstance(rows[0], dict) and set(rows[0]) != {"b64"}
        rows = rows if named else [{next(iter(tensors)): row} for row in rows]
        if not all(isinstance(row, dict) and set(row) == set(tensors) for row in rows):
            raise ServingError(INVALID_ARGUMENT, f"keys of each instance must be equal to: {','.join(sorted(tensors))}")
        columns = {name: [row[name] for row in rows] for name in tensors}
    return {name: _column(name, values, tensors.get(name)) for name, values in columns.items()}


def _column(name: str, values: Any, info: TensorInfo | None) -> np.ndarray:
    if info is None:
        raise ServingError(INVALID_ARGUMENT, f"JSON object: does not have named input: {name}")
    try:
        if info.dtype == _STRING:
            texts = [_text(value) for value in values]
            column = np.empty(len(texts), _STRING)
            column[:] = texts
            return column
        column = np.asarray(values)
        if column.dtype.kind not in ("iuf" if info.dtype == np.float32 else "iu"):
            raise TypeError(f"JSON values are not of expected type: {info.dtype}")
        return column.astype(info.dtype)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ServingError(INVALID_ARGUMENT, f"Failed to process key: {name}. Error: {error}") from error


def _text(value: Any) -> bytes:
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if not isinstance(value, str):
        raise TypeError(f"JSON Value: {value!r} is not of expected type: string")
    return value.encode()


def _to_json(value: np.ndarray) -> list[Any]:
    if value.dtype == _STRING:
        return [text.decode() for text in value]
    if value.dtype == np.float32:  # as few digits as tell it from other float32
        return np.array([float(str(one)) for one in value.ravel()]).reshape(value.shape).tolist()
    return value.tolist()


# As a program


def read_configs(path: Path) -> list[ModelConfig]:
    """The models of a file for --model_config_file."""
    message = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
    return [
        ModelConfig(
            config.name,
            Path(config.base_path),
            tuple(config.model_version_policy.specific.versions),
            tuple(sorted(config.version_labels.items())),
        )
        for config in message.model_config_list.config
    ]


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rest_api_port", type=int, default=0)
    parser.add_argument("--model_name", default="default")
    parser.add_argument("--model_base_path", type=Path)
    parser.add_argument("--model_config_file", type=Path)
    parser.add_argument("--batching_parameters_file", type=Path)
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0)
    arguments = parser.parse_args()

    def configs() -> list[ModelConfig]:
        if arguments.model_config_file:
            return read_configs(arguments.model_config_file)
        return [ModelConfig(arguments.model_name, arguments.model_base_path)]

    batching = Batching.read(arguments.batching_parameters_file) if arguments.batching_parameters_file else None
    server = Server(configs(), batching)
    server.update(configs())
    grpc_server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(server), grpc_server)
    grpc_port = grpc_server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    grpc_server.start()
    rest_server = RestServer(arguments.rest_api_port, server)
    threading.Thread(target=rest_server.serve_forever, daemon=True).start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(json.dumps({"grpc": grpc_port, "rest": rest_server.server_address[1]}), flush=True)
    while not stop.wait(arguments.file_system_poll_wait_seconds):
        server.update(configs())
    rest_server.shutdown()
    grpc_server.stop(grace=1).wait()
    server.close()


if __name__ == "__main__":
    main()
