"""The published cascades, weight for weight: logits and intermediates against the published code's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import dvt_tf
from dvt_tf.vision_transformer import TransformerOutputs
from tests.parity import load_fixture, make_images, make_state

TOLERANCE = 5e-5
PUBLISHED = {"DVT_Deit_small": "dvt_deit_small", "DVT_T2t_vit_12": "dvt_t2t_vit_12"}


class Case(NamedTuple):
    """A fixture, the model with its weights, and what the model computes of both images."""

    model: dvt_tf.DynamicVisionTransformer
    description: dict[str, Any]
    published: dict[str, np.ndarray]
    images: np.ndarray
    outputs: list[TransformerOutputs]


@pytest.fixture(scope="module", params=list(PUBLISHED))
def case(request: pytest.FixtureRequest) -> Case:
    description, published = load_fixture(request.param)
    model = dvt_tf.DynamicVisionTransformer.from_preset(PUBLISHED[request.param], load_weights=False)
    dvt_tf.load_published_weights(model, make_state(description))
    images = make_images(description)
    return Case(model, description, published, images, model.run(tf.constant(images)))


def test_every_logit_of_every_exit_agrees(case: Case) -> None:
    for k, published in enumerate(case.published["logits"]):
        logits = case.outputs[k].logits
        np.testing.assert_allclose(logits, published, rtol=0, atol=TOLERANCE, err_msg=f"exit {k + 1}")


def test_every_logit_of_the_folded_inference_form_agrees(case: Case) -> None:
    folded = case.model.optimized()(tf.constant(case.images))
    for k, published in enumerate(case.published["logits"]):
        logits = folded[f"exit_{k + 1}"]
        np.testing.assert_allclose(logits, published, rtol=0, atol=TOLERANCE, err_msg=f"exit {k + 1}")
        np.testing.assert_allclose(logits, case.outputs[k].logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_tokens_after_the_patch_embedding_agree(case: Case, k: int) -> None:
    transformer = case.model.transformers[k]
    # what enters the first block, less the class token and the positions
    tokens = case.outputs[k].tokens.numpy()[:1, 1:5] - np.asarray(transformer.position.positions)[:, 1:5]
    np.testing.assert_allclose(tokens, case.published[f"exit{k + 1}_tokens"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_class_token_comes_first(case: Case, k: int) -> None:
    state = make_state({**case.description, "parameters": _entries(case.description, k)})
    expected = sum(value[:, 0] for value in state.values())  # the class token and position 0
    np.testing.assert_allclose(case.outputs[k].tokens.numpy()[:1, 0], expected, atol=1e-6)


def _entries(description: dict[str, Any], k: int) -> list[Any]:
    prefix = ("less_less_token", "less_token", "normal_token")[k]
    return [entry for entry in description["parameters"] if entry[0] in (f"{prefix}.cls_token", f"{prefix}.pos_embed")]


@pytest.mark.parametrize("k", [0, 1, 2])
def test_final_features_agree(case: Case, k: int) -> None:
    features = case.outputs[k].features.numpy()[:1, :4]
    np.testing.assert_allclose(features, case.published[f"exit{k + 1}_final_features"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize(("block", "name"), [(0, "first"), (-1, "last")])
def test_attention_logits_agree(case: Case, k: int, block: int, name: str) -> None:
    logits = case.outputs[k].relationships[block].numpy()[:1, :, :4, :8]
    published = case.published[f"exit{k + 1}_{name}_block_attention_logits"]
    np.testing.assert_allclose(logits, published, rtol=0, atol=TOLERANCE)


def test_calling_the_model_gives_the_exits_by_name(case: Case) -> None:
    logits = case.model(case.images[:1])
    assert list(logits) == ["exit_1", "exit_2", "exit_3"]
    for k, (name, values) in enumerate(logits.items()):
        assert values.dtype == tf.float32
        # A batch of one gives what the same image gave in a batch of two.
        np.testing.assert_allclose(values, case.outputs[k].logits[:1], rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(values, case.published["logits"][k, :1], rtol=0, atol=TOLERANCE)


def test_the_published_state_is_exactly_what_the_cascade_needs(case: Case) -> None:
    # A fixed table is stored there and computed here.
    entries = [shape for _, shape, kind in case.description["parameters"] if kind != "sinusoid"]
    total = sum(int(np.prod(shape)) for shape in entries)
    assert dvt_tf.count_parameters(case.model.config) == case.model.count_params() == total
