"""Optimizers: real update steps against NumPy, who decays, body and head rates, what is frozen, and their state."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from dvt_tf.checkpoints import named_weights, state_of
from tests.cascades import TOKENS_TO_TOKEN, random_images, small_cascade
from training.objective import CascadeTrainer, compile_trainer, frozen_weights
from training.optimizers import decays, make_optimizer, of_a_head, optimizer_variables
from training.recipe import Recipe, load_recipe
from training.schedule import Plan
from training.shadow import ShadowWeights
from training.state import Progress, load_state, save_state

KINDS: dict[str, dict[str, Any]] = {
    "patch": {"token_grids": (2, 3), "depth": 1},
    "tokens_to_token": {**TOKENS_TO_TOKEN, "depth": 1},
}
RECIPE = Recipe(
    "x",
    epochs=4,
    batch_size=4,
    steps_per_epoch=2,
    learning_rate=0.05,
    final_learning_rate=0.01,
    weight_decay=0.02,
    momentum=0.9,
    beta_2=0.999,
    epsilon=1e-6,
    clip_norm=0.0,
)
CIFAR = dataclasses.replace(
    RECIPE,
    optimizer="sgd",
    step_every="epoch",
    body_learning_rate_scale=0.1,
    final_learning_rate=2e-3,
    weight_decay=5e-4,
    weight_decay_of="all",
    frozen=("transformers.*.position.class_token", "transformers.*.norm"),
)


def trainer_for(recipe: Recipe, kind: str = "patch") -> CascadeTrainer:
    policy = None if recipe.precision == "float32" else recipe.precision
    trainer = CascadeTrainer(small_cascade(dtype=policy, **KINDS[kind]), frozen=recipe.frozen, dtype=policy)
    trainer.build()
    compile_trainer(trainer, make_optimizer(recipe, trainer, Plan.of(recipe)), recipe)
    return trainer


def random_gradients(trainer: CascadeTrainer, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    trained = {id(weight) for weight in trainer.trainable_variables}
    return {
        name: random.standard_normal(tuple(weight.shape)).astype(np.float32)
        for name, weight in named_weights(trainer)
        if id(weight) in trained
    }


def apply(trainer: CascadeTrainer, gradients: dict[str, Any]) -> None:
    weights = dict(named_weights(trainer))
    pairs = [(tf.convert_to_tensor(gradient), weights[name]) for name, gradient in gradients.items()]
    trainer.optimizer.apply_gradients(pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_decay_spares_biases_norms_class_token_and_positions(kind: str) -> None:
    weights = dict(named_weights(small_cascade(**KINDS[kind])))
    spared = {name.rsplit(".", 1)[-1] for name, weight in weights.items() if not decays(name, weight)}
    decayed = {name.rsplit(".", 1)[-1] for name, weight in weights.items() if weight.trainable and decays(name, weight)}
    positions = {"positions"} if kind == "patch" else set()
    assert spared == {"bias", "beta", "gamma", "bias1", "bias2", "class_token"} | positions
    assert decayed == {"kernel", "kernel1", "kernel2"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decayed", ["matrices", "all"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_without_a_gradient_only_what_decays_moves(optimizer: str, decayed: str, kind: str) -> None:
    trainer = trainer_for(dataclasses.replace(RECIPE, optimizer=optimizer, weight_decay_of=decayed), kind)
    before = state_of(trainer)
    apply(trainer, {name: np.zeros_like(value) for name, value in random_gradients(trainer, 0).items()})
    after = state_of(trainer)
    for name, weight in named_weights(trainer):
        moved = weight.trainable and (decayed == "all" or decays(name, weight))
        assert np.any(after[name] != before[name]) == moved, name
        if moved and optimizer != "lamb":  # LAMB makes the decay, all that there is, as long as the weights
            np.testing.assert_allclose(after[name], before[name] * (1 - 0.05 * 0.02), rtol=1e-5, atol=1e-8)


def adamw_reference(weight: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float) -> np.ndarray:
    """Loshchilov and Hutter, 2019, but that Keras adds epsilon before the second moment is corrected for its start."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        weight = weight * (1 - rate * decay)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight = weight - rate * first / (1 - 0.9**step) / (np.sqrt(second) + 1e-6) * np.sqrt(1 - 0.999**step)
    return weight


def sgd_reference(weight: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float) -> np.ndarray:
    velocity = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        velocity = 0.9 * velocity + gradient + decay * weight
        weight = weight - rate * velocity
    return weight


def lamb_reference(weight: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float) -> np.ndarray:
    """You et al., 2020, algorithm 2; a weight without decay takes steps of the plain length."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        update = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-6) + decay * weight
        ratio = np.linalg.norm(weight) / np.linalg.norm(update) if decay else 1.0
        weight = weight - rate * ratio * update
    return weight


REFERENCES = {"adamw": adamw_reference, "sgd": sgd_reference, "lamb": lamb_reference}


@pytest.mark.parametrize("optimizer", REFERENCES)
def test_three_steps_are_those_of_the_published_formula(optimizer: str) -> None:
    trainer = trainer_for(dataclasses.replace(RECIPE, optimizer=optimizer))
    rates = [0.01 + 0.5 * (0.05 - 0.01) * (1 + np.cos(np.pi * step / 8)) for step in range(3)]
    before, gradients = state_of(trainer), [random_gradients(trainer, seed) for seed in range(3)]
    for gradient in gradients:
        apply(trainer, gradient)
    after = state_of(trainer)
    for name, weight in named_weights(trainer):
        decay = 0.02 if decays(name, weight) else 0.0
        expected = REFERENCES[optimizer](before[name], [gradient[name] for gradient in gradients], rates, decay)
        np.testing.assert_allclose(after[name], expected, rtol=2e-4, atol=2e-6, err_msg=name)
    assert int(trainer.optimizer.iterations) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_sgd_anneals_body_and_heads_to_one_rate_as_the_cifar_recipes_say(kind: str) -> None:
    trainer = trainer_for(CIFAR, kind)
    before, steps = state_of(trainer), 7  # of 4 epochs of 2 steps
    gradients = [random_gradients(trainer, seed) for seed in range(steps)]
    for gradient in gradients:
        apply(trainer, gradient)
    after = state_of(trainer)

    def annealed(peak: float) -> list[float]:
        return [2e-3 + 0.5 * (peak - 2e-3) * (1 + np.cos(np.pi * (step // 2) / 4)) for step in range(steps)]

    assert {name.split(".")[-2] for name in gradients[0] if of_a_head(name)} == {"head"}
    for name in gradients[0]:
        rates = annealed(0.05 if of_a_head(name) else 0.005)
        expected = sgd_reference(before[name], [gradient[name] for gradient in gradients], rates, 5e-4)
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    frozen = set(before) - set(gradients[0])
    for name in frozen:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    exits = trainer.cascade.num_exits
    trained = [name for name in frozen if "frequencies" not in name]  # those of the performers are never trained
    assert len(trained) == 3 * exits
    assert {name.split(".", 3)[-1] for name in trained} == {"position.class_token", "norm.gamma", "norm.beta"}


def test_clipping_is_by_the_norm_of_all_gradients_before_the_decay() -> None:
    trainer = trainer_for(dataclasses.replace(RECIPE, optimizer="sgd", clip_norm=0.5))
    before, gradients = state_of(trainer), random_gradients(trainer, 0)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    apply(trainer, gradients)
    after = state_of(trainer)
    for name, weight in named_weights(trainer):
        decay = 0.02 if decays(name, weight) else 0.0
        expected = sgd_reference(before[name], [gradients[name] * 0.5 / norm], [0.05], decay)
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_frozen_weights_have_no_state(optimizer: str) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, frozen=("transformers.0", "transformers.1.blocks.*.mlp"))
    trainer, free = trainer_for(recipe), trainer_for(dataclasses.replace(recipe, frozen=()))
    frozen = frozen_weights(trainer.cascade, recipe.frozen)
    assert all(name.startswith(("transformers.0.", "transformers.1.blocks.0.mlp.")) for name in frozen)
    slots = 1 if optimizer == "sgd" else 2
    missing = len(optimizer_variables(free.optimizer)) - len(optimizer_variables(trainer.optimizer))
    assert missing == slots * len(frozen)
    assert set(state_of(trainer)) == set(state_of(free))


@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "mixed_float16"), ("lamb", "float32")])
def test_fit_moves_what_is_not_frozen(optimizer: str, precision: str) -> None:
    trainer = trainer_for(dataclasses.replace(RECIPE, optimizer=optimizer, precision=precision, frozen=CIFAR.frozen))
    before = state_of(trainer)
    config = trainer.cascade.config
    wanted = {f"exit_{i + 1}": np.eye(config.num_classes, dtype=np.float32)[:4] for i in range(config.num_exits)}
    data = tf.data.Dataset.from_tensors((random_images(4), wanted)).repeat(2)
    assert np.isfinite(trainer.fit(data, epochs=1, verbose=0).history["loss"][-1])
    after = state_of(trainer)
    assert int(trainer.optimizer.iterations) in (1, 2)  # Keras 3 does not count a step whose gradients overflow
    for name in frozen_weights(trainer.cascade, CIFAR.frozen):
        np.testing.assert_array_equal(after[f"cascade.{name}"], before[f"cascade.{name}"], err_msg=name)
    for name in ("embedding.kernel", "blocks.0.attention.qkv.kernel", "blocks.0.mlp.fc2.bias", "head.kernel"):
        for exit_of in range(config.num_exits):
            whole = f"cascade.transformers.{exit_of}.{name}"
            assert np.all(np.isfinite(after[whole])), whole
            assert np.any(after[whole] != before[whole]), whole


def test_a_frozen_name_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'transformers.\*.norn' names no weight of this cascade; .*: transformers\."):
        trainer_for(dataclasses.replace(RECIPE, frozen=("transformers.*.norn",)))
    assert set(frozen_weights(small_cascade(), ("transformers.1.norm",))) == {
        "transformers.1.norm.gamma",
        "transformers.1.norm.beta",
    }


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_cifar_recipes_name_weights_that_there_are(name: str) -> None:
    recipe = load_recipe(name)
    trainer = trainer_for(dataclasses.replace(CIFAR, frozen=recipe.frozen), "tokens_to_token")
    assert len(trainer.frozen_ids) == 3 * trainer.cascade.num_exits


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_a_saved_state_goes_on_as_if_never_left(optimizer: str, precision: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(CIFAR, body_learning_rate_scale=0.1 if optimizer == "sgd" else 1.0)
    recipe = dataclasses.replace(recipe, optimizer=optimizer, precision=precision, weight_decay_of="matrices")
    trainer, again = trainer_for(recipe), trainer_for(recipe)
    gradients = [random_gradients(trainer, seed) for seed in range(4)]
    for gradient in gradients[:3]:
        apply(trainer, gradient)
    path = tmp_path / "state.safetensors"
    save_state(path, trainer, trainer.optimizer, {}, Progress(3), {})
    assert load_state(path, again, again.optimizer, {}) == (Progress(3), {})
    assert int(again.optimizer.iterations) == 3
    for one in (trainer, again):
        apply(one, gradients[3])
    found = state_of(again)
    for name, value in state_of(trainer).items():
        assert np.all(np.isfinite(value)), name
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    pairs = zip(optimizer_variables(trainer.optimizer), optimizer_variables(again.optimizer), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(other.numpy(), one.numpy())


def test_half_precision_keeps_its_loss_scale() -> None:
    recipe = dataclasses.replace(RECIPE, precision="mixed_float16")
    scaled, plain = trainer_for(recipe).optimizer, trainer_for(RECIPE).optimizer
    assert isinstance(scaled, keras.mixed_precision.LossScaleOptimizer)
    scales = [v for v in optimizer_variables(scaled) if len(v.shape) == 0 and v.numpy() == 2.0**15]
    assert len(scales) == 1
    assert len(optimizer_variables(scaled)) >= len(optimizer_variables(plain)) + 2


@pytest.mark.long
def test_a_gradient_that_is_infinite_on_one_replica_leaves_the_step_out() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        trainer = trainer_for(dataclasses.replace(RECIPE, precision="mixed_float16", clip_norm=1.0))
    before = state_of(trainer)
    gradients = {name: tf.constant(gradient) for name, gradient in random_gradients(trainer, 0).items()}

    def step(broken: int) -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        factor = tf.where(tf.equal(replica, broken), np.inf, 1.0)
        apply(trainer, {name: factor * gradient for name, gradient in gradients.items()})

    for replica in range(2):
        tf.function(lambda replica=replica: strategy.run(step, (replica,)))()
        for name, value in state_of(trainer).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    tf.function(lambda: strategy.run(step, (-1,)))()
    assert any(np.any(value != before[name]) for name, value in state_of(trainer).items())
    assert all(np.all(np.isfinite(value)) for value in state_of(trainer).values())


@pytest.mark.parametrize("optimizer", ["sgd", "lamb"])
def test_two_replicas_step_as_one(optimizer: str) -> None:
    recipe = CIFAR if optimizer == "sgd" else dataclasses.replace(RECIPE, optimizer="lamb")
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2
    # Collective operations of several strategies in one process take each other's for their own.
    strategy = tf.distribute.MirroredStrategy(
        [device.name for device in devices], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        mirrored = trainer_for(recipe)
    alone = trainer_for(recipe)

    def half_step(gradients: dict[str, tf.Tensor]) -> None:  # the replicas' gradients are added up
        apply(mirrored, {name: 0.5 * gradient for name, gradient in gradients.items()})

    @tf.function
    def step(gradients: dict[str, tf.Tensor]) -> None:
        strategy.run(half_step, (gradients,))

    for seed in range(3):
        gradients = random_gradients(alone, seed)
        apply(alone, gradients)
        step({name: tf.constant(gradient) for name, gradient in gradients.items()})
    found = state_of(mirrored)
    for name, value in state_of(alone).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("decay", "warmup", "kept"), [(0.9, False, 0.9), (0.9, True, 2 / 11), (0.0, False, 0.0)])
def test_shadow_weights_keep_what_the_recipe_says(decay: float, warmup: bool, kept: float) -> None:
    cascade = small_cascade(**KINDS["patch"])
    shadow, before = ShadowWeights(cascade, decay, warmup=warmup), state_of(cascade)
    for weight in cascade.trainable_weights:
        weight.assign(weight + 1.0)
    shadow.on_train_batch_end(0)
    for name, value in shadow.values().items():
        np.testing.assert_allclose(value, before[name] + 1.0 - kept, rtol=1e-5, atol=1e-6, err_msg=name)


def test_lamb_without_addons_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(keras.optimizers, "Lamb"):
        pytest.skip("this Keras has a LAMB of its own")
    monkeypatch.setitem(sys.modules, "tensorflow_addons.optimizers", None)
    with pytest.raises(ValueError, match="optimizer lamb needs TensorFlow Addons"):
        trainer_for(dataclasses.replace(RECIPE, optimizer="lamb"))
