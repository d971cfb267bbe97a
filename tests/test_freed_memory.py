"""Keeping freed memory: what is asked of the C library, and not of one that refuses."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from dvt_tf.freed_memory import keep_freed_memory

MMAP, TRIM = -3, -1  # of malloc.h


@pytest.mark.parametrize(("takes", "asked"), [(1, [MMAP, TRIM]), (0, [MMAP])])
def test_the_second_threshold_is_set_where_the_first_was(
    takes: int, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def mallopt(which: int, _value: int) -> int:
        calls.append(which)
        return takes

    def library(_name: Any) -> SimpleNamespace:
        return SimpleNamespace(mallopt=mallopt)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_freed_memory()
    assert calls == asked


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory()
