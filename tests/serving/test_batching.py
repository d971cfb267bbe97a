"""The tests' server forms batches and changes versions as it should, without a model."""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import versions
from tests.serving.batching import Arrays, Batcher, Batching, ServingError
from tests.serving.versions import Model, ModelConfig

pytestmark = pytest.mark.one_stack


class Doubler:
    """A function whose runs can be held back, and looked at."""

    def __init__(self) -> None:
        self.ran: list[list[float]] = []
        self.may_run = threading.Event()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        assert self.may_run.wait(30)
        self.ran.append(inputs["x"].tolist())
        if -1 in inputs["x"]:
            raise ServingError(13, "what must not be in it")
        return {"y": inputs["x"] * 2}


def ask_together(batcher: Batcher, requests: list[list[float]]) -> list[Any]:
    """Each from a thread of its own, in this order: the outputs, or what was raised."""
    answers: list[Any] = [None] * len(requests)

    def ask(at: int) -> None:
        try:
            answers[at] = batcher.submit({"x": np.array(requests[at], np.float32)})["y"].tolist()
        except ServingError as error:
            answers[at] = error

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(requests))]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    return answers


def test_whole_requests_in_order_filled_up_with_the_last_requests_first_row() -> None:
    run = Doubler()
    batcher = Batcher(run, Batching(8, 300_000, (1, 2, 4, 8)))
    run.may_run.set()
    answers = ask_together(batcher, [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]])
    batcher.close()
    assert answers == [[2, 4, 6], [8, 10], [12, 14, 16, 18], [20]]
    # The third does not fit beside the first two; their five rows become eight.
    assert run.ran == [[1, 2, 3, 4, 5, 4, 4, 4], [6, 7, 8, 9, 10, 10, 10, 10]]
    assert dict(batcher.batches) == {(2, 5, 8): 2}


def test_a_full_batch_does_not_wait() -> None:
    run = Doubler()
    run.may_run.set()
    batcher = Batcher(run, Batching(2, 60_000_000))
    start = time.monotonic()
    assert ask_together(batcher, [[1], [2]]) == [[2], [4]]
    assert time.monotonic() - start < 10
    batcher.close()


def test_too_large_a_request_is_refused_alone_and_an_error_is_its_batchs() -> None:
    run = Doubler()
    run.may_run.set()
    batcher = Batcher(run, Batching(4, 200_000))
    large, one, other, next_one = ask_together(batcher, [[1] * 5, [-1], [2, 3, 4], [5, 6, 7, 8]])
    batcher.close()
    assert str(large) == "Task size 5 is larger than maximum input batch size 4"
    assert one is other
    assert str(one) == "what must not be in it"
    assert next_one == [10, 12, 14, 16]


def test_closing_answers_what_waits() -> None:
    run = Doubler()
    batcher = Batcher(run, Batching(1, 0))
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda value=value: answers.append(batcher.submit({"x": np.array([value])})["y"][0]))
        for value in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    threading.Timer(0.1, run.may_run.set).start()
    batcher.close()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [2, 4, 6]
    with pytest.raises(ServingError, match="unloaded"):
        batcher.submit({"x": np.array([1])})


def test_parameters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text("# a comment\nmax_batch_size { value: 4 }\nbatch_timeout_micros{value:7}\nallowed_batch_sizes: 4\n")
    assert Batching.read(path) == Batching(4, 7, (4,))
    path.write_text(path.read_text().replace("allowed_batch_sizes: 4", "allowed_batch_sizes: 2"))
    with pytest.raises(ValueError, match="must ascend and end with max_batch_size"):
        Batching.read(path)


# Versions


class FakeVersion(versions.Version):
    """One that loads at once, except 13, and notes that it was freed."""

    freed: list[int]

    def __init__(self, number: int, folder: Path, batching: Batching | None) -> None:
        if number == 13:
            raise ValueError("damaged")
        self.number, self.batchers = number, {}
        self._users, self._idle = 0, threading.Condition()
        self._session: Any = types.SimpleNamespace(close=lambda: self.freed.append(number))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    FakeVersion.freed = []
    monkeypatch.setattr(versions, "Version", FakeVersion)
    model = Model(ModelConfig("dvt", tmp_path), None)
    for name in ("1", "2", ".exporting.9.x", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("no folder")
    model.update(model.config)
    return model


def test_the_highest_number_is_served_and_the_old_one_freed_when_nobody_uses_it(model: Model, tmp_path: Path) -> None:
    assert model.status() == [(2, "AVAILABLE", "")]
    (tmp_path / "10").mkdir()
    with model.use() as used:
        updating = threading.Thread(target=model.update, args=(model.config,))
        updating.start()
        while model.status() != [(10, "AVAILABLE", ""), (2, "UNLOADING", "")]:
            time.sleep(0.001)
        with model.use() as newer:
            assert (used.number, newer.number) == (2, 10)
        time.sleep(0.05)
        assert FakeVersion.freed == []  # it waits
    updating.join()
    assert model.status() == [(10, "AVAILABLE", "")]
    assert FakeVersion.freed == [2]


def test_a_damaged_version_leaves_the_old_one(model: Model, tmp_path: Path) -> None:
    (tmp_path / "13").mkdir()
    for _ in range(2):
        model.update(model.config)
        assert model.status() == [(13, "END", "damaged"), (2, "AVAILABLE", "")]
    with pytest.raises(ServingError, match=r"Specific\(dvt, 13\)"), model.use(13):
        pass


def test_taking_the_newest_folder_away_goes_back(model: Model, tmp_path: Path) -> None:
    (tmp_path / "2").rename(tmp_path / "2.off")
    model.update(model.config)
    assert model.status() == [(1, "AVAILABLE", "")]
    (tmp_path / "1").rename(tmp_path / "1.off")
    model.update(model.config)
    assert model.status() == [(1, "AVAILABLE", "")]


def test_labels_move_before_the_old_version_goes(model: Model) -> None:
    model.update(model.config._replace(versions=(1, 2), labels=(("stable", 1),)))
    with model.use(label="stable") as version:
        assert version.number == 1
    model.update(model.config._replace(versions=(2,), labels=(("stable", 2),)))
    with model.use(label="stable") as version:
        assert version.number == 2
    with pytest.raises(ServingError, match="Unrecognized servable version label: beta"), model.use(label="beta"):
        pass
