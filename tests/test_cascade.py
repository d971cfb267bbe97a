"""The cascade as a Keras model: every combination of reuse trains and saves, `fit`, `.keras` files, and presets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights, state_of
from dvt_tf.cost import count_macs, count_parameters
from dvt_tf.presets import CascadeConfig
from tests.cascades import TOKENS_TO_TOKEN, random_images, randomise, small_cascade, small_config

CHOICES = ("none", "shallow", "deep", "all")
COMBINATIONS = [
    *itertools.product(CHOICES, CHOICES[1:], CHOICES[1:]),
    *itertools.product(CHOICES, ["none"], ["all"]),  # without relationships their source says nothing
]
# Tokens-to-token changes what enters the first block and nothing after it: each choice is taken, not each combination.
TOKENS_TO_TOKEN_COMBINATIONS = [
    ("none", "none", "all"),
    ("none", "deep", "shallow"),
    ("shallow", "none", "all"),
    ("shallow", "all", "deep"),
    ("deep", "shallow", "all"),
    ("all", "deep", "deep"),
    ("all", "all", "all"),
]
EMBEDDINGS: dict[str, dict[str, Any]] = {"patch": {}, "tokens_to_token": TOKENS_TO_TOKEN}


def out_of_reach(name: str, model: DynamicVisionTransformer) -> bool:
    """Weights that the architecture itself leaves without a gradient, in the published code too."""
    # One constant on all logits of a map: softmax does not see it.
    if name.endswith("relationship_reuse.bias2"):
        return True
    # Features for the last block of the last Transformer enter its patch tokens alone, and only its class token
    # is read.
    last = model.transformers[-1]
    return bool(
        last.feature_reuse
        and model.config.feature_reuse in ("deep", "all")
        and name.startswith(f"transformers.{model.num_exits - 1}.feature_reuse.{len(last.feature_reuse) - 1}.")
    )


def check_every_weight_learns(model: DynamicVisionTransformer) -> None:
    images, labels = tf.constant(random_images(3)), tf.constant([0, 1, 2])
    names = {name: weight for name, weight in named_weights(model) if weight.trainable}
    assert len(names) == len(model.trainable_weights)
    # Only the performers' random features are fixed.
    performers = 2 * model.num_exits if model.config.embedding == "tokens_to_token" else 0
    fixed = [name.split(".")[-1] for name, _ in named_weights(model) if name not in names]
    assert fixed == ["frequencies"] * performers
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.add_n(
            [tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, one)) for one in logits.values()]
        )
    variables = [weight if isinstance(weight, tf.Variable) else weight.value for weight in names.values()]
    gradients = dict(zip(names, tape.gradient(loss, variables)))
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    silent = [name for name, gradient in gradients.items() if np.abs(gradient).max() < 1e-7]
    assert [name for name in silent if not out_of_reach(name, model)] == []


def reuse_config(embedding: str, features: str, relationships: str, source: str) -> CascadeConfig:
    fields = {"feature_reuse": features, "relationship_reuse": relationships, "relationship_source": source}
    return small_config(**{"token_grids": (2, 3), **EMBEDDINGS[embedding]}, depth=3, dim=8, **fields)


@pytest.mark.parametrize(
    ("embedding", "features", "relationships", "source"),
    [
        *(("patch", *combination) for combination in COMBINATIONS),
        *(("tokens_to_token", *combination) for combination in TOKENS_TO_TOKEN_COMBINATIONS),
    ],
)
def test_every_combination_of_reuse(
    embedding: str, features: str, relationships: str, source: str, tmp_path: Path
) -> None:
    model = DynamicVisionTransformer(reuse_config(embedding, features, relationships, source))
    model.build()
    randomise(model)
    assert count_parameters(model.config) == model.count_params()
    check_every_weight_learns(model)
    model.save_to_preset(tmp_path / "model")
    again = DynamicVisionTransformer.from_preset(tmp_path / "model")
    assert again.config == model.config
    before, after = state_of(model), state_of(again)
    assert list(before) == list(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_every_combination_of_reuse_has_a_cost_of_its_own(embedding: str) -> None:
    configs = [reuse_config(embedding, *combination) for combination in COMBINATIONS]
    macs = {tuple(count_macs(config)) for config in configs}
    assert len(macs) == len({count_parameters(config) for config in configs}) == len(COMBINATIONS)


@pytest.mark.parametrize("grids", [(3,), (2, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_any_number_of_exits(grids: tuple[int, ...], tmp_path: Path) -> None:
    model = small_cascade(token_grids=grids)
    check_every_weight_learns(model)
    images = random_images(2)
    logits = model(images)
    assert list(logits) == [f"exit_{k + 1}" for k in range(len(grids))]
    assert {(tuple(value.shape), value.dtype) for value in logits.values()} == {((2, 7), tf.float32)}
    model.save_to_preset(tmp_path / "model")
    again = DynamicVisionTransformer.from_preset(tmp_path / "model")
    assert again.num_exits == len(grids)
    assert len(again.card["thresholds"]["values"]) == len(grids) - 1
    for name, value in again(images).items():
        np.testing.assert_array_equal(value, logits[name])


def test_a_batch_is_its_images_one_by_one() -> None:
    model, images = small_cascade(), random_images(3)
    together = model(images)
    for i in range(3):
        for name, value in model(images[i : i + 1]).items():
            np.testing.assert_allclose(value[0], together[name][i], atol=1e-5)
    assert {tuple(value.shape) for value in model(images[:0]).values()} == {(0, 7)}


def test_exits_of_random_weights_disagree() -> None:
    # What the other tests rest on: three exits that say different things.
    logits = small_cascade()(random_images(16))
    for a, b in itertools.combinations(logits.values(), 2):
        assert np.abs(a - b).max() > 0.5


@pytest.mark.parametrize("shape", [(1, 27, 28, 3), (1, 28, 28, 1), (28, 28, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \(batch, 28, 28, 3\), not"):
        small_cascade().run(tf.zeros(shape))


def compiled(model: DynamicVisionTransformer, eagerly: bool = False) -> DynamicVisionTransformer:
    exits = [f"exit_{k + 1}" for k in range(model.num_exits)]
    model.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss={name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in exits},
        metrics={name: ["accuracy"] for name in exits},
        run_eagerly=eagerly,
    )
    return model


def data_for(model: DynamicVisionTransformer) -> tf.data.Dataset:
    labels = np.arange(8) % 7
    targets = {f"exit_{k + 1}": labels for k in range(model.num_exits)}
    return tf.data.Dataset.from_tensor_slices((random_images(8), targets)).batch(4)


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [{"position_embedding": "learned"}, {"position_embedding": "sinusoid"}, TOKENS_TO_TOKEN],
    ids=["learned", "sinusoid", "tokens_to_token"],
)
def test_fit_trains_a_cascade_that_was_never_built_before(fields: dict[str, Any], tmp_path: Path) -> None:
    small = {"token_grids": (2, 3), "depth": 1}  # what costs is tracing, not computing
    model = compiled(DynamicVisionTransformer(small_config(drop_path_rate=0.2, **{**fields, **small})))
    history = model.fit(data_for(model), epochs=1, verbose=0).history
    last = f"exit_{model.num_exits}"
    assert np.isfinite(history["loss"][0])
    assert any(last in name and "accuracy" in name for name in history)
    # After training in a graph it still computes eagerly, in another graph, and after being saved.
    images = random_images(2)
    logits = model(images)
    np.testing.assert_allclose(tf.function(model)(tf.constant(images))[last], logits[last], atol=1e-5)
    model.save_to_preset(tmp_path / "model")
    again = DynamicVisionTransformer.from_preset(tmp_path / "model")
    np.testing.assert_array_equal(again(images)[last], logits[last])


def test_fit_changes_every_weight_it_can() -> None:
    model = compiled(small_cascade(), eagerly=True)
    before = state_of(model)
    model.fit(data_for(model), epochs=1, verbose=0)
    after = state_of(model)
    same = [name for name in before if np.array_equal(before[name], after[name])]
    assert [name for name in same if not out_of_reach(name, model)] == []


def test_fit_is_the_same_for_the_same_seed_and_not_for_another() -> None:
    def trained(seed: int) -> np.ndarray:
        model = DynamicVisionTransformer(small_config(token_grids=(2, 3), drop_path_rate=0.8), seed=seed)
        model.build()
        compiled(randomise(model), eagerly=True).fit(data_for(model), shuffle=False, epochs=1, verbose=0)
        return model(random_images(2))["exit_2"].numpy()

    first = trained(3)
    np.testing.assert_allclose(trained(3), first, atol=1e-6)
    assert np.abs(trained(4) - first).max() > 1e-3


def test_stochastic_depth_is_in_training_alone() -> None:
    model, images = small_cascade(drop_path_rate=0.9), random_images(16)
    plain = small_cascade(drop_path_rate=0.0)(images)
    np.testing.assert_array_equal(model(images)["exit_3"], plain["exit_3"])
    np.testing.assert_array_equal(model(images, training=False)["exit_3"], plain["exit_3"])
    assert np.abs(model(images, training=True)["exit_3"] - plain["exit_3"]).max() > 1e-2
    drawn = model(images, training=True, seed=tf.constant([1, 2]))["exit_3"]
    np.testing.assert_array_equal(model(images, training=True, seed=tf.constant([1, 2]))["exit_3"], drawn)
    assert np.abs(model(images, training=True, seed=tf.constant([1, 3]))["exit_3"] - drawn).max() > 1e-2


def test_dropout_in_the_performers_is_drawn_from_the_seed_and_the_step() -> None:
    images = random_images(4)
    model = small_cascade(performer_dropout_rate=0.1, drop_path_rate=0.0, **TOKENS_TO_TOKEN)
    plain = small_cascade(performer_dropout_rate=0.0, drop_path_rate=0.0, **TOKENS_TO_TOKEN)(images)
    optimizer = keras.optimizers.SGD()

    def trained(seed: int, step: int) -> dict[str, np.ndarray]:
        model.seed = seed
        optimizer.iterations.assign(step)
        logits = model(images, training=True, seed=model.step_seed(optimizer))
        return {name: value.numpy() for name, value in logits.items()}

    first, second, later, other = trained(3, 5), trained(3, 5), trained(3, 6), trained(4, 5)
    for name, logits in plain.items():
        np.testing.assert_array_equal(model(images)[name], logits)
        np.testing.assert_array_equal(second[name], first[name])
        for drawn in (logits.numpy(), later[name], other[name]):
            assert np.abs(drawn - first[name]).max() > 1e-2


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
def test_a_keras_file_holds_the_model(dtype: Any, embedding: str, tmp_path: Path) -> None:
    model, images = small_cascade(dtype=dtype, **EMBEDDINGS[embedding]), random_images(2)
    model.card["class_names"][0] = "tench"
    expected = model(images)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, DynamicVisionTransformer)
    assert (again.config, again.card, again.compute_dtype) == (model.config, model.card, model.compute_dtype)
    for name, value in again(images).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_trained_model_goes_through_a_keras_file(tmp_path: Path) -> None:
    model = compiled(small_cascade(token_grids=(2, 3), depth=1))
    model.fit(data_for(model), epochs=1, verbose=0)
    expected = model.predict(random_images(2), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").predict(random_images(2), verbose=0)
    for name, value in again.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


def test_a_preset_without_weights_is_made_fresh_and_takes_other_fields() -> None:
    model = DynamicVisionTransformer.from_preset(
        "dvt_tiny_digits", load_weights=False, num_classes=3, token_grids=(4, 7), image_size=56, feature_reuse="deep"
    )
    assert (model.config.num_classes, model.config.token_grids, model.config.feature_reuse) == (3, (4, 7), "deep")
    assert model.config.dim == 96  # what was not named stays the preset's
    assert model.card["config"] == model.config.to_dict()
    assert len(model.card["class_names"]) == 3
    assert model.card["thresholds"]["values"] == [2.0]
    assert model.card["preprocessing"]["image_size"] == model.card["preprocessing"]["resize_short_side"] == 56


def test_the_card_of_a_preset_is_its_own() -> None:
    first = DynamicVisionTransformer.from_preset("dvt_tiny_digits", load_weights=False)
    first.card["preprocessing"]["mean"][0] = 99.0
    first.card["class_names"][0] = "zero"
    second = DynamicVisionTransformer.from_preset("dvt_tiny_digits", load_weights=False)
    assert second.card["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert second.card["class_names"] == list("0123456789")
    assert second.card["name"] == "dvt_tiny_digits"


def test_fresh_weights_in_the_shape_of_a_folder(tmp_path: Path) -> None:
    model = small_cascade()
    model.save_to_preset(tmp_path / "model")
    fresh = DynamicVisionTransformer.from_preset(tmp_path / "model", load_weights=False)
    assert fresh.config == model.config
    assert (
        np.abs(state_of(fresh)["transformers.0.head.kernel"] - state_of(model)["transformers.0.head.kernel"]).max() > 0
    )


def test_a_preset_with_no_bundled_weights_says_how_to_convert() -> None:
    with pytest.raises(ValueError, match=r"dvt convert CHECKPOINT.pth.tar --preset dvt_deit_small --out DIR"):
        DynamicVisionTransformer.from_preset("dvt_deit_small")


def test_an_unknown_name_or_field_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean dvt_tiny_digits"):
        DynamicVisionTransformer.from_preset("dvt_tiny_digit")
    with pytest.raises(ValueError, match=r"unknown configuration field widht"):
        DynamicVisionTransformer.from_preset("dvt_deit_small", load_weights=False, widht=3)


def test_a_bundled_model_keeps_its_card_where_an_override_changes_no_answer() -> None:
    own = DynamicVisionTransformer.from_preset("dvt_tiny_digits").card
    same = DynamicVisionTransformer.from_preset("dvt_tiny_digits", feature_reuse="all", drop_path_rate=0.2)
    assert same.config.drop_path_rate == 0.2
    assert {**same.card, "config": own["config"]} == own
    with pytest.raises(ValueError, match="does not fit this cascade"):
        DynamicVisionTransformer.from_preset("dvt_tiny_digits", feature_reuse="none")
