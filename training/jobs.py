"""Jobs of many images each, in worker processes of which none outlives this one, with a bar of the images done."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, TypeVar

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

REFRESH = 0.2  # seconds between two looks at the workers
Tick = Callable[[int], None]  # called with the number of images that come next or are done with
Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job, Tick], Result],
    jobs: Sequence[Job],
    workers: int,
    show: Tick,
    take: Callable[[Job, Result], None],
) -> None:
    """Does all jobs, in this process or in several: `take` is called with each result, `show` with images done.

    What a job or `take` raises, also KeyboardInterrupt, ends all of them first.
    """
    if workers == 1 or len(jobs) == 1:
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            show(done)

        for job in jobs:
            take(job, work(job, tick))
    else:
        _run_in_processes(work, jobs, min(workers, len(jobs)), show, take)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} images/s" if task.speed else "")


@contextlib.contextmanager
def images_bar(title: str, total: int) -> Iterator[Tick]:
    """A bar where stderr is a terminal; gives what is called with the number of images done so far."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


class _Ended(Exception):
    """In a worker: all is to end."""


# In a worker: images done by all of them, and whether they are to end; shared memory.
_shared: tuple[Any, Any] | None = None


def _run_in_processes(
    work: Callable[[Job, Tick], Result],
    jobs: Sequence[Job],
    workers: int,
    show: Tick,
    take: Callable[[Job, Result], None],
) -> None:
    context = multiprocessing.get_context("spawn")
    # A plain byte, not an Event: a worker that is killed while it holds a lock must not stop the others from ending.
    done, ended = context.Value("q", 0), context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (done, ended))
    try:
        with _interrupts_ignored():  # which the workers inherit: Ctrl-C is for this process to pass on
            pending = {pool.submit(_work, work, job): job for job in jobs}
        while pending:
            finished, _ = wait(pending, REFRESH, FIRST_COMPLETED)
            show(done.get_obj().value)
            for future in finished:
                take(pending.pop(future), future.result())
    finally:
        ended.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker(done: Any, ended: Any) -> None:
    global _shared
    _shared = (done, ended)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # images are decoded on the CPU, and a GPU may be busy with something
    # There is a worker for every core.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when the process that began it is gone, however that happened."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(work: Callable[[Job, Tick], Result], job: Job) -> Result:
    return work(job, _tick)


def _tick(count: int) -> None:
    assert _shared is not None
    done, ended = _shared
    if ended.value:
        raise _Ended
    with done.get_lock():
        done.value += count
