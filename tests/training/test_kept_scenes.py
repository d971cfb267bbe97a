"""Scenes drawn ahead: what training reads of them is what it would have drawn, bit for bit."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.cascade import preset_card
from dvt_tf.preprocessing import normalise
from dvt_tf.presets import get_preset
from training import kept_scenes
from training.cell_training import train_cell
from training.cells import Cell
from training.data import SceneData, open_data
from training.devices import make_strategy
from training.kept_scenes import KeptScenes, SceneBatch
from training.locks import held
from training.recipe import Recipe
from training.schedule import Plan

pytestmark = pytest.mark.one_stack

RECIPE = Recipe("dvt_tiny_digits", images=28, batch_size=4, steps_per_epoch=7, token_loss=0.5, curriculum_images=20)
PLAN = Plan.of(RECIPE, 0)


@pytest.fixture(autouse=True, scope="module")
def _small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_scenes, "STEPS_A_FILE", 3)  # 7 steps: two whole files and one of a single step
        yield


def opened(recipe: Recipe = RECIPE) -> SceneData:
    found = open_data(recipe, "digits")
    assert isinstance(found, SceneData)
    return found


def batches(found: SceneData, first_step: int = 0, part: int = 0, parts: int = 1) -> list[Any]:
    preset = get_preset("dvt_tiny_digits")
    card = preset_card("dvt_tiny_digits", preset)
    return list(found.batches(preset.config, card, PLAN, first_step, part, parts).as_numpy_iterator())


def assert_same(one: Any, other: Any) -> None:
    tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    """Digits, drawn ahead."""
    found = opened()
    found.keep(tmp_path_factory.mktemp("scenes"), PLAN)
    return found


def test_kept_digits_are_those_that_would_be_drawn(kept: SceneData) -> None:
    drawn = batches(opened())
    assert len(drawn) == 7
    assert_same(batches(kept), drawn)


@pytest.mark.parametrize("first_step", [1, 3, 5, 6])
def test_a_run_goes_on_in_the_middle_of_a_file(first_step: int, kept: SceneData) -> None:
    assert_same(batches(kept, first_step), batches(kept)[first_step:])


def test_machines_share_a_kept_batch(kept: SceneData) -> None:
    halves = [batches(kept, part=part, parts=2) for part in (0, 1)]
    assert_same(tf.nest.map_structure(lambda *parts: np.concatenate(parts), *halves), batches(kept))


class Interrupted(Exception):
    """In place of a signal."""


def made_up(steps: Sequence[int], fails_at: int = -1) -> Iterator[SceneBatch]:
    for step in steps:
        if step == fails_at:
            raise Interrupted
        which = np.full(4, step, np.int32)
        box = np.full((4, 4), step / 2, np.float32)
        yield SceneBatch(which, box, np.full((4, 112, 112, 3), step, np.uint8))


def test_interrupted_drawing_goes_on_from_the_last_whole_file(tmp_path: Path) -> None:
    kept = KeptScenes(tmp_path, 4, 7)
    with pytest.raises(Interrupted):
        kept.draw(lambda steps: made_up(steps, fails_at=4))
    assert [path.name for path in tmp_path.glob("*.scenes*")] == ["00000.scenes"]
    begun: list[int] = []

    def again(steps: Sequence[int]) -> Iterator[SceneBatch]:
        begun.extend(steps)
        return made_up(steps)

    kept.draw(again)
    assert begun == [3, 4, 5, 6]
    assert not kept.missing_bytes()
    read = list(kept.read(0).as_numpy_iterator())
    assert [batch.which.tolist() for batch in read] == [[step] * 4 for step in range(7)]
    assert all((batch.box == step / 2).all() and (batch.pixels == step).all() for step, batch in enumerate(read))


@pytest.mark.parametrize("meet_at", [0, 1, 2])
def test_two_draw_from_both_ends_till_they_meet(meet_at: int, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "both").mkdir()
    alone, kept = KeptScenes(tmp_path / "alone", 4, 7), KeptScenes(tmp_path / "both", 4, 7)
    ahead: list[int] = []
    back: list[int] = []

    def forwards(steps: Sequence[int]) -> Iterator[SceneBatch]:
        for step, batch in zip(steps, made_up(steps), strict=True):
            ahead.append(step)
            if step == 3 * meet_at:  # here the other draws what it has left, this file as well
                kept.draw(from_the_end, backwards=True)
            yield batch

    def from_the_end(steps: Sequence[int]) -> Iterator[SceneBatch]:
        back.extend(steps)
        return made_up(steps)

    kept.draw(forwards)
    assert back == [6, 3, 4, 5, 0, 1, 2][: 7 - 3 * meet_at]
    assert ahead == list(range(min(7, 3 * meet_at + 3)))  # and no further
    alone.draw(made_up)
    one, other = ({path.name: path.read_bytes() for path in k.folder.glob("*.scenes*")} for k in (alone, kept))
    assert one == other


def test_a_file_that_is_too_short_is_drawn_again(tmp_path: Path) -> None:
    kept = KeptScenes(tmp_path, 4, 7)
    kept.draw(made_up)
    path = tmp_path / "00001.scenes"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert kept.missing_bytes() == len(whole)
    kept.draw(made_up)
    assert path.read_bytes() == whole


@pytest.fixture
def _blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has blank scenes be drawn, at once."""

    def drawn(found: SceneData, steps: tf.data.Dataset) -> tf.data.Dataset:
        count = found.recipe.batch_size
        blank = SceneBatch(tf.zeros(count, tf.int32), tf.zeros((count, 4)), tf.zeros((count, 112, 112, 3), tf.uint8))
        return steps.map(lambda step: blank)

    monkeypatch.setattr(SceneData, "_drawn", drawn)


def folders_in(path: Path) -> list[Path]:
    return [one for one in path.iterdir() if one.is_dir()]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"curriculum_images": 24}, {"batch_size": 2}])
@pytest.mark.usefixtures("_blank")
def test_scenes_of_another_stream_are_not_taken(changes: dict[str, int], tmp_path: Path) -> None:
    opened().keep(tmp_path, PLAN)
    (tmp_path / "notes.txt").touch()  # what is none of its own is let be
    [before] = folders_in(tmp_path)
    opened(dataclasses.replace(RECIPE, **changes)).keep(tmp_path, PLAN)
    [after] = folders_in(tmp_path)
    assert before.name != after.name


@pytest.mark.usefixtures("_blank")
def test_scenes_that_are_still_read_are_not_removed(tmp_path: Path) -> None:
    reading = opened()
    reading.keep(tmp_path, PLAN)
    [read] = folders_in(tmp_path)
    other = dataclasses.replace(RECIPE, seed=1)
    opened(other).keep(tmp_path, PLAN)
    assert read in folders_in(tmp_path)
    assert len(batches(reading)) == 7
    del reading
    gc.collect()  # as when its process ends
    opened(other).keep(tmp_path, PLAN)
    assert read not in folders_in(tmp_path)


@pytest.mark.usefixtures("_blank")
def test_what_does_not_decide_on_the_scenes_may_differ(tmp_path: Path) -> None:
    opened().keep(tmp_path, PLAN)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    opened(dataclasses.replace(RECIPE, learning_rate=1e-4, overrides={"dim": 8})).keep(tmp_path, PLAN)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == written


class Usage(NamedTuple):
    free: int


@pytest.mark.usefixtures("_blank")
def test_with_too_little_room_scenes_are_drawn_as_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.kept_scenes.shutil.disk_usage", lambda path: Usage(2_000_000))
    found = opened()
    found.keep(tmp_path, PLAN)
    assert "scenes are drawn as they are needed, not ahead: that takes 0.0 GB in" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/*.scenes"))
    assert len(batches(found)) == 7


def test_where_two_meet_the_first_file_stays(tmp_path: Path) -> None:
    kept = KeptScenes(tmp_path, 4, 3)
    begun = threading.Event()

    def batches_of(steps: Sequence[int]) -> Iterator[SceneBatch]:
        begun.set()
        return made_up(steps)

    drawing = threading.Thread(target=kept.draw, args=(batches_of,))
    with held(tmp_path / ".lock", wait=False):  # as the other has it that writes the same file
        drawing.start()
        assert begun.wait(60)
        drawing.join(0.5)
        assert drawing.is_alive()
        assert not list(tmp_path.glob("*.scenes*"))
        first = b"\1" * kept.missing_bytes()
        (tmp_path / "00000.scenes").write_bytes(first)
    drawing.join(60)
    assert [path.read_bytes() for path in tmp_path.glob("*.scenes*")] == [first]


@pytest.mark.usefixtures("_blank")
def test_beside_a_process_that_draws_another_draws_from_the_other_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards: list[bool] = []
    monkeypatch.setattr(KeptScenes, "draw", lambda kept, batches_of, back: backwards.append(back))
    opened().keep(tmp_path, PLAN)
    with held(tmp_path / ".lock", wait=False):
        opened().keep(tmp_path, PLAN)
    opened().keep(tmp_path, PLAN)
    assert backwards == [False, True, False]


@pytest.mark.usefixtures("_blank")
def test_what_two_other_processes_draw_is_waited_for(tmp_path: Path) -> None:
    opened().keep(tmp_path, PLAN)
    [stream] = folders_in(tmp_path)
    found = opened()
    reading = threading.Thread(target=found.keep, args=(tmp_path, PLAN))
    with held(tmp_path / ".lock", wait=False), held(tmp_path / ".lock_backwards", wait=False):
        last = stream / "00002.scenes"
        records = last.read_bytes()
        last.unlink()
        reading.start()
        reading.join(0.5)
        assert reading.is_alive()
        last.write_bytes(records[:-1] + b"\1")
    reading.join(60)
    assert last.read_bytes()[-1] == 1  # it was not drawn a second time


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.usefixtures("_blank")
def test_the_cells_of_a_study_draw_ahead_unless_told_not_to(
    redraw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def train(*_arguments: Any, found: SceneData, **_named: Any) -> None:
        given.append(found)
        raise Interrupted

    monkeypatch.setattr("training.run.train", train)
    with pytest.raises(Interrupted):
        train_cell(RECIPE, "digits", tmp_path, Cell("two_none", 3), make_strategy("one"), redraw=redraw)
    files = sorted((tmp_path / "scenes").glob("seed3/*/*.scenes"))
    assert [path.name for path in files] == ([] if redraw else ["00000.scenes", "00001.scenes", "00002.scenes"])
    for path in files[2:]:
        records = path.read_bytes()
        path.write_bytes(records[:-1] + b"\1")  # the last pixel: what is read is what is kept
    blank = normalise(
        np.zeros((4, 112, 112, 3), np.uint8), preset_card("dvt_tiny_digits", get_preset("dvt_tiny_digits"))
    )
    assert np.array_equal(batches(given[0])[-1][0], blank) == redraw
