"""Real early exit: the same answers as the full cascade, and no row computed further than it goes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.exit_rule import NEVER, route
from dvt_tf.vision_transformer import TransformerMath
from tests.cascades import TOKENS_TO_TOKEN, confidences_and_predictions, random_images, small_cascade


class Case(NamedTuple):
    """A classifier, 64 images, and what the full cascade says of them."""

    classifier: AdaptiveClassifier
    images: np.ndarray
    probabilities: np.ndarray  # (64, K, C)
    confidences: np.ndarray  # (64, K)
    medians: np.ndarray  # (K - 1,)


def make_case(grids: tuple[int, ...], **fields: Any) -> Case:
    model = small_cascade(head=3.0, **{**fields, "token_grids": grids})
    images = random_images(64, model.config.image_size)
    logits = model(images)
    probabilities = np.stack([tf.nn.softmax(value).numpy() for value in logits.values()], 1)
    confidences, predictions = confidences_and_predictions(logits)
    np.testing.assert_array_equal(predictions, probabilities.argmax(-1))
    np.testing.assert_allclose(confidences, probabilities.max(-1), atol=1e-6)
    return Case(AdaptiveClassifier(model), images, probabilities, confidences, np.median(confidences[:, :-1], 0))


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case((2, 3, 4))


def check(case: Case, count: int, thresholds: Any) -> np.ndarray:
    """Compares with the full cascade row by row, and the rows processed with the routing; returns the exits."""
    result, processed = case.classifier.trace(case.images[:count], thresholds)
    exits = result["exit"].numpy()
    confidences = case.confidences[:count]
    rows = np.broadcast_to(np.asarray(thresholds, np.float32), (count, case.confidences.shape[1] - 1))
    expected = route(confidences, rows)
    # A confidence within rounding of a threshold may leave at either.
    clear = (np.abs(confidences[:, :-1] - rows) > 1e-5).all(1)
    np.testing.assert_array_equal(exits[clear], expected[clear])
    own = case.probabilities[np.arange(count), exits - 1]
    np.testing.assert_allclose(result["probabilities"], own, atol=1e-5)
    np.testing.assert_allclose(result["confidence"], own.max(-1), atol=1e-5)
    costs = np.asarray(count_macs(case.classifier.model)) / 1e9
    np.testing.assert_allclose(result["gmacs"], costs[exits - 1], rtol=1e-6)
    assert processed.numpy().tolist() == [(exits > k).sum() for k in range(confidences.shape[1])]
    assert (result["exit"].dtype, result["gmacs"].dtype) == (tf.int32, tf.float32)
    assert (result["confidence"].dtype, result["probabilities"].dtype) == (tf.float32, tf.float32)
    return exits


@pytest.mark.parametrize("count", [0, 1, 7, 64])
@pytest.mark.parametrize("kind", ["at once", "never", "medians", "never then at once", "at once then never"])
def test_the_same_as_the_full_cascade_row_by_row(case: Case, count: int, kind: str) -> None:
    thresholds = {
        "at once": [0.0, 0.0],
        "never": [NEVER, NEVER],
        "medians": case.medians,
        "never then at once": [NEVER, 0.0],
        "at once then never": [0.0, NEVER],
    }[kind]
    exits = check(case, count, thresholds)
    assert exits.shape == (count,)
    if kind == "medians" and count == 64:
        assert set(exits) == {1, 2, 3}
    elif kind != "medians":
        only = {"at once": 1, "never": 3, "never then at once": 2, "at once then never": 1}[kind]
        assert set(exits) <= {only}


@given(
    count=st.integers(0, 64),
    seed=st.integers(0, 10_000),
    extremes=st.floats(0, 1),
)
@settings(max_examples=30)
def test_one_row_of_thresholds_per_image(case: Case, count: int, seed: int, extremes: float) -> None:
    random = np.random.default_rng(seed)
    rows = random.uniform(0.1, 1.0, (count, 2)).astype(np.float32)
    extreme = random.random((count, 2)) < extremes * 0.5
    rows = np.where(extreme, random.choice([0.0, 1.0, NEVER], (count, 2)), rows).astype(np.float32)
    check(case, count, rows)


def test_each_row_is_that_of_the_image_alone(case: Case) -> None:
    together = case.classifier(case.images[:7], case.medians)
    for i in range(7):
        alone = case.classifier(case.images[i : i + 1], case.medians)
        assert alone["exit"][0] == together["exit"][i]
        np.testing.assert_allclose(alone["probabilities"][0], together["probabilities"][i], atol=1e-5)


@pytest.mark.parametrize("grids", [(3,), (2, 4), (2, 3, 4, 5)])
def test_any_number_of_exits(grids: tuple[int, ...]) -> None:
    case = make_case(grids)
    exits = check(case, 16, case.medians)
    if len(grids) > 1:
        assert len(set(exits)) > 1
    check(case, 0, case.medians)


@pytest.mark.parametrize(
    "fields",
    [
        TOKENS_TO_TOKEN,
        {"feature_reuse": "none", "relationship_reuse": "none"},
        {"feature_reuse": "deep", "relationship_reuse": "shallow", "relationship_source": "deep"},
    ],
    ids=["tokens_to_token", "no reuse", "halves"],
)
def test_any_reuse_and_embedding(fields: dict[str, Any]) -> None:
    case = make_case(fields.get("token_grids", (2, 3, 4)), **fields)
    assert len(set(check(case, 16, case.medians))) > 1


def test_only_relationships_that_are_looked_at_are_handed_on() -> None:
    def used(**fields: Any) -> list[tuple[int, ...]]:
        return [
            tuple(transformer.used_blocks) for transformer in small_cascade(depth=4, **fields).optimized().transformers
        ]

    assert used() == [(), (0, 1, 2, 3), (0, 1, 2, 3)]
    assert used(relationship_source="deep") == [(), (2, 3), (2, 3)]
    assert used(relationship_reuse="none") == [(), (), ()]


def test_rows_that_split_in_bfloat16_are_as_if_none_left(case: Case) -> None:
    classifier = AdaptiveClassifier(case.classifier.model, precision="bfloat16")
    # The same graph, with all rows together up to each exit: no other fusion of operations rounds otherwise.
    rows = [tf.constant([[NEVER] * k + [0.0] * (2 - k)] * 64) for k in range(3)]
    graph = tf.function(classifier.classify, autograph=False)
    images = tf.constant(case.images)
    whole = np.stack([graph(images, given)[0]["probabilities"].numpy() for given in rows], 1)  # (64, K, C)
    medians = np.median(whole.max(-1)[:, :-1], 0).astype(np.float32)
    result = graph(images, tf.constant(np.tile(medians, (64, 1))))[0]
    exits = result["exit"].numpy()
    assert set(exits) == {1, 2, 3}
    np.testing.assert_allclose(result["probabilities"], whole[np.arange(64), exits - 1], atol=0.02)
    clear = (np.abs(whole.max(-1)[:, :-1] - medians) > 0.02).all(1)
    assert clear.sum() > 40
    np.testing.assert_array_equal(exits[clear], route(whole.max(-1), medians)[clear])


def test_no_transformer_runs_for_rows_that_left(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted where the work is done, not where it is reported.
    ran: list[tuple[int, int]] = []
    original = TransformerMath.run

    def counted(self: TransformerMath, images: Any, upstream: Any, seed: Any) -> Any:
        tf.py_function(lambda rows: ran.append((self.index + 1, int(rows))), [tf.shape(images)[0]], [])
        return original(self, images, upstream, seed)

    monkeypatch.setattr(TransformerMath, "run", counted)
    classifier = AdaptiveClassifier(small_cascade(head=3.0))

    def runs(count: int, thresholds: Any) -> list[tuple[int, int]]:
        ran.clear()
        classifier(case.images[:count], thresholds)
        return sorted(ran)

    exits = route(case.confidences, case.medians)
    expected = [(1, 64), (2, int((exits > 1).sum())), (3, int((exits > 2).sum()))]
    assert 0 < expected[2][1] < expected[1][1] < 64
    assert runs(64, case.medians) == expected
    assert runs(64, [0.0, 0.0]) == [(1, 64)]
    assert runs(7, [NEVER, 0.0]) == [(1, 7), (2, 7)]
    assert runs(7, [NEVER, NEVER]) == [(1, 7), (2, 7), (3, 7)]
    assert runs(0, [NEVER, NEVER]) == []


def test_a_threshold_of_one_is_met_by_a_confidence_of_one() -> None:
    model = small_cascade()
    model.transformers[0].head.bias.assign([1000.0] + [0.0] * 6)
    classifier = AdaptiveClassifier(model, thresholds=[1.0, NEVER])
    result = classifier(random_images(3))
    assert result["confidence"].numpy().tolist() == [1.0] * 3
    assert result["exit"].numpy().tolist() == [1] * 3
    # Above one is never, even then.
    assert classifier(random_images(3), [1.5, NEVER])["exit"].numpy().tolist() == [3] * 3
    assert classifier(random_images(3), [NEVER, NEVER])["exit"].numpy().tolist() == [3] * 3


def test_in_a_graph_what_is_no_threshold_means_never(case: Case) -> None:
    rows = tf.constant([[np.nan, np.nan], [-1.0, 0.0], [0.0, np.nan], [np.inf, -np.inf]], tf.float32)
    result, processed = tf.function(case.classifier.classify)(tf.constant(case.images[:4]), rows)
    assert result["exit"].numpy().tolist() == [3, 2, 1, 3]
    assert processed.numpy().tolist() == [4, 3, 2]


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([np.nan, 0.5], "finite"),
        ([-0.5, 0.5], "at least 0"),
        ([0.5], "3 exits"),
        ([[0.5, 0.5]] * 3, "3 rows of thresholds were given for 2 images"),
        (tf.constant([[0.5, np.nan]] * 2), "finite"),
    ],
)
def test_bad_thresholds_are_refused(case: Case, thresholds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case.classifier(case.images[:2], thresholds)


def test_bad_thresholds_of_its_own_are_refused(case: Case) -> None:
    for thresholds, message in (([np.nan, 0.5], "finite"), ([0.5], "3 exits"), ([[0.5, 0.5]], "own thresholds")):
        with pytest.raises(ValueError, match=message):
            AdaptiveClassifier(case.classifier.model, thresholds)


@pytest.mark.parametrize("shape", [(28, 28, 3), (1, 27, 28, 3), (1, 28, 28, 1)])
def test_images_of_another_shape_are_refused(case: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \(batch, 28, 28, 3\)"):
        case.classifier(np.zeros(shape, np.float32))


def test_thresholds_may_be_lists_arrays_or_tensors(case: Case) -> None:
    expected = case.classifier(case.images[:8], case.medians)["exit"].numpy()
    for thresholds in (case.medians.tolist(), tf.constant(case.medians), np.tile(case.medians, (8, 1))):
        np.testing.assert_array_equal(case.classifier(case.images[:8], thresholds)["exit"], expected)


def test_by_default_the_thresholds_are_the_cards(case: Case, tmp_path: Any) -> None:
    model = small_cascade(head=3.0)
    model.card["thresholds"] = {"values": [float(value) for value in case.medians], "method": "medians", "data": ""}
    model.save_to_preset(tmp_path / "model")
    classifier = AdaptiveClassifier.from_preset(tmp_path / "model")
    np.testing.assert_allclose(classifier.thresholds, case.medians)
    assert (classifier.num_exits, classifier.card["thresholds"]["method"]) == (3, "medians")
    expected = case.classifier(case.images, case.medians)
    np.testing.assert_array_equal(classifier(case.images)["exit"], expected["exit"])
    np.testing.assert_allclose(classifier.gmacs, np.asarray(count_macs(model)) / 1e9)
    other = AdaptiveClassifier.from_preset(tmp_path / "model", thresholds=[0.0, 0.0])
    assert set(other(case.images)["exit"].numpy()) == {1}


def test_an_untrained_cascade_never_leaves_early() -> None:
    model = DynamicVisionTransformer(small_cascade().config)
    assert AdaptiveClassifier(model)(random_images(2))["exit"].numpy().tolist() == [3, 3]


def test_the_first_call_of_few_images_needs_no_graph(case: Case) -> None:
    classifier = AdaptiveClassifier(case.classifier.model, case.medians)
    at_once = classifier(case.images[:32])
    assert classifier._classify.graph.experimental_get_tracing_count() == 0
    later = classifier(case.images[:32])
    assert classifier._classify.graph.experimental_get_tracing_count() == 1
    np.testing.assert_array_equal(at_once["exit"], later["exit"])
    np.testing.assert_allclose(at_once["probabilities"], later["probabilities"], atol=1e-5)
    many = AdaptiveClassifier(case.classifier.model, case.medians)
    many(case.images)
    assert many._classify.graph.experimental_get_tracing_count() == 1


def test_one_graph_serves_every_batch_and_threshold(case: Case) -> None:
    for _ in range(2):
        case.classifier(case.images[:2])
    graph = case.classifier._classify.graph
    before = graph.experimental_get_tracing_count()
    for count in (0, 1, 5, 64):
        case.classifier(case.images[:count], case.medians)
    assert graph.experimental_get_tracing_count() == before == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_transformer_is_a_function_that_is_optimised_by_itself(precision: str) -> None:
    # Within a branch of a condition TensorFlow 2.15 would fuse no GELU into a matmul.
    classifier = AdaptiveClassifier(small_cascade(), precision=precision)
    functions = classifier._classify.graph.get_concrete_function().graph.as_graph_def().library.function
    apart = [function for function in functions if function.attr["_noinline"].b]
    softmaxes = [sum(node.op == "Softmax" for node in function.node_def) for function in apart]
    config = classifier.model.config
    assert sorted(softmaxes) == [config.depth + 1] * classifier.num_exits  # each block's, and its exit's


def test_the_weights_are_those_of_the_making() -> None:
    model, images = small_cascade(), random_images(2)
    classifier = AdaptiveClassifier(model, thresholds=[0.0, 0.0])
    before = classifier(images)["probabilities"].numpy()
    model.transformers[0].head.bias.assign(np.arange(7.0))
    np.testing.assert_allclose(classifier(images)["probabilities"], before, atol=1e-5)
    anew = AdaptiveClassifier(model, thresholds=[0.0, 0.0])
    assert np.abs(anew(images)["probabilities"] - before).max() > 1e-2


def test_the_precision_is_the_models_own_unless_told() -> None:
    assert AdaptiveClassifier(small_cascade()).form.precision == "float32"
    assert AdaptiveClassifier(small_cascade(dtype="mixed_bfloat16")).form.precision == "bfloat16"
    assert AdaptiveClassifier(small_cascade(), precision="bfloat16").form.precision == "bfloat16"
    with pytest.raises(ValueError, match="float32 or bfloat16, not 'half'"):
        AdaptiveClassifier(small_cascade(), precision="half")


def test_mixed_bfloat16_leaves_early_too() -> None:
    model = small_cascade(dtype="mixed_bfloat16", head=3.0)
    images = random_images(8)
    full = [tf.nn.softmax(value).numpy() for value in model(images).values()]
    result = AdaptiveClassifier(model, thresholds=[NEVER, 0.0])(images)
    np.testing.assert_allclose(result["probabilities"], full[1], atol=0.05)
    assert result["probabilities"].dtype == tf.float32
