"""From an image file to every exit: the same pixels and probabilities as the library gives."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dvt_tf
from app.inference import Predictor, drawn_bytes, load_all, uploaded_bytes
from app.routing import decide
from dvt_tf.image_files import ImageError
from tests.app.models import PETS, page_model


def test_probabilities_are_those_of_the_library(
    digits_folder: Path, digits_predictor: Predictor, picture: Path
) -> None:
    model = dvt_tf.DynamicVisionTransformer.from_preset(digits_folder)
    images, valid = dvt_tf.preprocess(tf.constant([picture.read_bytes()]), model.card)
    assert bool(valid[0])
    expected = [tf.nn.softmax(logits)[0].numpy() for logits in model(images).values()]
    analysis = digits_predictor.analyse(uploaded_bytes(str(picture)))
    np.testing.assert_allclose(analysis.probabilities, expected, atol=1e-5)
    assert analysis.pixels.shape == (112, 112, 3)
    assert analysis.pixels.dtype == np.uint8


def test_a_scene_of_the_models_own_size_is_seen_pixel_for_pixel(digits_predictor: Predictor) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    np.testing.assert_array_equal(digits_predictor.analyse(buffer.getvalue()).pixels, pixels)


def test_a_photo_is_seen_upright(digits_predictor: Predictor, tmp_path: Path) -> None:
    """The upper half is dark once the EXIF orientation (a quarter turn) is applied."""
    sideways = np.zeros((112, 112, 3), np.uint8)
    sideways[:, 56:] = 255
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned clockwise: the left half comes to the top
    path = tmp_path / "photo.jpg"
    Image.fromarray(sideways).save(path, quality=95, exif=exif)
    seen = digits_predictor.analyse(uploaded_bytes(str(path))).pixels
    assert seen[:50].mean() < 20
    assert seen[62:].mean() > 235


@pytest.mark.parametrize("suffix", ["webp", "tiff"])
def test_formats_the_graph_does_not_read_are_taken_too(
    digits_predictor: Predictor, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.new("RGB", (50, 70), (120, 120, 120)).save(path)
    assert np.abs(digits_predictor.analyse(uploaded_bytes(str(path))).pixels.astype(int) - 120).max() <= 3


def test_what_is_no_image_is_named_without_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("just words")
    with pytest.raises(ImageError, match=r"notes\.png") as caught:
        uploaded_bytes(str(path))
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ImageError, match=r"gone\.png.*upload it again"):
        uploaded_bytes(str(tmp_path / "gone.png"))


def test_a_drawing_is_a_png_data_url() -> None:
    assert drawn_bytes("data:image/png;base64," + base64.b64encode(b"abc").decode()) == b"abc"
    for broken in ("data:image/svg+xml;base64,AAAA", "file:///etc/passwd", "data:image/png;base64,***"):
        with pytest.raises(ImageError):
            drawn_bytes(broken)


def test_damaged_bytes_are_an_image_error(digits_predictor: Predictor) -> None:
    with pytest.raises(ImageError):
        digits_predictor.analyse(b"\x89PNG\r\n\x1a\n and no more")


def test_any_cascade_of_any_number_of_exits(picture: Path) -> None:
    for grids in ((4,), (2, 4), (2, 4, 7, 14)):
        predictor = Predictor(page_model(grids, PETS), "small")
        probabilities = predictor.analyse(picture.read_bytes()).probabilities
        assert np.shape(probabilities) == (len(grids), 2)
        np.testing.assert_allclose(np.sum(probabilities, axis=1), 1.0, atol=1e-6)
        assert not predictor.knows_digits


def test_times_are_measured_exit_by_exit(digits_predictor: Predictor, picture: Path) -> None:
    milliseconds = digits_predictor.analyse(picture.read_bytes()).milliseconds
    assert len(milliseconds) == 3
    assert 0 < milliseconds[0] < milliseconds[1] < milliseconds[2]


def test_a_batch_leaves_early_and_answers_as_every_exit_does(digits_predictor: Predictor, tmp_path: Path) -> None:
    files = []
    for seed in range(6):
        path = tmp_path / f"{seed}.png"
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)).save(path)
        files.append(path.read_bytes())
    each = [np.array(digits_predictor.analyse(file).probabilities) for file in files]
    first, second = (float(np.median([row[k].max() for row in each])) for k in (0, 1))
    answers = digits_predictor.classify([*files[:3], b"no image", *files[3:]], [first + 1e-4, second + 1e-4])
    assert answers.pop(3) is None
    for row, answer in zip(each, answers, strict=True):
        assert answer is not None
        found = decide(row.tolist(), [first + 1e-4, second + 1e-4], digits_predictor.gmacs)
        assert (answer["exit"], answer["label"]) == (found.exit, digits_predictor.class_names[found.label])
        assert answer["confidence"] == pytest.approx(found.confidence, abs=1e-5)
        assert answer["gmacs"] == found.gmacs
    assert len({answer["exit"] for answer in answers if answer}) > 1
    assert digits_predictor.classify([b"no image"], [0.5, 0.5]) == [None]


def test_weights_are_read_when_they_are_needed(tmp_path: Path, picture: Path) -> None:
    for name in ("first", "second"):
        page_model((2, 4), PETS).save_to_preset(tmp_path / name)
    first, second = load_all([str(tmp_path / "first"), str(tmp_path / "second")])
    assert (first.is_loaded, second.is_loaded) == (True, False)
    assert (second.num_exits, second.class_names, len(second.gmacs)) == (2, PETS, 2)
    second.analyse(picture.read_bytes())
    assert second.is_loaded
    (tmp_path / "third").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_all([str(tmp_path / "first"), str(tmp_path / "third")])


def test_models_of_one_folder_name_keep_their_whole_names(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        page_model((2, 4), PETS).save_to_preset(tmp_path / parent / "model")
    page_model((2, 4), PETS).save_to_preset(tmp_path / "other")
    folders = [str(tmp_path / part) for part in ("a/model", "b/model", "other")]
    assert [p.name for p in load_all(folders)] == [folders[0], folders[1], "other"]
