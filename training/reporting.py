"""What a run says of itself: progress with the time left, history.csv, its curves, and run.json."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text
from tensorflow import keras

from dvt_tf.files import written_whole
from dvt_tf.processor import vector_extensions
from training.schedule import Plan

HISTORY_FILE, CURVES_FILE, RUN_FILE = "history.csv", "curves.png", "run.json"
PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "dvt-tf")
REFRESH = 0.5  # seconds between two looks at the logs: each makes a GPU wait


class ProgressBar(keras.callbacks.Callback):
    """Epoch, loss, images per second and the time left of the whole run: a bar in a terminal, else a line per epoch.

    Args:
        plan: of the run. batch_size: of all replicas. step: optimizer steps already taken.
    """

    _supports_tf_logs = True

    def __init__(self, plan: Plan, batch_size: int, step: int) -> None:
        super().__init__()
        self.plan = plan
        self.batch_size = batch_size
        self.step = step
        self.console = Console(file=sys.stdout, highlight=False)
        self.bar: Progress | None = None
        self._began: tuple[float, int] | None = None  # when, and at which step: after the first step, which is slow
        self._epoch_began = (time.monotonic(), step)
        self._shown = 0.0

    @property
    def rate(self) -> float:
        """Images per second since this process began."""
        if self._began is None or self.step == self._began[1]:
            return 0.0
        return (self.step - self._began[1]) * self.batch_size / (time.monotonic() - self._began[0])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.console.is_terminal and self.bar is None:
            told = TextColumn("{task.fields[told]}")
            columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), told]
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self._task = self.bar.add_task("", total=self.plan.steps, completed=self.step, told="starting")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch_began = (time.monotonic(), self.step)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        now = time.monotonic()
        if self._began is None:
            self._began = (now, self.step)
        if self.bar is None or now - self._shown < REFRESH:
            return
        self._shown = now
        epoch = (self.step - 1) // self.plan.steps_per_epoch + 1
        told = [f"step {self.step}/{self.plan.steps}", f"loss {float((logs or {}).get('loss', 0)):.3f}"]
        if self.rate:
            told += [f"{self.rate:.0f} images/s", f"{duration(self._left())} left"]
        self.bar.update(
            self._task, description=f"epoch {epoch}/{self.plan.epochs}", completed=self.step, told=", ".join(told)
        )

    def _left(self) -> float:
        return (self.plan.steps - self.step) * self.batch_size / self.rate

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs if logs is not None else {}
        began, first = self._epoch_began
        logs["images_per_second"] = (self.step - first) * self.batch_size / (time.monotonic() - began)
        told = [f"epoch {epoch + 1}/{self.plan.epochs}", f"loss {float(logs.get('loss', 0)):.4f}"]
        for kind, name in (("top-1", "exit_{}_top1"), ("val", "val_exit_{}_top1")):
            shares = [logs[name.format(k)] for k in range(1, 100) if name.format(k) in logs]
            if not shares and "top1" in logs and kind == "top-1":  # Keras drops the name of an only output
                shares = [logs["top1"]]
            if shares:
                told.append(f"{kind} {' / '.join(f'{100 * float(share):.1f}' for share in shares)} %")
        told.append(f"{logs['images_per_second']:.0f} images/s")
        if self.rate and self.step < self.plan.steps:
            told.append(f"{duration(self._left())} left")
        self.console.print(Text(", ".join(told)), soft_wrap=True)


class HistoryFile(keras.callbacks.Callback):
    """history.csv: one row per epoch; rows of epochs that a resumed run repeats are dropped."""

    def __init__(
        self, path: Path, images_per_epoch: int, first_epoch: int, rate: Callable[[int], float] | None = None
    ) -> None:
        """`rate`: the learning rate of the last step of an epoch, a column of its own."""
        super().__init__()
        self.rate = rate
        self.path = path
        self.images_per_epoch = images_per_epoch
        self.rows = [row for row in read_history(path) if int(row["epoch"]) <= first_epoch]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = {key: f"{float(value):.6g}" for key, value in (logs or {}).items()}
        if self.rate is not None:
            values["learning_rate"] = f"{self.rate(epoch):.6g}"
        self.rows.append({"epoch": str(epoch + 1), "images": str((epoch + 1) * self.images_per_epoch), **values})
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        refuse_vanished(self.path.parent)
        with written_whole(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)


def refuse_vanished(folder: Path) -> None:
    """Raises FileNotFoundError where the folder of a run was moved, deleted or unmounted: no new one is begun."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}, the folder of the run, is gone; put it back and go on with --resume")


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a history.csv; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plot_history(history: Path, picture: Path) -> None:
    """Loss, and top-1 of every exit in training and in validation, against the images seen: a PNG."""
    from matplotlib.figure import Figure

    rows = read_history(history)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)

    def line(axes: Any, name: str, style: str, label: str, colour: str, scale: float = 1.0) -> None:
        points = [(float(row["images"]), scale * float(row[name])) for row in rows if row.get(name)]
        if points:
            axes.plot(*zip(*points), style, label=label, color=colour)

    line(left, "loss", "-", "loss", "tab:blue")
    exits = [name for name in (rows[0] if rows else {}) if name.startswith("exit_") and name.endswith("_top1")]
    for k in range(max(len(exits), 1)):
        own = f"exit_{k + 1}_top1" if exits else "top1"
        line(right, own, "--", f"exit {k + 1}, training", f"C{k}", 100)
        line(right, f"val_exit_{k + 1}_top1", "o-", f"exit {k + 1}, validation", f"C{k}", 100)
    left.set_ylabel("training loss")
    right.set_ylabel("top-1, %")
    for axes in (left, right):
        axes.set_xlabel("images seen")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    with written_whole(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def describe_run(folder: Path, described: dict[str, Any], devices: str, replicas: int, step: int) -> None:
    """run.json: what the run is and, for each time that it was started, by which code and on what machine."""
    before = starts_of(folder)
    now = made_by(replicas)
    started = {
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "from_step": step,
        "command": sys.argv,
        **now,
        "versions": {"python": platform.python_version(), **now["versions"]},
        "devices": devices,
    }
    with written_whole(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps({**described, "started": [*before, started]}, indent=1), encoding="utf-8")


def starts_of(folder: Path) -> list[dict[str, Any]]:
    """What run.json says of each time that the run was started, the first one first; empty where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / RUN_FILE
    try:
        return [*json.loads(path.read_text(encoding="utf-8"))["started"]] if path.exists() else []
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); move it away and go on") from error


def made_by(replicas: int) -> dict[str, Any]:
    """By what a result is made here: packages, the code, what the processor has for matmuls, and how many replicas."""
    processor = " ".join(vector_extensions()) or "none of those known"
    return {"versions": versions(), "git": git_state(), "processor": processor, "replicas": replicas}


def versions() -> dict[str, str]:
    """Of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def git_state() -> dict[str, Any]:
    """The commit of this code and whether it has been changed since; empty where it is no checkout of git."""

    def git(*words: str) -> str:
        # Without asking for locks: somebody may be working in the checkout.
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


class _NamedLines(io.TextIOBase):
    """Writes to a stream, every line with a name before it. It is no terminal: two bars would fight over it."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._line_begun = stream, name, False

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self._stream.write(line if self._line_begun else f"{self._name}: {line}")
            self._line_begun = not line.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def name_lines(name: str) -> None:
    """From now on, lines that this process prints begin with a name: it is one of several at a terminal."""
    sys.stdout = _NamedLines(sys.stdout, name)


def duration(seconds: float) -> str:
    """In a person's words: `12 min`, `2 h 10 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(round(seconds), 1)} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes} min"
