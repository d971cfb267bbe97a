"""The clients in examples/ against the tests' server, and the configuration files beside them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format, wrappers_pb2

from dvt_tf.calibration import thresholds_for_budget
from dvt_tf.cascade import PRETRAINED
from tests.serving.files import broken_files, good_files
from tests.serving.models import Alone, Exported
from tests.serving.running import ROOT, RunningServer

pytestmark = pytest.mark.one_stack

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine pictures and a broken file, which is the third."""
    folder = tmp_path_factory.mktemp("pictures")
    contents = good_files(9, seed=6)
    contents.insert(2, broken_files()[2])
    for at, content in enumerate(contents):
        (folder / f"picture {at}").write_bytes(content)
    return sorted(folder.iterdir())


def run(name: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """An example as it is run."""
    start = ["sh"] if name.endswith(".sh") else [sys.executable]
    command = [*start, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def grpc_client() -> ModuleType:
    """Loaded, as starting it takes seconds."""
    spec = importlib.util.spec_from_file_location("grpc_client", EXAMPLES / "grpc_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(pictures: list[Path], alone: Alone, thresholds: list[float] | None = None) -> list[str]:
    """What a client is to print."""
    found = []
    for path in pictures:
        answer = alone.ask(path.read_bytes(), thresholds)
        if answer["valid"]:
            where = f"left at exit {answer['exit']} after {answer['gmacs']:.3g} GFLOPs"
            found.append(f"{path}: {answer['label']} ({answer['confidence']:.3f}), {where}")
        else:
            found.append(f"{path}: no image that the model can read")
    return found


def test_rest_client(server: RunningServer, pictures: list[Path], alone: dict[int, Alone]) -> None:
    there = ["--server", server.rest]
    done = run("rest_client.py", *pictures, *there)
    assert (done.returncode, done.stderr) == (1, "")  # one is no image
    assert done.stdout.splitlines() == lines(pictures, alone[2])
    done = run("rest_client.py", *pictures[:2], *there, "--label", "stable", "--thresholds", "never,0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == lines(pictures[:2], alone[1], [2.0, 0.0])
    done = run("rest_client.py", pictures[0], "--server", server.rest.removeprefix("http://"), "--version", "1")
    assert done.stdout.splitlines() == lines(pictures[:1], alone[1])


def test_grpc_client(server: RunningServer, pictures: list[Path], alone: dict[int, Alone]) -> None:
    there = ["--server", server.grpc]
    done = run("grpc_client.py", *pictures, *there, "--label", "stable", "--thresholds", "never,0.4", "--rows", "4")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == lines(pictures, alone[1], [2.0, 0.4])


def test_grpc_client_and_versions(
    server: RunningServer,
    pictures: list[Path],
    alone: dict[int, Alone],
    grpc_client: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [str(path) for path in pictures[:2]]
    for flags, version in (([], 2), (["--version", "1"], 1), (["--label", "canary"], 2)):
        assert grpc_client.main([*files, "--server", server.grpc, *flags]) == 0
        assert capsys.readouterr().out.splitlines() == lines(pictures[:2], alone[version])


def test_bad_input_to_rest_client_is_one_line(server: RunningServer, pictures: list[Path], tmp_path: Path) -> None:
    check_bad_input(lambda *arguments: run("rest_client.py", *arguments), server.rest, pictures, tmp_path)


def test_bad_input_to_grpc_client_is_one_line(
    server: RunningServer,
    pictures: list[Path],
    tmp_path: Path,
    grpc_client: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def here(*arguments: Any) -> subprocess.CompletedProcess[str]:
        code = grpc_client.main([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    check_bad_input(here, server.grpc, pictures, tmp_path)


def check_bad_input(call: Any, address: str, pictures: list[Path], tmp_path: Path) -> None:
    there = ["--server", address]
    for arguments, message in [
        ([tmp_path / "missing.png", *there], "cannot read"),
        ([tmp_path, *there], "cannot read"),
        ([pictures[0], *there, "--thresholds", "0.5,often"], "threshold 'often' must be a number from 0 to 1"),
        ([pictures[0], *there, "--thresholds", "1.5,0"], "threshold '1.5' must be a number from 0 to 1"),
        ([pictures[0], *there, "--thresholds", "0.5"], "thresholds is float32 [1, 1], not float32 [-1, 2]"),
        ([pictures[0], *there, "--model", "other"], "Servable not found"),
        ([pictures[0], *there, "--version", "7"], "Servable not found"),
        ([pictures[0], *there, "--label", "beta"], "Unrecognized servable version label"),
        ([*pictures, *pictures, *there, "--rows", "20"], "larger than maximum input batch size 16"),
        ([pictures[0], "--server", "127.0.0.1:9", "--timeout", "10"], ""),
    ]:
        done = call(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_choose_speed(server: RunningServer, pictures: list[Path], exported: Exported, alone: dict[int, Alone]) -> None:
    card = exported.folder / "1"
    there = ["--card", card, "--server", server.rest]
    done = run("choose_speed.py", *pictures[:2], *there, "--budget", "0.00015")
    assert done.returncode == 0, done.stderr
    first, *answers, mean = done.stdout.splitlines()
    # Of two equally good ones the cheaper; and it asks the version that the card is of, which is not the highest.
    assert first == "thresholds 0.65, 0.4; on scenes@calibration: top1 0.700 at 0.00011 GFLOPs"
    assert answers == lines(pictures[:2], alone[1], [0.65, 0.4])
    assert mean.startswith("mean cost of these 2: ")
    done = run("choose_speed.py", *pictures[:3], *there, "--guarantee")
    assert done.returncode == 1
    first, *answers, _ = done.stdout.splitlines()
    assert first.startswith("thresholds 0.7, 0.55; promised with 95 % confidence, about new images: at most 1 % get")
    assert answers == lines(pictures[:3], alone[1])


def test_choose_speed_chooses_as_the_library_does(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    choose_speed = importlib.import_module("choose_speed")
    card = json.loads((exported.folder / "1" / "assets" / "config.json").read_text(encoding="utf-8"))
    published = {
        "published": {"curve": [[0.2, 60.0], [0.4, 72.0], [0.6, 71.0]], "thresholds": [[0, 0], [0.5, 0.4], [0.9, 2.0]]}
    }
    gmacs = [0.0, 1.0]  # a cheapest and a dearest exit between which every budget lies
    for each, budgets in ((card, (5e-5, 1.2e-4, 1.69e-4, 0.5)), (published, (0.2, 0.39, 0.4, 0.7))):
        for budget in budgets:
            expected, _ = thresholds_for_budget(each, [gmacs[0], budget / 2, gmacs[1]], budget)  # type: ignore[arg-type]
            assert choose_speed.for_budget(each, budget)[0] == expected
    assert choose_speed.for_budget(card, 1e-6)[0] == [0.0, 0.0]


def test_choose_speed_takes_a_promise_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    choose_speed = importlib.import_module("choose_speed")
    card = choose_speed.read_card(PRETRAINED / "dvt_tiny_digits" / "config.json")
    one, other = card["guarantees"]
    assert choose_speed.for_guarantee(card, 2) == (other["values"], choose_speed.promise(other))
    assert "5 % get another answer" in choose_speed.promise(other)
    for number in (0, 3):  # none of them is in use
        with pytest.raises(
            choose_speed.ClientError, match=r"--guarantee 1: .* 1 % are answered wrongly .*--guarantee 2: "
        ):
            choose_speed.for_guarantee(card, number)
    assert choose_speed.for_guarantee({**card, "guarantees": [one]})[0] == one["values"]
    assert choose_speed.for_guarantee({**card, "thresholds": other})[0] == other["values"]


def test_bad_input_to_choose_speed_is_one_line(pictures: list[Path], exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "plain.json").write_text('{"thresholds": {"values": [0.5]}}')
    for card, arguments, message in [
        (tmp_path, ["--budget", "1"], "cannot read the card"),
        (tmp_path / "broken.json", ["--budget", "1"], "it is not JSON"),
        (tmp_path / "plain.json", ["--budget", "1"], "the card knows no budgets"),
        (tmp_path / "plain.json", ["--guarantee"], "the card makes no promise"),
        (exported.folder / "1", ["--budget", "-1"], "must be above 0"),
        (exported.folder / "1", ["--budget", "1", "--server", "127.0.0.1:9"], "no server answers"),
    ]:
        done = run("choose_speed.py", pictures[0], "--card", card, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_curl(server: RunningServer, pictures: list[Path], alone: dict[int, Alone], tmp_path: Path) -> None:
    url = f"{server.rest}/v1/models/dvt/versions/1"
    done = run("curl.sh", pictures[0], url, "2,0")
    assert done.returncode == 0, done.stderr
    status, plain, given = (json.loads(line) for line in done.stdout.splitlines())
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    for answer, thresholds in ((plain, None), (given, [2.0, 0.0])):
        expected = alone[1].ask(pictures[0].read_bytes(), thresholds)
        assert answer["predictions"][0]["label"] == expected["label"]
        assert answer["predictions"][0]["exit"] == expected["exit"]
    for arguments, message in [
        ([], "no image is given"),
        ([tmp_path / "missing.png"], "cannot read"),
        ([pictures[0], f"{server.rest}/v1/models/other"], "no answer"),
        ([pictures[0], url, "0.5"], "no answer"),
    ]:
        done = run("curl.sh", *arguments)
        assert done.returncode != 0
        assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["rest_client.py", "choose_speed.py", "curl.sh"])
def test_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert "FILE" in done.stdout


def test_help_of_grpc_client(grpc_client: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        grpc_client.main(["--help"])
    assert "FILE" in capsys.readouterr().out


# Configuration


def message(fields: dict[str, dict[str, Any]]) -> Any:
    """A message with these fields, for text to be parsed into: the server's own definitions are in no package."""
    file = {
        "name": "tests.proto",
        "syntax": "proto3",
        "dependency": ["google/protobuf/wrappers.proto"],
        "messageType": [{"name": "Config", "field": [{"name": name, **field} for name, field in fields.items()]}],
    }
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(json_format.ParseDict(file, descriptor_pb2.FileDescriptorProto()).SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Config"))()


def test_batching_config() -> None:
    """Parsed as the server parses it, against the fields of session_bundle_config.proto."""
    wrapped = {"label": "LABEL_OPTIONAL", "type": "TYPE_MESSAGE", "typeName": ".google.protobuf.Int64Value"}
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    fields: dict[str, dict[str, Any]] = {name: {**wrapped, "number": at + 1} for at, name in enumerate(names)}
    fields["allowed_batch_sizes"] = {"label": "LABEL_REPEATED", "type": "TYPE_INT64", "number": 6}
    text = (EXAMPLES / "serving" / "batching.config").read_text()
    config = text_format.Parse(text, message(fields))
    assert list(config.allowed_batch_sizes) == sorted(config.allowed_batch_sizes)
    assert config.allowed_batch_sizes[-1] == config.max_batch_size.value
    for rows in range(1, config.max_batch_size.value + 1):
        assert min(size for size in config.allowed_batch_sizes if size >= rows) <= max(rows + 1, 1.15 * rows)


def test_compose_file() -> None:
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((EXAMPLES / "docker-compose.yml").read_text())["services"]["serving"]
    assert service["image"].startswith("tensorflow/serving:")
    assert service["ports"] == ["8500:8500", "8501:8501"]
    assert "./serving:/config:ro" in service["volumes"]
    named = [part.rpartition("/config/")[2] for part in service["command"] if "/config/" in part]
    assert sorted(named) == sorted(path.name for path in (EXAMPLES / "serving").iterdir())


def test_monitoring_config() -> None:
    text = (EXAMPLES / "serving" / "monitoring.config").read_text()
    inner = text[text.index("{") + 1 : text.rindex("}")]
    one = {"label": "LABEL_OPTIONAL"}
    fields = {
        "enable": {**one, "type": "TYPE_BOOL", "number": 1},
        "path": {**one, "type": "TYPE_STRING", "number": 2},
    }
    config = text_format.Parse(inner, message(fields))
    assert (config.enable, config.path) == (True, "/monitoring/prometheus/metrics")
