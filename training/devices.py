"""The devices of a run: which strategy, on how many replicas, and whether they all work."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from dvt_tf.processor import available_cores
from training.replicas import refuse_more_replicas

STRATEGIES = ("auto", "one", "mirrored", "multiworker")
_TASKS = ("chief", "worker")


def make_strategy(name: str, cpu_replicas: int = 1) -> tf.distribute.Strategy:
    """The distribution strategy of a run; one device is the small case of many.

    Args:
        name: `one` device; `mirrored` on all of this machine; `multiworker` on those of all machines that the
            environment variable TF_CONFIG names; `auto` for the one of these that fits what there is.
        cpu_replicas: without a GPU, into how many devices the processor is divided, each with a part of every batch. A
            small cascade gains more so than by threads within each operation.

    Raises:
        ValueError: several machines on Keras 3, or TF_CONFIG missing or not understood; more parts of the processor
            than cores, or parts where the strategy has no use for them.
        RuntimeError: the processor is to be divided, and TensorFlow has used it already.
    """
    if cpu_replicas != 1:
        _divide_cpu(cpu_replicas, name)
        name = "mirrored"
    if name == "multiworker" or (name == "auto" and len(_workers()) > 1):
        return _multiworker()
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def _divide_cpu(count: int, name: str) -> None:
    refuse_more_replicas(count, available_cores())
    if name not in ("auto", "mirrored") or len(_workers()) > 1:
        raise ValueError(f"--cpu-replicas {count} goes with one machine and --strategy auto or mirrored")
    if gpus := tf.config.list_physical_devices("GPU"):
        raise ValueError(f"--cpu-replicas {count}: there are GPUs ({len(gpus)}), which are used; leave it out")
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)


def _multiworker() -> tf.distribute.Strategy:
    keras_version = importlib.metadata.version("keras")
    if not keras_version.startswith("2."):
        raise ValueError(
            f"--strategy multiworker needs Keras 2.15 (Python 3.10 or 3.11): Keras {keras_version} does not train on "
            "several machines"
        )
    if not _workers():
        raise ValueError(
            "--strategy multiworker needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _workers() -> list[str]:
    """The addresses of the machines in TF_CONFIG; none where there is no such variable."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return []
    try:
        described = json.loads(text)
        cluster, task = described["cluster"], described["task"]
        if not 0 <= int(task["index"]) < len(cluster[task["type"]]) or task["type"] not in _TASKS:
            raise ValueError(f"task {task!r} is not in the cluster")
        return [address for kind in _TASKS for address in cluster.get(kind, ())]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"TF_CONFIG is not understood ({type(error).__name__}: {error}): {text}") from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this is the machine that saves and reports: the first, or the only one."""
    if not is_multiworker(strategy):
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_id == 0 and (resolver.task_type == "chief" or "chief" not in resolver.cluster_spec().jobs)


def is_multiworker(strategy: tf.distribute.Strategy) -> bool:
    """Whether other machines take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def distribute(
    strategy: tf.distribute.Strategy, batch_size: int, make_batches: Callable[[int, int], tf.data.Dataset]
) -> Any:
    """Training batches for `fit`, every one of them split evenly among all replicas.

    Args:
        make_batches: a part's number and how many parts there are -> that part of every batch.
    """
    if not is_multiworker(strategy):
        options = tf.data.Options()
        # Nothing is to be shared among machines, which TensorFlow would take seconds to find out.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return make_batches(0, 1).with_options(options)  # Keras splits it

    def own(context: tf.distribute.InputContext) -> tf.data.Dataset:
        batches = make_batches(context.input_pipeline_id, context.num_input_pipelines)
        return batches.rebatch(batch_size // context.num_replicas_in_sync)

    return strategy.distribute_datasets_from_function(own)


def refuse_different_steps(strategy: tf.distribute.Strategy, step: int) -> None:
    """Raises ValueError where the machines of a run would go on from different steps."""
    if not is_multiworker(strategy):
        return

    mean = _mean_over_machines(strategy)(float(step))
    if mean != step:
        raise ValueError(
            f"this machine would go on from step {step} and others from another (mean {mean:g}); they must all see the "
            "same --out"
        )


def on_any_machine(strategy: tf.distribute.Strategy) -> Callable[[bool], bool] | None:
    """Whether something holds on any machine of a run, to be asked by all of them at the same step; None for one."""
    if not is_multiworker(strategy):
        return None

    mean = _mean_over_machines(strategy)
    return lambda holds: mean(float(holds)) > 0


def _mean_over_machines(strategy: tf.distribute.Strategy) -> Callable[[float], float]:
    """A function of a number of each machine, which all of them have to call together."""

    @tf.function(autograph=False)
    def on_replica(value: tf.Tensor) -> tf.Tensor:
        # An argument lies on no device, and where to reduce to is told by the device.
        return tf.distribute.get_replica_context().all_reduce("MEAN", tf.identity(value))

    def mean(value: float) -> float:
        found = strategy.run(on_replica, args=(tf.constant(value),))
        return float(strategy.experimental_local_results(found)[0])

    return mean


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """One line: the strategy and the device of each replica on this machine."""
    devices = ", ".join(strategy.extended.worker_devices)
    count = strategy.num_replicas_in_sync
    return f"{type(strategy).__name__} of {count} replica{'s' if count > 1 else ''}: {devices}"
