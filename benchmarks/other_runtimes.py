"""`python -m benchmarks.other_runtimes NAME FOLDER`: one runtime in a process of its own, for `benchmarks.runtimes`.

Every runtime has its own pool of threads, so each lives in its own process, and waits there until it is told to run.
Requests are lines of JSON on stdin, answers lines of JSON on stdout. TensorFlow is imported for our own forms alone.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from dvt_tf.exit_rule import NEVER
from dvt_tf.presets import CascadeConfig
from dvt_tf.processor import available_cores

OURS, EXPORT = "DVT-TF", "export"
PRECISIONS = ("float32", "bfloat16")
Run = Callable[[], np.ndarray]


class Form(NamedTuple):
    """One way to run a model.

    kind: what this runtime's ways are told apart by; the cascade is of kind `cascade`, all others are DeiT alone.
    precision: of the matmuls. prepare: images (B, S, S, 3) float32, and how many of them leave at each exit, which only
    the cascade looks at -> a run that gives (B, classes) float32: logits, or the cascade's probabilities.
    """

    kind: str
    precision: str
    prepare: Callable[[np.ndarray, Sequence[int]], Run]


class Work(NamedTuple):
    """What a process is given in a folder.

    config: config.json, the cascade; DeiT alone is the Transformer of its last token grid. weights: weights.npz, those
    of DeiT alone by published name, float32. Beside them, for every batch, images_B.npy (B, S, S, 3) and logits_B.npy
    (B, classes), what our plain layers say of them.
    """

    folder: Path
    config: CascadeConfig
    weights: Mapping[str, np.ndarray]
    threads: int

    @classmethod
    def read(cls, folder: Path) -> Work:
        """The work in a folder, with as many threads as there are cores that this process may use."""
        config = CascadeConfig.from_dict(json.loads((folder / "config.json").read_text()))
        with np.load(folder / "weights.npz") as arrays:
            return cls(folder, config, dict(arrays), available_cores())


def channels_first(images: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) -> (B, 3, S, S), as all but TensorFlow want them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def forcing(exits: Sequence[int]) -> np.ndarray:
    """Thresholds (B, K - 1) by which `exits[k]` of B images leave at exit k + 1, whatever they show."""
    places = np.repeat(np.arange(len(exits)), exits)[:, None]  # (B, 1)
    return np.where(np.arange(len(exits) - 1) < places, NEVER, 0.0).astype(np.float32)


def dvt_tf_forms(work: Work) -> list[Form]:
    """Ours, folded: DeiT alone, and the cascade."""
    import tensorflow as tf

    from dvt_tf.adaptive import AdaptiveClassifier
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.published import load_published_weights

    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    tf.config.threading.set_inter_op_parallelism_threads(work.threads)
    size, grids = work.config.image_size, work.config.token_grids
    cascade = DynamicVisionTransformer(work.config)  # untrained: time does not depend on the weights
    single = DynamicVisionTransformer(dataclasses.replace(work.config, token_grids=grids[-1:]))
    load_published_weights(single, work.weights)

    @functools.cache
    def folded(precision: str) -> Callable[[tf.Tensor], tf.Tensor]:
        form = single.optimized(precision)
        spec = tf.TensorSpec((None, size, size, 3), tf.float32)
        return tf.function(lambda images: form(images)["exit_1"], input_signature=[spec], autograph=False)

    def prepare_folded(precision: str, images: np.ndarray, exits: Sequence[int]) -> Run:
        graph, given = folded(precision), tf.constant(images)
        return lambda: graph(given).numpy()

    @functools.cache
    def adaptive(precision: str) -> AdaptiveClassifier:
        return AdaptiveClassifier(cascade, precision=precision)

    def prepare_adaptive(precision: str, images: np.ndarray, exits: Sequence[int]) -> Run:
        classifier, given, thresholds = adaptive(precision), tf.constant(images), forcing(exits)
        left = classifier(given, thresholds)["exit"].numpy()
        if np.bincount(left, minlength=1 + len(exits))[1:].tolist() != list(exits):
            raise RuntimeError(f"images left at exits {left.tolist()} and not as {list(exits)} says")
        return lambda: classifier(given, thresholds)["probabilities"].numpy()

    kinds = {"folded": prepare_folded, "cascade": prepare_adaptive}
    return [Form(kind, name, functools.partial(kinds[kind], name)) for kind in kinds for name in PRECISIONS]


def deit(config: CascadeConfig, weights: Mapping[str, np.ndarray]) -> Any:
    """DeiT alone as a `torch.nn.Module`: images (B, 3, S, S) -> logits (B, classes).

    It computes what timm's `deit_small_patch16_224` does, and its weights have the same names.
    """
    import torch
    from torch import nn

    dim, heads, grid = config.dim, config.num_heads, config.token_grids[-1]
    side = weights["patch_embed.proj.weight"].shape[-1]

    def norm() -> Any:
        return nn.LayerNorm(dim, config.norm_epsilon)

    def block() -> Any:
        attention = {"qkv": nn.Linear(dim, 3 * dim, bias=config.qkv_bias), "proj": nn.Linear(dim, dim)}
        mlp = {"fc1": nn.Linear(dim, config.mlp_dim), "fc2": nn.Linear(config.mlp_dim, dim)}
        parts = {"norm1": norm(), "attn": nn.ModuleDict(attention), "norm2": norm(), "mlp": nn.ModuleDict(mlp)}
        return nn.ModuleDict(parts)

    class DeiT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            padding = (grid * side - config.image_size) // 2
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, side, stride=side, padding=padding)})
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, dim))
            self.blocks = nn.ModuleList([block() for _ in range(config.depth)])
            self.norm = norm()
            self.head = nn.Linear(dim, config.num_classes)

        def forward(self, images: Any) -> Any:
            tokens = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), tokens], 1) + self.pos_embed
            for part in self.blocks:
                qkv = part["attn"]["qkv"](part["norm1"](tokens))
                qkv = qkv.reshape(-1, 1 + grid**2, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
                mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))  # (B, heads, N, width)
                tokens = tokens + part["attn"]["proj"](mixed.transpose(1, 2).reshape(-1, 1 + grid**2, dim))
                hidden = nn.functional.gelu(part["mlp"]["fc1"](part["norm2"](tokens)))
                tokens = tokens + part["mlp"]["fc2"](hidden)
            return self.head(self.norm(tokens)[:, 0])

    model = DeiT().eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model


def pytorch_forms(work: Work) -> list[Form]:
    """As it is, compiled, and compiled with the weights as constants; bfloat16 is autocast's."""
    import torch
    from torch._inductor import config as inductor

    torch.set_num_threads(work.threads)
    dynamo = importlib.import_module("torch._dynamo").config
    dynamo.recompile_limit, dynamo.fail_on_recompile_limit_hit = 256, True  # beyond it, it would run eagerly
    model = deit(work.config, work.weights)
    frozen = "compiled, frozen"
    kinds = {
        "eager": model,
        "compiled": torch.compile(model, dynamic=False),
        frozen: torch.compile(model, dynamic=False, options={"freezing": True}),
    }

    def prepare(kind: str, precision: str, images: np.ndarray, exits: Sequence[int]) -> Run:
        given, half = torch.from_numpy(channels_first(images)), precision == "bfloat16"

        def run() -> np.ndarray:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return kinds[kind](given).float().numpy()

        with inductor.patch(freezing=kind == frozen):  # the option alone comes too late for it
            run()
        return run

    return [Form(kind, name, functools.partial(prepare, kind, name)) for kind in kinds for name in PRECISIONS]


def onnx_runtime_forms(work: Work) -> list[Form]:
    """Its CPU provider, with all its graph optimisations; it has no bfloat16 there."""
    onnxruntime = importlib.import_module("onnxruntime")
    path = onnx_file(work)

    @functools.cache
    def session() -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = work.threads
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def prepare(images: np.ndarray, exits: Sequence[int]) -> Run:
        given = {"images": channels_first(images)}
        return lambda: session().run(None, given)[0]

    return [Form("", "float32", prepare)]


def openvino_forms(work: Work) -> list[Form]:
    """Told to compute in float32, and left to its own choice; compiled for each batch, which is the faster way."""
    openvino = importlib.import_module("openvino")
    path = onnx_file(work)
    core = openvino.Core()

    def prepare(hints: Mapping[str, str], images: np.ndarray, exits: Sequence[int]) -> Run:
        given, model = channels_first(images), core.read_model(path)
        model.reshape(given.shape)
        options = {"INFERENCE_NUM_THREADS": work.threads, "PERFORMANCE_HINT": "LATENCY", **hints}
        request = core.compile_model(model, "CPU", options).create_infer_request()
        return lambda: request.infer([given], share_inputs=True)[0]

    own = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return [
        Form("", "float32", functools.partial(prepare, {"INFERENCE_PRECISION_HINT": "f32"})),
        Form("by default", {"bf16": "bfloat16", "f32": "float32"}.get(own, own), functools.partial(prepare, {})),
    ]


def onnx_file(work: Work) -> Path:
    """DeiT alone as an ONNX file for any batch; where it is not there yet, PyTorch writes it in another process.

    Raises:
        ModuleNotFoundError: PyTorch or onnx, which its export needs, is not installed.
    """
    path = work.folder / "deit.onnx"
    if not path.is_file():
        for needed in ("torch", "onnx"):
            importlib.metadata.version(needed)  # found without importing it here
        subprocess.run([sys.executable, "-m", "benchmarks.other_runtimes", EXPORT, str(work.folder)], check=True)
    return path


def export(work: Work) -> None:
    """Writes the ONNX file."""
    import torch

    any_batch = {0: "batch"}
    torch.onnx.export(
        deit(work.config, work.weights),
        (torch.zeros(2, 3, work.config.image_size, work.config.image_size),),
        str(work.folder / "deit.onnx"),
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": any_batch, "logits": any_batch},
        opset_version=20,  # the first with GELU as one operation
        dynamo=False,  # the other exporter needs packages that need an ml_dtypes newer than TensorFlow 2.15's
    )


RUNTIMES: dict[str, tuple[str, Callable[[Work], list[Form]]]] = {
    OURS: ("tensorflow", dvt_tf_forms),
    "PyTorch": ("torch", pytorch_forms),
    "ONNX Runtime": ("onnxruntime", onnx_runtime_forms),
    "OpenVINO": ("openvino", openvino_forms),
}


def serve(name: str, folder: Path, answers: TextIO) -> None:
    """Answers what is asked on stdin until it ends.

    The first answer has the runtime's `version` and its `forms` (kind and precision), or what is `missing`. A request
    names a `form` by its place, a `batch` and the `exits`, and says how often to run (`repeats`); the answer has the
    `seconds` of that. 0 is to prepare it: the answer has the largest `difference` of a logit from what our plain layers
    say (of the cascade it says nothing), or the `error` it ended in.
    """

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    package, make = RUNTIMES[name]
    work = Work.read(folder)
    try:
        forms = make(work)
    except ImportError as error:
        return answer(missing=error.name)
    answer(version=importlib.metadata.version(package), forms=[form[:2] for form in forms])
    runs: dict[tuple[int, int, tuple[int, ...]], Run] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = request["form"], request["batch"], tuple(request["exits"])
        if request["repeats"]:
            start = time.perf_counter()
            for _ in range(request["repeats"]):
                runs[key]()
            answer(seconds=time.perf_counter() - start)
            continue
        try:
            runs[key] = forms[key[0]].prepare(np.load(folder / f"images_{key[1]}.npy"), key[2])
            logits = runs[key]()
        except Exception as error:  # noqa: BLE001 (a form that does not run here is left out, whatever the reason)
            answer(error=f"{type(error).__name__}: {error}".splitlines()[0])
        else:
            answer(difference=float(np.abs(logits - np.load(folder / f"logits_{key[1]}.npy")).max()))


def main() -> None:
    """See the file's first lines."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == EXPORT:
        return export(Work.read(folder))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        serve(name, folder, answers)


if __name__ == "__main__":
    main()
