"""Data sets of TensorFlow Datasets, which is optional: their builders, and their examples undecoded."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def builder_of(name: str) -> Any:
    """TFDS's builder of that name; raises ValueError in plain words where there is none, or no TFDS."""
    try:
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(name)
        except AssertionError as error:  # what it says of a version that there is not
            raise ValueError(f"tfds:{name}: {' '.join(str(error).split())}") from error
        except tfds.core.DatasetNotFoundError:
            raise ValueError(f"tfds:{name}: TensorFlow Datasets has no data set of that name") from None
    except ImportError as error:  # it imports some of what it needs only when it comes to need it
        package = (error.name or "tensorflow_datasets").split(".")[0]
        raise ValueError(f"tfds:{name} needs {package}: pip install tensorflow-datasets importlib_resources") from None


def prepared_builder(name: str) -> Any:
    """The same with its files in place; raises ValueError in plain words where they cannot be had."""
    builder = builder_of(name)
    import tensorflow_datasets as tfds

    downloads = tfds.download.download_manager
    faults = (AssertionError, downloads.NonMatchingChecksumError, tfds.core.download.DownloadError)
    try:
        builder.download_and_prepare()
    except faults as error:
        raise ValueError(f"tfds:{name}: {' '.join(str(error).split())}") from error
    return builder


def keys_of(builder: Any, name: str) -> tuple[str, str]:
    """The keys of a data set's image and of its label, which is a class; raises ValueError where there are none."""
    keys = builder.info.supervised_keys
    features = builder.info.features
    if not keys or not set(keys) <= set(features) or not hasattr(features[keys[1]], "names"):
        raise ValueError(f"tfds:{name} is no set of images with one class label each")
    return keys[0], keys[1]


def examples_of(builder: Any, name: str, part: str) -> tf.data.Dataset:
    """(contents string, name string, class int32), scalars, of a part of a TFDS data set such as `train[:90%]`."""
    import tensorflow_datasets as tfds

    image_key, label_key = keys_of(builder, name)
    # Undecoded, so that its images take the same path as every other file; with ids, which place each in its split.
    examples = builder.as_dataset(
        split=part,
        shuffle_files=False,
        decoders={image_key: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1),
    )
    return examples.map(lambda example: (example[image_key], example["tfds_id"], tf.cast(example[label_key], tf.int32)))
