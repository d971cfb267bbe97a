"""What a cell tells of how it was trained."""

from __future__ import annotations

from typing import Any

import pytest

from training.cell_training import earlier_starts

pytestmark = pytest.mark.one_stack


def test_a_cell_tells_of_the_processes_that_its_last_one_built_on() -> None:
    def start(step: int, processor: str | None) -> dict[str, Any]:
        return {"from_step": step, "command": ["x"], **({"processor": processor} if processor else {})}

    starts = [
        start(0, "lost"),
        start(7, "lost"),
        start(0, None),
        start(5, "saved nothing"),
        start(5, "a"),
        start(9, "b"),
    ]
    found = earlier_starts(starts, ("git", "processor"))
    assert found == [{"from_step": 0}, {"from_step": 5, "processor": "a"}]
    assert earlier_starts(starts[:1], ("processor",)) == []
