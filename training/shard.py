"""`python -m training.shard`: a folder of images as shards, a few large files that are quick to read in sequence.

Every image is decoded once on the way; damaged ones are left out and listed. What was interrupted goes on where it was
when the same command is run again. With --check and no --data, shards that were written before are looked through.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from dvt_tf import datasets
from dvt_tf.shards import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    SHARD_PATTERN,
    read_manifest,
    read_shard_set,
)
from training.jobs import images_bar, run_jobs
from training.shard_plan import (
    MEGABYTE,
    class_names_of,
    other_splits,
    plan_split,
    refuse_another_layout,
    split_of,
    splits_of,
)
from training.shard_work import CheckJob, ShardJob, Written, check_shard, one_line, write_json, write_shard

BAD_INPUT, INTERRUPTED = 2, 130


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
    root, splits = splits_of(options.data)
    class_names = class_names_of(root, splits)
    source = f"folder:{root}"
    jobs = [
        job
        for split in splits
        for job in plan_split(root, split, class_names, options.out, options.shard_mb, options.check)
    ]
    others = other_splits(options.out, splits, class_names)
    options.out.mkdir(parents=True, exist_ok=True)
    refuse_another_layout(options.out, splits, {job.path.name for job in jobs})
    _remove_leftovers(options.out)
    # From here on the manifest lists only what is not about to change.
    _write_manifest(options.out, source, class_names, others)
    found = _write_all(jobs, options)
    made = {split: _part([one for one in found if split_of(one.entry["file"]) == split]) for split in splits}
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad input is one line on stderr and status 2, as is a fault that --check finds."""
    options = parse_arguments(arguments)
    try:
        _check_options(options)
        told = write_shards(options) if options.data is not None else check_shards(options.out, options.workers)
    except (ValueError, OSError) as error:
        return _fail(one_line(error), BAD_INPUT)
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
        total[split_of(job.path)] += len(job.names)
    written: dict[Path, Written] = {}
    damaged: dict[str, list[str]] = {split: [] for split in total}

    def take(job: ShardJob, result: Written) -> None:
        split = split_of(job.path)
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
        write_json(path, manifest)
    else:
        path.unlink(missing_ok=True)


def _summary(out: Path, splits: dict[str, Any], kept: int = 0) -> str:
    shards = [entry for part in splits.values() for entry in part["shards"]]
    size = sum(entry["bytes"] for entry in shards) / MEGABYTE
    damaged = sum(len(part["damaged"]) for part in splits.values())
    each = ", ".join(f"{split} {part['examples']}" for split, part in splits.items())
    there = f" ({kept} of them there before)" if kept else ""
    total = sum(part["examples"] for part in splits.values())
    return f"{out}: {total} images ({each}) in {len(shards)} shards{there}, {size:.1f} MB, {damaged} damaged left out"


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
