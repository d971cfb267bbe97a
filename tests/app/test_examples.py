"""The examples: genuine test scenes, chosen by what makes a scene easy or hard and by nothing else."""

import io

import numpy as np
from PIL import Image

from app.examples import EACH, SEARCHED, digit_examples
from dvt_tf.digits import digit_scenes


def test_examples_are_test_scenes_of_rising_difficulty() -> None:
    scenes = digit_scenes("test", size=SEARCHED)
    examples = digit_examples()
    assert [example.difficulty for example in examples] == ["easy"] * EACH + ["medium"] * EACH + ["hard"] * EACH
    assert len({example.label for example in examples}) == len(examples)
    for example in examples:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(example.png))), scenes.images[example.scene])
        assert str(scenes.labels[example.scene]) == example.label
    sizes = scenes.object_size[[example.scene for example in examples]].reshape(3, EACH)
    clutter = scenes.clutter[[example.scene for example in examples]].reshape(3, EACH)
    assert sizes[0].min() > sizes[1].max() > sizes[2].max()
    assert clutter[0].max() < clutter[1].min() <= clutter[1].max() < clutter[2].min()
