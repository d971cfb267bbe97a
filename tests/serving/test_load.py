"""Many clients at once: every answer is that of the row alone, through a change of versions, and memory stays."""

from __future__ import annotations

import collections
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt_tf import serving
from dvt_tf.exit_rule import NEVER
from tests.serving.clients import GrpcClient, RestClient
from tests.serving.files import broken_files, good_files
from tests.serving.models import Alone, Exported, Row, same
from tests.serving.running import RunningServer, running

pytestmark = pytest.mark.one_stack

CLIENTS = 32
SIGNATURES = ("serving_default", "with_thresholds", "pixels")
BROKEN = 0.05  # of the rows that are image files
BATCHING = "max_batch_size { value: 16 }\nbatch_timeout_micros { value: 20000 }\n" + "".join(
    f"allowed_batch_sizes: {size}\n" for size in (1, 2, 4, 6, 8, 12, 16)
)
THRESHOLDS = [[0.0, 0.0], [0.6, 0.5], [0.8, NEVER], [NEVER, 0.4], [NEVER, NEVER], [np.nan, -1.0]]


@pytest.fixture(scope="module")
def rows(alone: dict[int, Alone]) -> dict[tuple[str, bool], list[Row]]:
    """By signature, and whether they are images: rows and their lone answers."""
    good, broken = good_files(12), broken_files()
    found: dict[tuple[str, bool], list[Row]] = {}

    def add(signature: str, inputs: dict[str, Any], image: Any, thresholds: Any = None) -> None:
        if all(one.is_clear(image, thresholds) for one in alone.values()):
            answers = {version: one.ask(image, thresholds) for version, one in alone.items()}
            found.setdefault((signature, answers[1]["valid"]), []).append(Row(signature, inputs, answers))

    for image in (*good, *broken):
        add("serving_default", {"image_bytes": image}, image)
    for image, given in (*itertools.product(good, THRESHOLDS), *itertools.product(broken, THRESHOLDS[1:2])):
        add("with_thresholds", {"image_bytes": image, "thresholds": np.float32(given)}, image, given)
    random = np.random.default_rng(0)
    for _ in range(8):
        pixels = random.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        add("pixels", {"images": pixels}, pixels)
    assert len(found["serving_default", False]) == len(found["with_thresholds", False]) == len(broken)
    assert {row.answers[1]["exit"] for row in found["with_thresholds", True]} == {1, 2, 3}
    return found


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A model's folder with version 1, and what is none."""
    folder = tmp_path / "dvt"
    shutil.copytree(exported.folder / "1", folder / "1")
    (folder / ".exporting.123.abc").mkdir()
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[RunningServer]:
    (tmp_path / "batching.config").write_text(BATCHING)
    with running(
        tmp_path / "log",
        model_name="dvt",
        model_base_path=folder,
        batching_parameters_file=tmp_path / "batching.config",
        file_system_poll_wait_seconds=0.2,
    ) as started:
        yield started


class Load:
    """Clients that ask at random and compare each answer with that of the row alone, until they are told to end."""

    def __init__(self, server: RunningServer, rows: dict[tuple[str, bool], list[Row]], pause: float) -> None:
        self._rows, self._pause = rows, pause
        self._lock = threading.Lock()
        self._end = 1_000_000
        self.asked = self.answered = self.rows_answered = self.broken_rows = 0
        self.faults: list[str] = []
        self.seconds: list[float] = []
        self.seen: set[tuple[int, str]] = set()  # versions that have answered, and with which signature
        clients = [
            GrpcClient(server.grpc, "dvt") if index % 2 else RestClient(server.rest, "dvt", by_columns=index % 4 == 0)
            for index in range(CLIENTS)
        ]
        self._threads = [
            threading.Thread(target=self._client, args=(index, client)) for index, client in enumerate(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._end = 0
        for thread in self._threads:
            thread.join()

    def wait(self, is_met: Callable[[], bool], seconds: float = 180.0) -> None:
        """Until the condition is met; not after a fault."""
        give_up = time.monotonic() + seconds
        while not is_met() and not self.faults:
            assert time.monotonic() < give_up, "waited in vain"
            time.sleep(0.05)
        assert not self.faults, self.faults

    def end(self, answered: int) -> None:
        """Once so many are answered."""
        self._end = answered
        for thread in self._threads:
            thread.join()
        assert not self.faults, self.faults

    def _client(self, index: int, client: Any) -> None:
        random = np.random.default_rng([7, index])
        newest = 1
        try:
            while self._may_ask():
                newest = self._ask(random, client, newest)
                time.sleep(2 * self._pause * random.random())
        except Exception as error:  # noqa: BLE001 (the test reports it; the thread cannot fail it)
            self.faults.append(f"client {index}: {type(error).__name__}: {error}"[:2000])
            self._end = 0  # nor need the others go on
        finally:
            client.close()

    def _may_ask(self) -> bool:
        with self._lock:
            is_open = self.asked < self._end
            self.asked += is_open
            return is_open

    def _ask(self, random: np.random.Generator, client: Any, newest: int) -> int:
        """One request; returns the newest version that this client has seen."""
        signature = SIGNATURES[random.choice(3, p=[0.3, 0.5, 0.2])]
        kinds = [signature == "pixels" or random.random() > BROKEN for _ in range(random.integers(1, 5))]
        pools = [self._rows[signature, is_image] for is_image in kinds]
        request = [pool[random.integers(len(pool))] for pool in pools]
        start = time.monotonic()
        version, answers = client.ask(signature, request)
        seconds = time.monotonic() - start
        fitting = [
            number
            for number in ((1, 2) if version is None else (version,))
            if all(same(answer, row.answers[number]) for answer, row in zip(answers, request, strict=True))
        ]
        assert fitting, f"{signature} of version {version}: {answers}, not {request}"
        # Once a client has seen version 2, it never gets the old one again.
        assert fitting[-1] >= newest, f"version {fitting} after {newest}"
        with self._lock:
            self.answered += 1
            self.rows_answered += len(answers)
            self.broken_rows += kinds.count(False)
            self.seconds.append(seconds)
            if len(fitting) == 1:
                self.seen.add((fitting[0], signature))
        return fitting[0] if len(fitting) == 1 else newest


def check_load(
    server: RunningServer,
    rows: dict[tuple[str, bool], list[Row]],
    requests: int,
    pause: float,
    growth: float,
    new_version: Callable[[], None],
) -> None:
    """Asks so many requests, the second half of them of a new version, which comes after a tenth.

    While it is being loaded, which takes as long as it takes, clients go on asking, so that there may be more. From the
    middle of what is asked to the end memory may not grow by more than `growth`, a share of it. `pause`: the mean time,
    in seconds, that a client waits before it asks again.
    """
    start = time.monotonic()
    with Load(server, rows, pause) as load:
        load.wait(lambda: load.answered > requests // 10)
        new_version()
        came = time.monotonic()
        load.wait(lambda: server.versions("dvt") == {2: "AVAILABLE"})
        swapped, at_swap = time.monotonic(), load.answered
        # Until each signature has run in the new version, what is run for the first time takes memory.
        load.wait(lambda: {(2, name) for name in SIGNATURES} <= load.seen)
        load.wait(lambda: load.answered > max(requests // 2, at_swap + 2 * CLIENTS))
        middle, so_far = server.resident_megabytes(), load.answered
        load.end(so_far + requests // 2)
    took, end = time.monotonic() - start, server.resident_megabytes()
    median, most = np.percentile(load.seconds, [50, 99])
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for *_, ran, padded, count in server.get("/batches"):
        sizes[ran, padded] += count
    per_batch = sum(ran * count for (ran, _), count in sizes.items()) / sum(sizes.values())
    print(
        f"{load.answered} requests, {load.rows_answered} rows ({load.broken_rows} broken) in {took:.0f} s; "
        f"{per_batch:.1f} rows a batch; half within {1000 * median:.0f} ms, 99 % within {1000 * most:.0f} ms; "
        f"new version in use after {swapped - came:.0f} s; memory {middle:.0f} MB in the middle, {end:.0f} MB at last"
    )
    assert load.answered == load.asked  # none was lost
    assert {version for version, _ in load.seen} == {1, 2}
    assert load.broken_rows > 0.02 * load.rows_answered
    assert end < (1 + growth) * middle
    assert per_batch > 2  # or nothing was tested of batching


@pytest.mark.long
def test_many_clients_and_a_new_version(
    server: RunningServer, rows: dict[tuple[str, bool], list[Row]], exported: Exported, folder: Path
) -> None:
    def put_in_place() -> None:
        # As an export does it. Without warm-up requests, which take long beside 32 clients: the other test has them.
        hidden = folder / ".exporting.2"
        shutil.copytree(exported.folder / "2", hidden, ignore=shutil.ignore_patterns("assets.extra"))
        hidden.rename(folder / "2")

    # In so few seconds a tenth may still be the heap's own growing.
    check_load(server, rows, 1500, pause=0.1, growth=0.1, new_version=put_in_place)


@pytest.mark.slow
def test_many_clients_for_minutes_and_an_export_meanwhile(
    server: RunningServer, rows: dict[tuple[str, bool], list[Row]], exported: Exported, folder: Path
) -> None:
    def export() -> None:
        assert serving.export(exported.models[2], folder) == folder / "2"

    check_load(server, rows, 25_000, pause=0.0, growth=0.05, new_version=export)
