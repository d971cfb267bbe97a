"""The processes that train cells: how many at once and on which cores, what their ends mean, how they are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import cell_processes
from training.cell_processes import STOPPED, CellProcess, Cores, shares_of_cores, trained
from training.cells import Cell
from training.stopping import Stopped

pytestmark = pytest.mark.one_stack

CELLS = [Cell("two_none", seed) for seed in range(5)]


class Scripted:
    """A cell's process that ends when its turn comes: `why` is asked for `looks` times before it answers."""

    def __init__(self, cell: Cell, log: list[str], looks: int, why: str | Exception) -> None:
        self.cell, self.log, self.looks, self.answer = cell, log, looks, why
        log.append(f"begin {cell.seed}")

    def why(self) -> str | None:
        self.looks -= 1
        if self.looks >= 0:
            return None
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def stop(self) -> None:
        self.log.append(f"stop {self.cell.seed}")

    def wait(self) -> None:
        self.log.append(f"wait {self.cell.seed}")

    def kill(self) -> None:
        self.log.append(f"kill {self.cell.seed}")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_processes, "_LOOK", 0)


@given(st.data())
def test_every_core_is_in_one_share_and_shares_are_alike(data: st.DataObject) -> None:
    cores = sorted(os.sched_getaffinity(0))
    count = data.draw(st.integers(1, len(cores)))
    shares = shares_of_cores(count)
    if count == 1:
        assert shares == [None]
    else:
        assert sorted(core for share in shares for core in share or ()) == cores
        sizes = [len(share or ()) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_more_cells_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8})
    assert shares_of_cores(2) == [[3, 5], [8]]
    with pytest.raises(ValueError, match="--at-once is 4; this process has 3 cores"):
        shares_of_cores(4)
    with pytest.raises(ValueError, match="--at-once is 0"):
        shares_of_cores(0)
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(ValueError, match="which takes Linux"):
        shares_of_cores(2)
    assert shares_of_cores(1) == [None]


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "failed"])), min_size=1, max_size=len(CELLS)),
)
def test_cells_are_begun_in_order_each_once_and_never_too_many_at_once(
    count: int, script: list[tuple[int, str]]
) -> None:
    cells, log, busy = CELLS[: len(script)], [], set()  # type: ignore[var-annotated]

    def begin(cell: Cell, cores: Cores) -> Any:
        assert cores not in busy  # a share of the cores is one cell's
        busy.add(cores)
        placed[cell] = cores
        assert len(busy) <= count
        return Scripted(cell, log, *script[cell.seed])

    placed: dict[Cell, Cores] = {}
    ends = []
    for cell, why in trained([*cells], begin, [(place,) for place in range(count)]):
        busy.remove(placed[cell])
        ends.append((cell, why))
    assert log == [f"begin {cell.seed}" for cell in cells]
    assert sorted(ends) == [(cell, script[cell.seed][1]) for cell in cells]


def test_no_other_is_begun_when_the_caller_empties_the_list() -> None:
    log: list[str] = []
    waiting = [*CELLS]
    ends = []
    for cell, _ in trained(waiting, lambda cell, _: Scripted(cell, log, cell.seed, ""), [None, None]):  # type: ignore[arg-type,return-value]
        ends.append(cell.seed)
        waiting.clear()
    assert log == ["begin 0", "begin 1"]
    assert ends == [0, 1]


def test_a_signal_stops_all_of_them() -> None:
    log: list[str] = []

    def begin(cell: Cell, _: Cores) -> Any:
        if cell.seed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return Scripted(cell, log, 1000, "")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped while two_none_seed0 and two_none_seed1 were trained; the same command"):
        list(trained([*CELLS], begin, [None, None]))
    assert log == ["begin 0", "begin 1", "stop 0", "stop 1", "wait 0", "wait 1", "kill 0", "kill 1"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cell_that_was_stopped_stops_the_others() -> None:
    log: list[str] = []

    def begin(cell: Cell, _: Cores) -> Any:
        return Scripted(cell, log, 3, Stopped("stopped by itself") if cell.seed else "")

    with pytest.raises(Stopped, match="stopped by itself"):
        list(trained(CELLS[1:3], begin, [None, None]))
    assert {"stop 1", "stop 2", "wait 1", "wait 2"} <= set(log)


def test_none_is_left_behind_when_the_caller_leaves() -> None:
    log: list[str] = []
    ends = trained([*CELLS], lambda cell, _: Scripted(cell, log, cell.seed, ""), [None, None])  # type: ignore[arg-type,return-value]
    assert next(ends) == (CELLS[0], "")
    ends.close()
    assert log == ["begin 0", "begin 1", "stop 1", "wait 1", "kill 1"]  # saved, as far as it has come


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those that the next processes end with."""
    statuses: list[int] = []

    class Left:
        def __init__(self, *_: object, **__: object) -> None:
            self.returncode = statuses.pop(0)

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(subprocess, "Popen", Left)
    return statuses


@pytest.mark.parametrize(
    ("ended_with", "says"),
    [
        ([0], ""),
        ([2], "status 2; it has said why"),
        ([-9, 0], ""),
        ([-9, -6], "ended by SIGABRT, twice"),
    ],
)
def test_what_the_end_of_a_process_means(
    statuses: list[int], ended_with: list[int], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses += ended_with
    assert list(trained(CELLS[4:], lambda cell, cores: CellProcess(cell, [], cores, 0), [None])) == [(CELLS[4], says)]
    printed = capsys.readouterr().out
    assert ("two_none_seed4 was ended by SIGKILL; going on with it once more" in printed) == (ended_with[0] == -9)


def test_a_process_that_was_stopped_raises(statuses: list[int]) -> None:
    statuses.append(STOPPED)
    with pytest.raises(Stopped, match="stopped while two_none_seed4 was trained"):
        CellProcess(CELLS[4], [], None, 0).why()


def test_a_process_has_its_share_of_the_cores_and_this_one_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    told = tmp_path / "cores"
    code = f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(str(os.sched_getaffinity(0)))"
    popen: Callable[..., Any] = subprocess.Popen

    def other(command: Sequence[str], **kinds: Any) -> Any:
        assert list(command) == [sys.executable, "-m", "training.ablate", "--cell", "two_none_seed0"]
        return popen([sys.executable, "-c", code], **kinds)

    monkeypatch.setattr(subprocess, "Popen", other)
    read, write = os.pipe()
    process = CellProcess(CELLS[0], ["--cell", CELLS[0].name], [core], write)
    process.wait()
    assert process.why() == ""
    assert told.read_text() == str({core})
    assert os.sched_getaffinity(0) == before
    os.close(read)
    os.close(write)
