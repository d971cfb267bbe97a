"""A file that one process holds at a time, or several share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.locks import held

pytestmark = pytest.mark.one_stack


def test_a_second_one_is_refused_or_waits(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = """
import pathlib, sys
from training.locks import held
with held(pathlib.Path(sys.argv[1]), wait=True):
    print("held")
"""
    with held(path, wait=False):
        with pytest.raises(BlockingIOError), held(path, wait=False):
            pass
        other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1)
    assert other.communicate(timeout=60)[0] == "held\n"
    with held(path, wait=False):
        pass


def test_who_shares_it_keeps_out_who_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    sharing = held(path, wait=False, shared=True), held(path, wait=False, shared=True)
    with sharing[0], sharing[1], pytest.raises(BlockingIOError), held(path, wait=False):
        pass
    with held(path, wait=False), pytest.raises(BlockingIOError), held(path, wait=False, shared=True):
        pass
