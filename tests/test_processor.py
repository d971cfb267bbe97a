"""What the processor is said to have."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvt_tf.processor import vector_extensions


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        ("flags\t\t: fpu sse4_2 avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n", "avx2 avx512f avx512_bf16 amx_bf16"),
        ("flags\t\t: fpu avx2 fma\n", "avx2"),
        ("Features\t: fp asimd\n", ""),
    ],
)
def test_extensions_are_read_from_what_linux_says(
    information: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: information)
    assert " ".join(vector_extensions.__wrapped__()) == expected


def test_no_file_is_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert vector_extensions.__wrapped__() == ()
