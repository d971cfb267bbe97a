"""Processes that train cells of a study, one after another or several at once, each on its share of the cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from training.cells import Cell
from training.stopping import Stopped, StopRequest

STOPPED = 3  # exit status of a cell's process that was asked to stop, saved itself and left
_LOOK = 0.2  # seconds between two looks at the processes
Cores = Collection[int] | None  # None for all


def shares_of_cores(count: int) -> list[Cores]:
    """The cores of this process in `count` shares; all of them for 1.

    Raises:
        ValueError: there are fewer cores than that, or the system cannot tie a process to cores.
    """
    if count < 1:
        raise ValueError(f"--at-once is {count}; it must be at least 1")
    if count == 1:
        return [None]
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("--at-once: cells at once have cores of their own, which takes Linux; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"--at-once is {count}; this process has {len(cores)} cores, and a cell needs one of its own")
    return [[int(core) for core in share] for share in np.array_split(cores, count)]


class CellProcess:
    """A cell in a process of its own, which gives back what TensorFlow holds.

    One that a signal ended, as where memory ran out, is gone on with once.

    Args:
        arguments: of `training.ablate`, for this cell. lock: a descriptor that it holds too, as it may outlive us.
    """

    def __init__(self, cell: Cell, arguments: Sequence[str], cores: Cores, lock: int) -> None:
        self.cell, self._arguments, self._cores, self._lock = cell, arguments, cores, lock
        self._process = self._begun()
        self._tried_again = False

    def _begun(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "training.ablate", *self._arguments]
        with _tied_to(self._cores):
            return subprocess.Popen(command, start_new_session=True, pass_fds=[self._lock])

    def why(self) -> str | None:
        """None while it runs; then "", or why the cell could not be trained.

        Raises:
            Stopped: it was asked to stop.
        """
        status = self._process.poll()
        if status is None:
            return None
        if status == STOPPED:
            raise Stopped(f"stopped while {self.cell.name} was trained; the same command goes on")
        if status >= 0:
            return f"status {status}; it has said why" if status else ""
        killed = signal.Signals(-status).name
        if self._tried_again:
            return f"ended by {killed}, twice"
        print(f"{self.cell.name} was ended by {killed}; going on with it once more", flush=True)
        self._tried_again = True
        self._process = self._begun()
        return None

    def stop(self) -> None:
        """Asks it to save itself and leave."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Until it has left."""
        self._process.wait()

    def kill(self) -> None:
        """Ends it where it stands."""
        if self._process.poll() is None:
            self._process.kill()


def trained(
    waiting: list[Cell], begin: Callable[[Cell, Cores], CellProcess], shares: Sequence[Cores]
) -> Generator[tuple[Cell, str], None, None]:
    """Trains cells, as many at once as there are shares of the cores -> those that end, with why or "".

    Args:
        waiting: cells, the first one next; who takes the results may empty it, and no other is begun then.

    Raises:
        Stopped: a signal asked to stop, or one of the cells was; all of them are saved.
    """
    running: dict[int, CellProcess] = {}
    with StopRequest() as stop:
        try:
            while waiting or running:
                for place, cores in enumerate(shares):
                    if waiting and place not in running:
                        running[place] = begin(waiting.pop(0), cores)
                ended = {place: why for place, one in running.items() if (why := one.why()) is not None}
                if stop.signal:
                    raise Stopped(
                        f"stopped while {' and '.join(one.cell.name for one in running.values())} "
                        f"{'was' if len(running) == 1 else 'were'} trained; the same command goes on"
                    )
                for place, why in ended.items():
                    yield running.pop(place).cell, why
                if not ended:
                    time.sleep(_LOOK)
        except (Exception, GeneratorExit):  # or who takes the results failed: what the cells have is saved all the same
            for one in running.values():
                one.stop()
            for one in running.values():
                one.wait()
            raise
        finally:  # the second Ctrl-C: nothing goes on behind the caller's back
            for one in running.values():
                one.kill()


@contextmanager
def _tied_to(cores: Cores) -> Iterator[None]:
    """A process that is begun within it has these cores alone, and TensorFlow as many threads."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
