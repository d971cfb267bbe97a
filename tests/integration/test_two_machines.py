"""Two machines, as two processes on loopback, train one run; one is killed, and the run goes on when it is back."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.folders import RECIPE, SMALL, make_folder
from training import run

ROOT = Path(run.__file__).parents[1]
EPOCHS = 40
KERAS_3 = not importlib.metadata.version("keras").startswith("2.")


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.mark.slow
@pytest.mark.skipif(KERAS_3, reason="Keras 3 does not train on several machines")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_machine_comes_back_and_the_run_goes_on(victim: int, tmp_path: Path) -> None:
    data = f"folder:{make_folder(tmp_path / 'data')}"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'preset = "dvt_tiny_digits"\nepochs = {EPOCHS}\nbatch_size = 4\nlearning_rate = 1e-2\nema_decay = 0.9\n'
        "validate_every = 10\nvalidation_images = 0\n[overrides]\n"
        + "".join(f"{name} = {value}\n" for name, value in SMALL.items())
    )
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    log = (tmp_path / "log").open("w")

    def start(index: int) -> subprocess.Popen[bytes]:
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        words = ["--recipe", str(recipe), "--data", data, "--out", str(tmp_path / "two"), "--resume"]
        command = [sys.executable, "-m", "training.train", *words]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "TF_CONFIG": json.dumps(config)}
        )

    machines = [start(0), start(1)]
    try:
        while not (tmp_path / "two" / "state.safetensors").exists():
            assert machines[0].poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        machines[victim].send_signal(signal.SIGKILL)
        machines[victim].wait()
        machines[victim] = start(victim)
        assert [machine.wait(timeout=300) for machine in machines] == [0, 0], (tmp_path / "log").read_text()
    finally:
        for machine in machines:
            machine.kill()
    told = (tmp_path / "log").read_text()
    assert "another machine was lost" in told
    assert "beginning anew from the saved state" in told
    assert "going on after step" in told
    alone = dataclasses.replace(RECIPE, epochs=EPOCHS, validate_every=10)
    run.train(alone, data, tmp_path / "one", "one")
    losses = {}
    for name in ("one", "two"):
        with (tmp_path / name / "history.csv").open(newline="") as file:
            losses[name] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses["two"]) == EPOCHS
    assert losses["two"][:3] == pytest.approx(losses["one"][:3], rel=1e-3)
    assert losses["two"][-1] == pytest.approx(losses["one"][-1], rel=0.05)
