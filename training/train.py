"""`python -m training.train`: trains a cascade by a recipe through `keras.Model.fit` and saves a model folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from training import devices
from training.recipe import load_recipe
from training.run import LOST_MACHINE, MODEL, SAVE_MINUTES, train
from training.saving import Diverged
from training.stopping import Stopped

BAD_INPUT, LOST, INTERRUPTED = 2, 3, 130  # exit statuses
RESTARTS = "DVT_TF_RESTARTS"  # environment variable: how often a run has begun anew after the loss of a machine
MOST_RESTARTS = 20


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--recipe", required=True, help="name under training/recipes, or a .toml file")
    parser.add_argument(
        "--data",
        default="",
        metavar="SPEC",
        help="what to train on: digits, shapes, folder:PATH, shards:PATH or tfds:NAME (default: what the recipe says)",
    )
    parser.add_argument("--out", type=Path, help="folder of the run: state, history, curves and the model")
    parser.add_argument(
        "--start-from", default="", metavar="DIR|PRESET", help="begin with this model's weights, not with fresh ones"
    )
    parser.add_argument(
        "--strategy",
        default="auto",
        choices=devices.STRATEGIES,
        help="auto: all machines of TF_CONFIG, else all GPUs there are, else one device, or --cpu-replicas",
    )
    parser.add_argument(
        "--cpu-replicas",
        type=int,
        default=1,
        metavar="N",
        help="without a GPU: N parts of every batch at once, at most one a core (default %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's saved state, if there is one")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, as TOML: batch_size=256 or augmentation.mixup=0; as often as need be",
    )
    parser.add_argument(
        "--remat",
        action="store_true",
        help="less memory, slower: what lies inside the blocks is computed twice, not kept (--set remat=true)",
    )
    parser.add_argument(
        "--save-minutes",
        type=float,
        default=SAVE_MINUTES,
        help="save the state so often, and after every epoch (default %(default)g)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same weights bit for bit, run for run, on one machine; slower on GPUs",
    )
    parser.add_argument(
        "--check-devices", action="store_true", help="train three steps on random images, say on which devices, and end"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="the recipe's [smoke] variant: about a minute, learns nothing"
    )
    options = parser.parse_args(arguments)
    if options.out is None and not options.check_devices:
        parser.error("the following arguments are required: --out")
    return options


def run(options: argparse.Namespace) -> str:
    """What the command does -> what it says in the end; raises what `main` turns into one line."""
    changes = [*options.set, "remat=true"] if options.remat else options.set
    recipe = load_recipe(options.recipe, options.smoke, changes)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = devices.make_strategy(options.strategy, options.cpu_replicas)
    if options.check_devices:
        from training.check_devices import check_devices

        return check_devices(recipe, strategy)
    data = options.data or recipe.data
    if not data:
        raise ValueError(f"recipe {options.recipe} names no data of its own; add --data SPEC")
    if not options.save_minutes > 0:
        raise ValueError(f"--save-minutes is {options.save_minutes:g}; it must be above 0")
    train(recipe, data, options.out, strategy, options.resume, options.start_from, options.save_minutes)
    if not devices.is_chief(strategy):
        return "trained; the first machine saves the model"
    return f"model saved in {options.out / MODEL}"


def begin_anew(arguments: Sequence[str]) -> None:
    """Replaces this process by one that goes on from the saved state and waits for the machine that was lost."""
    count = int(os.environ.get(RESTARTS, "0")) + 1
    if count > MOST_RESTARTS:
        print(f"training.train: given up after {MOST_RESTARTS} such losses; add --resume to go on", file=sys.stderr)
        return
    print("training.train: beginning anew from the saved state, as soon as it is back", file=sys.stderr)
    os.environ[RESTARTS] = str(count)
    sys.stdout.flush()
    resumed = [*arguments] if "--resume" in arguments else [*arguments, "--resume"]
    os.execv(sys.executable, [sys.executable, "-m", "training.train", *resumed])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad input is one line on stderr and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    try:
        print(run(options))
    except Stopped as stopped:
        print(f"training.train: {stopped}")
        return 0
    except (ValueError, OSError, Diverged) as error:
        print(f"training.train: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        print(
            f"training.train: the data cannot be read ({_plain(error)}); "
            "for shards, python -m training.shard --check says more",
            file=sys.stderr,
        )
        return BAD_INPUT
    except tf.errors.ResourceExhaustedError as error:
        print(
            f"training.train: out of memory ({_plain(error)}); --remat, half precision or a smaller batch_size "
            "needs less",
            file=sys.stderr,
        )
        return BAD_INPUT
    except LOST_MACHINE as error:
        print(f"training.train: another machine was lost ({type(error).__name__})", file=sys.stderr)
        begin_anew(arguments)
        return LOST
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _plain(error: tf.errors.OpError) -> str:
    """TensorFlow's own words, without where in the graph it was."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    return next((line for line in lines if line and not line.startswith(("Graph execution", "Detected at"))), "?")[:300]


if __name__ == "__main__":
    sys.exit(main())
