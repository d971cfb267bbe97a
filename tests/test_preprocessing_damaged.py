"""Preprocessing of good and bad files together: no row that breaks or changes another, however it is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dvt_tf import preprocessing
from tests import images

CARD = images.card()


def crop(*contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    pixels, valid = preprocessing.decode_and_crop(list(contents), CARD)
    return pixels.numpy(), valid.numpy()


BAD_FILES = {
    "empty": b"",
    "one byte": b"\xff",
    "zeros": b"\0" * 100,
    "text": b"this is no image\n" * 20,
    "webp": images.file_bytes(images.picture(), "WEBP"),
    "tiff": images.file_bytes(images.picture(), "TIFF"),
    "jpeg magic": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 3,
    "png magic": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3,
    "bmp magic": b"BM" + bytes(range(256)) * 3,
    "gif magic": b"GIF89a" + bytes(range(1, 256)) * 3,
    "bmp of 1 bit": images.file_bytes(images.picture().convert("1"), "BMP"),
    "bmp index past its palette": images.file_bytes(images.picture().quantize(4), "BMP")[:-9] + b"\xee" * 9,
    "jpeg too large": images.declares("JPEG", 65_000, 65_000),
    "png too large": images.declares("PNG", 2**31 - 1, 2**31 - 1),
    "png just too large": images.declares("PNG", 8_001, 8_000),
    "bmp too large": images.declares("BMP", 40_000, 40_000),
    "bmp of the most negative height": images.declares("BMP", 40, -(2**31)),
    "gif too large": images.declares("GIF", 65_535, 65_535),
    "png of no width": images.declares("PNG", 0, 5),
    "bmp of no height": images.declares("BMP", 40, 0),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_row_is_zeros_and_invalid_and_alone(name: str) -> None:
    good = [images.file_bytes(images.picture(), "JPEG"), images.file_bytes(images.photo(), "PNG")]
    alone, _ = crop(*good)
    pixels, valid = crop(good[0], BAD_FILES[name], good[1])
    assert valid.tolist() == [True, False, True]
    np.testing.assert_array_equal(pixels[[0, 2]], alone)
    prepared, valid_too = preprocessing.preprocess([BAD_FILES[name]], CARD)
    assert not valid_too.numpy().any()
    assert not pixels[1].any()
    assert not prepared.numpy().any()


def test_a_batch_is_its_rows_one_by_one() -> None:
    contents = [*images.graph_files().values(), *BAD_FILES.values()]
    order = np.random.default_rng(5).permutation(len(contents))
    shuffled = [contents[i] for i in order]
    pixels, valid = crop(*shuffled)
    assert valid.sum() == len(images.graph_files())
    for row, file in enumerate(shuffled):
        alone, valid_alone = crop(file)
        assert valid_alone[0] == valid[row]
        np.testing.assert_array_equal(alone[0], pixels[row])


def test_no_rows() -> None:
    pixels, valid = crop()
    assert pixels.shape == (0, images.SIZE, images.SIZE, 3)
    assert valid.shape == (0,)


def test_the_limit_is_just_met() -> None:
    whole = images.file_bytes(Image.new("L", (8_000, 8_000), 77), "PNG")
    pixels, valid = crop(whole)
    assert valid.all()
    assert (pixels == 77).all()


FILES_TO_CUT = {
    kind: images.graph_files()[kind]
    for kind in ("jpeg", "jpeg progressive", "jpeg grey", "png", "png rgba", "bmp 24", "bmp palette", "gif")
}


@pytest.mark.parametrize("kind", FILES_TO_CUT)
def test_truncated_anywhere_is_invalid(kind: str) -> None:
    contents = FILES_TO_CUT[kind]
    ends = sorted({*range(60), *range(60, len(contents), 41), *range(len(contents) - 30, len(contents))})
    _, valid = crop(*[contents[:end] for end in ends])
    assert [end for end, good in zip(ends, valid, strict=True) if good] == []


@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(images.graph_files())),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    in_header=st.booleans(),
)
@example(kind="png", cut=1.0, damage=[], in_header=False)
def test_damaged_files_never_raise_nor_disturb(
    kind: str, cut: float | None, damage: list[tuple[float, int]], in_header: bool
) -> None:
    contents = bytearray(images.graph_files()[kind])
    for place, value in damage:
        contents[int(place * (min(len(contents), 80) if in_header else len(contents) - 1))] = value
    if cut is not None:
        del contents[int(cut * len(contents)) :]
    good = images.graph_files()["png"]
    pixels, valid = crop(bytes(contents), good, bytes(contents)[::-1])
    assert valid[1]
    np.testing.assert_array_equal(pixels[1], crop(images.graph_files()["png"])[0][0])
    assert np.isfinite(pixels).all()
    assert not pixels[~valid].any()


@pytest.mark.long
def test_the_same_inside_a_function_a_data_set_and_a_saved_model(tmp_path: Path) -> None:
    contents = [*images.graph_files().values(), *BAD_FILES.values()]
    expected, expected_valid = preprocessing.preprocess(contents, CARD)

    class Server(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def preprocess(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            prepared, valid = preprocessing.preprocess(image_bytes, CARD)
            return {"images": prepared, "valid": valid}

    server = Server()
    tf.saved_model.save(server, tmp_path / "saved", signatures={"serving_default": server.preprocess})
    loaded = tf.saved_model.load(tmp_path / "saved")
    for run in (server.preprocess, loaded.preprocess, loaded.signatures["serving_default"]):
        result = run(image_bytes=tf.constant(contents))
        np.testing.assert_array_equal(result["images"], expected)
        np.testing.assert_array_equal(result["valid"], expected_valid)
        assert run(image_bytes=tf.constant([], tf.string))["images"].shape == (0, images.SIZE, images.SIZE, 3)

    batches = tf.data.Dataset.from_tensor_slices(contents).batch(7)
    batches = batches.map(lambda batch: preprocessing.preprocess(batch, CARD), num_parallel_calls=2)
    assert batches.element_spec[0].shape.as_list() == [None, images.SIZE, images.SIZE, 3]
    parts = list(batches.as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), expected)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), expected_valid)


def test_few_images_without_a_graph_are_the_same() -> None:
    """The first calls of few images are eager: every file, good or bad, gives there what it gives in the graph."""
    mine = preprocessing.PreprocessingSettings.from_card(CARD)
    function = preprocessing._decode_and_crop_function(mine)
    good = list(images.graph_files().values())
    bad = [
        b"",
        b"no image",
        *(file[: len(file) // 2] for file in good[:3]),
        images.file_bytes(images.picture(), "WEBP"),
    ]
    everything = tf.constant([*good, *bad])
    for some in (everything, everything[:1], everything[:0]):
        for eager, traced in zip(preprocessing._decode_few(some, mine), function.graph(some), strict=True):
            np.testing.assert_array_equal(eager, traced)
            assert eager.dtype == traced.dtype
    assert preprocessing._decode_few(everything, mine)[1].numpy().tolist() == [True] * len(good) + [False] * len(bad)
