"""Jobs in worker processes: all are done, images are counted, and what one raises ends the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from training.jobs import Tick, run_jobs

pytestmark = pytest.mark.one_stack


def squared(number: int, tick: Tick) -> int:
    for _ in range(number):
        tick(1)
    return number**2


def fails_in_a_folder_that_is_not_there(path: Path, tick: Tick) -> None:
    """Otherwise goes on until it is ended, for at most some minutes, and says so in a file if it was not."""
    assert path.parent.is_dir(), f"{path.parent}: no such folder"
    for _ in range(20_000):
        tick(1)
        time.sleep(0.01)
    path.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_and_its_images_are_counted(workers: int) -> None:
    results: dict[int, int] = {}
    shown: list[int] = []
    run_jobs(squared, range(1, 6), workers, shown.append, results.__setitem__)
    assert results == {number: number**2 for number in range(1, 6)}
    assert shown == sorted(shown)
    assert shown[-1] == 15


def test_what_one_raises_ends_the_others(tmp_path: Path) -> None:
    jobs = [tmp_path / "long", tmp_path / "nowhere" / "file"]
    with pytest.raises(AssertionError, match="nowhere: no such folder"):
        run_jobs(fails_in_a_folder_that_is_not_there, jobs, 2, lambda _: None, lambda *_: None)
    assert not jobs[0].exists()
