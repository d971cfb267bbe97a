"""The tests' server as a process of its own: started, watched, ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class RunningServer:
    """Where it is, and how it is doing."""

    def __init__(self, process: subprocess.Popen[str], ports: dict[str, int], log: Path) -> None:
        self.process, self.log = process, log
        self.rest = f"http://127.0.0.1:{ports['rest']}"
        self.grpc = f"127.0.0.1:{ports['grpc']}"

    def get(self, path: str) -> Any:
        """What a GET answers."""
        with urllib.request.urlopen(self.rest + path, timeout=60) as reply:
            return json.load(reply)

    def versions(self, model: str) -> dict[int, str]:
        """The versions of a model and their states."""
        found = self.get(f"/v1/models/{model}")["model_version_status"]
        return {int(entry["version"]): entry["state"] for entry in found}

    def resident_megabytes(self) -> float:
        """The memory that the process has now, without mapped files: those come and go as the system likes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024


@contextlib.contextmanager
def running(log: Path, **flags: Any) -> Iterator[RunningServer]:
    """A server with these flags, which writes into `log`; it must end in peace."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.serving.server",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server did not start: {process.wait()}\n{log.read_text()}"
        try:
            yield RunningServer(process, json.loads(line), log)
            assert process.poll() is None, f"the server has died:\n{log.read_text()}"
        finally:
            process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()
