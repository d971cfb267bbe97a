"""`python -m training.shard`: a folder of images as shards, a few large files that are quick to read in sequence.

Every image is decoded once on the way; damaged ones are left out and listed. What was interrupted goes on where it was
when the same command is run again. With --check and no --data, shards that were written before are looked through.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from dvt_tf import datasets, image_files
from dvt_tf.files import written_whole
from dvt_tf.shards import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    SHARD_PATTERN,
    Shard,
    checksum,
    is_sidecar,
    read_manifest,
    read_shard_set,
    read_sidecar,
    records,
    shard_name,
    sidecar_path,
    to_record,
)
from training.jobs import Tick, images_bar, run_jobs

BAD_INPUT, INTERRUPTED = 2, 130
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: the images `names` (CLASS/FILENAME) of `folder` with their sizes and labels, into `path`.

    With `check`, one that is there already must have the checksum that it was written with.
    """

    path: Path
    folder: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    check: bool = False

    @property
    def digest(self) -> str:
        """What the shard is made of, as far as can be told without reading the images."""
        found = hashlib.sha256()
        for name, size, label in zip(self.names, self.sizes, self.labels, strict=True):
            found.update(b"%s\0%d\0%d\n" % (os.fsencode(name), size, label))
        return found.hexdigest()


@dataclass(frozen=True)
class Written:
    """A shard that is whole on the disk: its entry in the manifest, and the names of images left out."""

    entry: dict[str, Any]
    damaged: list[str]
    kept: bool


@dataclass(frozen=True)
class CheckJob:
    """One shard to look through; its labels are below `classes`."""

    shard: Shard
    classes: int


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.shard", description=__doc__)
    parser.add_argument(
        "--data", metavar="folder:PATH[@SPLIT]", help="the images: all splits that have a folder, or only that one"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of the shards")
    parser.add_argument("--shard-mb", type=float, default=256, help="megabytes of a shard, about (default %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core, %(default)s here)"
    )
    parser.add_argument(
        "--max-damaged",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of a split's images that may be damaged and left out (default %(default)s)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look through the shards in DIR and write nothing; with --data, tell by checksums instead of sizes which "
        "shards need not be written again",
    )
    return parser.parse_args(arguments)


def write_shards(options: argparse.Namespace) -> str:
    """Writes the shards of a folder's splits, or those that are missing; returns a line about them.

    Raises:
        ValueError: bad options or data, too many damaged images, shards of another layout in the way.
        OSError: a file that cannot be written, such as for want of space.
    """
    root, splits = _splits_of(options.data)
    class_names = _class_names(root, splits)
    source = f"folder:{root}"
    jobs = [job for split in splits for job in plan_split(root, split, class_names, options)]
    others = _other_splits(options.out, splits, class_names)
    options.out.mkdir(parents=True, exist_ok=True)
    _refuse_another_layout(options.out, splits, {job.path.name for job in jobs})
    _remove_leftovers(options.out)
    # From here on the manifest lists only what is not about to change.
    _write_manifest(options.out, source, class_names, others)
    found = _write_all(jobs, options)
    made = {split: _part([one for one in found if _split_of(one.entry["file"]) == split]) for split in splits}
    for split, part in made.items():
        if not part["examples"]:
            raise ValueError(f"{root / split}: not one of its {len(part['damaged'])} images can be read")
    _write_manifest(options.out, source, class_names, {**others, **made})
    return _summary(options.out, made, sum(one.kept for one in found))


def check_shards(root: Path, workers: int) -> str:
    """Looks through a folder of shards, every byte and image; returns a line about them.

    Raises:
        FileNotFoundError, ValueError: as `read_shard_set` does; or ValueError naming the shards that are not right.
    """
    shard_set = read_shard_set(root)
    jobs = [CheckJob(shard, len(shard_set.class_names)) for shards in shard_set.splits.values() for shard in shards]
    faults: dict[str, str] = {}

    def take(job: CheckJob, fault: str) -> None:
        if fault:
            faults[job.shard.path.name] = fault

    with images_bar("checking", sum(job.shard.examples for job in jobs)) as show:
        run_jobs(check_shard, jobs, workers, show, take)
    manifest = read_manifest(root)
    if faults:
        told = "; ".join(f"{name}: {fault}" for name, fault in sorted(faults.items())[:3])
        more = "; ..." if len(faults) > 3 else ""
        raise ValueError(
            f"{root}: {len(faults)} of {len(jobs)} shards are not right ({told}{more}); "
            f"`python -m training.shard --data {manifest['source']} --out {root} --check` writes them anew"
        )
    return _summary(root, manifest["splits"]) + "; all of it is right"


def plan_split(root: Path, split: str, class_names: Sequence[str], options: argparse.Namespace) -> list[ShardJob]:
    """The shards of one split: the same for the same files, and each a mixture of all classes.

    Raises:
        ValueError: there is no image.
    """
    found = [
        (f"{name}/{file}", size, label)
        for label, name in enumerate(class_names)
        for file, size in _images_in(root / split / name)
    ]
    if not found:
        raise ValueError(f"{root / split}: no image in any class folder of it")
    wanted = math.ceil(sum(size for _, size, _ in found) / (options.shard_mb * MEGABYTE))
    count = min(max(wanted, 1), len(found))
    # By a hash of the names, an order that no version of anything changes.
    found.sort(key=lambda image: (hashlib.sha256(b"shards " + os.fsencode(image[0])).digest(), image[0]))
    jobs = []
    for index in range(count):
        names, sizes, labels = zip(*found[index::count], strict=True)
        path = options.out / shard_name(split, index, count)
        jobs.append(ShardJob(path, root / split, names, sizes, labels, options.check))
    return jobs


def write_shard(job: ShardJob, tick: Tick) -> Written:
    """Writes one shard and the file that lists what is in it, unless they are there already; raises OSError."""
    if sidecar := _finished(job):
        tick(len(job.names))
        return _written(sidecar, kept=True)
    # Gone before the list of what is in it changes, so that the two never disagree.
    job.path.unlink(missing_ok=True)
    names: list[str] = []
    labels: list[int] = []
    damaged: list[str] = []
    with written_whole(job.path) as temporary:
        with _writer(temporary, job.path) as write:
            for name, label in zip(job.names, job.labels, strict=True):
                tick(1)
                contents = _contents(job.folder / name)
                if contents is None:
                    damaged.append(name)
                else:
                    write(to_record(contents, label, name))
                    names.append(name)
                    labels.append(label)
        sidecar = {
            "file": job.path.name,
            "examples": len(names),
            "bytes": temporary.stat().st_size,
            "sha256": checksum(temporary),
            "of": job.digest,
            "names": names,
            "labels": labels,
            "damaged": damaged,
        }
        _write_json(sidecar_path(job.path), sidecar)
    return _written(sidecar, kept=False)


def check_shard(job: CheckJob, tick: Tick) -> str:
    """Looks through one shard; returns what is wrong with it, "" for nothing."""
    shard = job.shard
    try:
        if checksum(shard.path) != shard.sha256:
            return "it has not the bytes that were written (SHA-256)"
        sidecar = read_sidecar(shard)
        expected = list(zip(sidecar["labels"], sidecar["names"], strict=True))
        found = []
        for contents, label, name in records([shard.path]).as_numpy_iterator():
            tick(1)
            found.append((int(label), os.fsdecode(name)))
            image_files.to_graph_bytes(contents, found[-1][1])
            if not 0 <= label < job.classes:
                return f"{found[-1][1]} has label {label}, and there are {job.classes} classes"
    except (ValueError, OSError) as error:
        return _one_line(error)
    except tf.errors.OpError as error:
        return _one_line(error.message)
    return "" if found == expected else f"its {len(found)} records are not those that {sidecar_path(shard.path)} lists"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad input is one line on stderr and status 2, as is a fault that --check finds."""
    options = parse_arguments(arguments)
    try:
        _check_options(options)
        told = write_shards(options) if options.data is not None else check_shards(options.out, options.workers)
    except (ValueError, OSError) as error:
        return _fail(_one_line(error), BAD_INPUT)
    except BrokenProcessPool:
        fault = "a worker was ended from outside, perhaps for want of memory"
        return _fail(f"{fault}; the same command with fewer --workers goes on with what is done", BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on with what is done", INTERRUPTED)
    _print(told, sys.stdout)
    return 0


def _write_all(jobs: Sequence[ShardJob], options: argparse.Namespace) -> list[Written]:
    """Every shard whole on the disk, in the order of the jobs; raises ValueError for too many damaged images."""
    total: Counter[str] = Counter()
    for job in jobs:
        total[_split_of(job.path)] += len(job.names)
    written: dict[Path, Written] = {}
    damaged: dict[str, list[str]] = {split: [] for split in total}

    def take(job: ShardJob, result: Written) -> None:
        split = _split_of(job.path)
        written[job.path] = result
        damaged[split] += result.damaged
        _refuse_too_many_damaged(split, damaged[split], total[split], options.max_damaged)

    try:
        with images_bar("writing", sum(total.values())) as show:
            run_jobs(write_shard, jobs, options.workers, show, take)
    finally:
        _remove_leftovers(options.out)  # of a worker that was killed; the others take theirs away
    return [written[job.path] for job in jobs]


def _check_options(options: argparse.Namespace) -> None:
    if options.data is None and not options.check:
        raise ValueError("give --data folder:PATH to write shards, or --check to look through those in --out")
    if not (options.shard_mb > 0 and math.isfinite(options.shard_mb)):
        raise ValueError(f"--shard-mb is {options.shard_mb:g}; it must be above 0")
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}; it must be at least 1")
    if not 0 <= options.max_damaged <= 1:
        raise ValueError(f"--max-damaged is {options.max_damaged:g}; it must be from 0 to 1")


def _splits_of(data: str) -> tuple[Path, list[str]]:
    """A folder of images and which of its splits are to be written."""
    spec = datasets.parse_spec(data)
    if spec.kind != "folder":
        raise ValueError(f"--data is {data}; shards are written of folder:PATH or folder:PATH@SPLIT only")
    root = Path(spec.location)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    splits = [spec.split] if spec.split else [split for split in datasets.SPLITS if (root / split).is_dir()]
    if not splits:
        raise ValueError(f"{root}: none of the folders {', '.join(datasets.SPLITS)} is in it")
    for split in splits:
        if not (root / split).is_dir():
            raise FileNotFoundError(f"{root / split}: no such folder")
    return root, splits


def _class_names(root: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """The class folders, which must be those of every split, as a label is a place among them."""
    first, *others = splits
    names = datasets.class_names(datasets.DataSpec("folder", str(root)), first)
    for split in others:
        found = datasets.class_names(datasets.DataSpec("folder", str(root)), split)
        if found != names:
            differing = sorted(set(found) ^ set(names))
            raise ValueError(f"{root}: {first} and {split} differ in class folders: {', '.join(differing[:5])}")
    return names


def _images_in(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the image files in a folder, by name."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if image_files.is_image_name(Path(entry.name)) and entry.is_file()]
        return sorted((entry.name, entry.stat().st_size) for entry in found)


def _other_splits(out: Path, splits: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """What the manifest in a folder, if there is one, says of splits that are not to be written now."""
    if not (out / MANIFEST_FILE).is_file():
        return {}
    manifest = read_manifest(out)
    others = {split: part for split, part in manifest["splits"].items() if split not in splits}
    if others and tuple(manifest["class_names"]) != tuple(class_names):
        raise ValueError(f"{out} holds {', '.join(others)} of data with other classes; give another --out")
    return others


def _refuse_another_layout(out: Path, splits: Sequence[str], wanted: set[str]) -> None:
    found = (entry.name for entry in out.iterdir() if SHARD_PATTERN.fullmatch(entry.name))
    other = sorted(name for name in found if name not in wanted and _split_of(name) in splits)
    if other:
        raise ValueError(
            f"{out} holds {len(other)} shards of another layout, such as {other[0]} (there would be {len(wanted)} "
            "shards now); give another --out, or the --data and --shard-mb that they were written with"
        )


def _remove_leftovers(out: Path) -> None:
    """Takes away what was being written when an earlier run was killed."""
    for entry in out.iterdir():
        name = entry.name.removesuffix(".writing")
        written = SHARD_PATTERN.fullmatch(name) or SHARD_PATTERN.fullmatch(name.removesuffix(".json") + ".tfrecord")
        if name != entry.name and (written or name == MANIFEST_FILE):
            entry.unlink()


def _refuse_too_many_damaged(split: str, damaged: Sequence[str], total: int, share: float) -> None:
    if len(damaged) > share * total + 1e-9:  # a share such as 0.29 is never quite itself
        told = ", ".join(sorted(damaged)[:10]) + (", ..." if len(damaged) > 10 else "")
        raise ValueError(
            f"{split}: {len(damaged)} of {total} images are damaged or unreadable, more than --max-damaged {share:g} "
            f"allows: {told}"
        )


def _finished(job: ShardJob) -> dict[str, Any] | None:
    """What is in a shard that an earlier run finished; None for one that is to be written."""
    try:
        sidecar = json.loads(sidecar_path(job.path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not (isinstance(sidecar, dict) and is_sidecar(sidecar) and sidecar.get("of") == job.digest):
        return None
    if not job.path.is_file() or job.path.stat().st_size != sidecar["bytes"]:
        return None
    if job.check and checksum(job.path) != sidecar["sha256"]:
        return None
    # An image that could not be read for another reason than its contents may have come back.
    if any(_contents(job.folder / name) is not None for name in sidecar["damaged"]):
        return None
    return sidecar


def _contents(path: Path) -> bytes | None:
    """An image file as the graph decodes it, and did; None for one that is damaged or cannot be read."""
    try:
        return image_files.read_image_bytes(path)
    except (image_files.ImageError, FileNotFoundError):
        return None


@contextlib.contextmanager
def _writer(temporary: Path, path: Path) -> Iterator[Callable[[bytes], None]]:
    """Writes records; what TensorFlow says of a full disk becomes an OSError."""
    try:
        with tf.io.TFRecordWriter(os.fsencode(temporary)) as writer:
            yield writer.write
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be written: {error.message.rpartition('; ')[2]}") from error


def _written(sidecar: dict[str, Any], kept: bool) -> Written:
    return Written({key: sidecar[key] for key in ("file", "examples", "bytes", "sha256")}, sidecar["damaged"], kept)


def _part(shards: Sequence[Written]) -> dict[str, Any]:
    """What the manifest says of a split."""
    return {
        "shards": [found.entry for found in shards],
        "examples": sum(found.entry["examples"] for found in shards),
        "damaged": sorted(name for found in shards for name in found.damaged),
    }


def _write_manifest(out: Path, source: str, class_names: Sequence[str], splits: dict[str, Any]) -> None:
    path = out / MANIFEST_FILE
    if splits:
        ordered = {split: splits[split] for split in datasets.SPLITS if split in splits}
        manifest = {"format_version": FORMAT_VERSION, "source": source, "class_names": class_names, "splits": ordered}
        _write_json(path, manifest)
    else:
        path.unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    # In ASCII, so that bytes of a name that are no text survive as the surrogates they were read as.
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")


def _summary(out: Path, splits: dict[str, Any], kept: int = 0) -> str:
    shards = [entry for part in splits.values() for entry in part["shards"]]
    size = sum(entry["bytes"] for entry in shards) / MEGABYTE
    damaged = sum(len(part["damaged"]) for part in splits.values())
    each = ", ".join(f"{split} {part['examples']}" for split, part in splits.items())
    there = f" ({kept} of them there before)" if kept else ""
    total = sum(part["examples"] for part in splits.values())
    return f"{out}: {total} images ({each}) in {len(shards)} shards{there}, {size:.1f} MB, {damaged} damaged left out"


def _split_of(path: Path | str) -> str:
    return Path(path).name.partition("-")[0]


def _one_line(error: Exception | str) -> str:
    """What an error says; a name and a reason where it comes from the system."""
    if isinstance(error, OSError) and error.strerror:
        error = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _fail(message: str, status: int) -> int:
    _print(f"training.shard: {message}", sys.stderr)
    return status


def _print(text: str, stream: TextIO) -> None:
    """A line, with what the stream cannot show, such as bytes of a name that are no text, written out."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.exit(main())
