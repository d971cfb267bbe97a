"""`python -m app`: options, and one clear line where they are wrong."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import __main__ as command
from app.screenshots import free_port
from tests.app.models import PETS, page_model


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("python -m app: ")
    return error


def test_defaults() -> None:
    options = command.parse([])
    assert (options.model, options.host, options.port) == (["dvt_tiny_digits"], "127.0.0.1", 7860)
    assert command.parse(["--model", "a", "--model", "b", "--model", "a"]).model == ["a", "b"]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "1.5", "٣"])
def test_a_bad_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{port!r} is not a port" in refused([f"--port={port}"], capsys)


def test_an_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--share" in refused(["--share"], capsys)


def test_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refused(["--port", str(port)], capsys)
    assert f"127.0.0.1:{port}" in error
    assert "choose another with --port" in error


def test_a_host_of_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert "192.0.2.1" in refused(["--host", "192.0.2.1"], capsys)
    assert "no.such.host.invalid" in refused(["--host", "no.such.host.invalid"], capsys)


@pytest.mark.parametrize("model", ["dvt_tiny_digit", "./nowhere"])
def test_a_model_that_is_not_there(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(["--model", model, "--port", str(free_port())], capsys)
    assert model in error


def test_a_folder_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "config.json" in refused(["--model", str(tmp_path), "--port", str(free_port())], capsys)


def test_importing_the_command_loads_neither_tensorflow_nor_gradio() -> None:
    code = "import app.__main__, app.screenshots, sys; print(sorted({'tensorflow', 'gradio'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_name_and_a_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.parse([]).auth is None
    assert command.parse(["--auth", "me:it:is", "--auth", "you:2"]).auth == [("me", "it:is"), ("you", "2")]
    monkeypatch.setenv("DVT_PAGE_AUTH", "them:secret")
    assert command.parse([]).auth == [("them", "secret")]
    assert command.parse(["--auth", "me:1"]).auth == [("me", "1")]
    for wrong in ("me", ":secret", "me:"):
        assert "USER:PASSWORD" in refused(["--auth", wrong], capsys)
    monkeypatch.setenv("DVT_PAGE_AUTH", "nonsense")
    assert "DVT_PAGE_AUTH: give a name and a password" in refused([], capsys)


def test_test_images_and_what_is_known_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = command.parse(["--data", "folder:a", "--data", "digits", "--results", "r", "--beside", "s"])
    assert (options.data, options.results, options.beside) == (["folder:a", "digits"], [Path("r")], [Path("s")])
    page_model((2, 4), PETS).save_to_preset(tmp_path / "pets")
    arguments = ["--model", str(tmp_path / "pets"), "--port", str(free_port())]
    assert "no_such.json" in refused([*arguments, "--beside", str(tmp_path / "no_such.json")], capsys)
    assert "no_such.safetensors" in refused([*arguments, "--results", str(tmp_path / "no_such.safetensors")], capsys)
    assert "nonsense" in refused([*arguments, "--data", "nonsense:x"], capsys)
