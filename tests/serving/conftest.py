"""What the tests of serving share: two exported versions of a small cascade, and a server that has both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvt_tf import serving
from tests.cascades import small_cascade
from tests.serving.models import Alone, Exported
from tests.serving.running import ROOT, RunningServer, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The shared library has this name on Linux alone."""
    if not sys.platform.startswith("linux"):
        for item in items:
            if "serving" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="TensorFlow's C API is bound for Linux alone"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Two versions with different weights and thresholds."""
    folder = tmp_path_factory.mktemp("exported") / "dvt"
    models = {}
    for version, thresholds in ((1, [0.7, 0.55]), (2, [0.6, 0.65])):
        model = small_cascade(seed=version, depth=1)
        budgets = [
            {"gmacs": 5e-5, "top1": 0.5, "thresholds": [0.0, 0.0]},
            {"gmacs": 1.1e-4, "top1": 0.7, "thresholds": [0.65, 0.4]},
            {"gmacs": 1.3e-4, "top1": 0.7, "thresholds": [0.7, 0.5]},
            {"gmacs": 1.7e-4, "top1": 0.8, "thresholds": [0.9, 2.0]},
        ]
        promise = {"risk": "disagreement", "level": 0.01, "confidence": 0.95, "about": "new images"}
        model.card = {
            **model.card,
            "class_names": [f"clasß {i}" for i in range(7)],
            "thresholds": {"values": thresholds, "method": "", "data": "", "guarantee": promise},
            "budgets": {"points": budgets, "measure": "top1", "data": "scenes@calibration"},
        }
        assert serving.export(model, folder) == folder / str(version)
        models[version] = model
    return Exported(folder, models)


@pytest.fixture(scope="session")
def alone(exported: Exported) -> dict[int, Alone]:
    """Of each version, what it answers to a row alone."""
    return {version: Alone(model) for version, model in exported.models.items()}


@pytest.fixture(scope="session")
def models_config(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's, with the exported folder in it."""
    path = tmp_path_factory.mktemp("config") / "models.config"
    example = (ROOT / "examples" / "serving" / "models.config").read_text()
    path.write_text(example.replace("/models/dvt", str(exported.folder)))
    return path


@pytest.fixture(scope="session")
def server(models_config: Path) -> Iterator[RunningServer]:
    """Configured by the files in examples/serving."""
    batching = models_config.with_name("batching.config")
    example = (ROOT / "examples" / "serving" / "batching.config").read_text()
    # Long enough for what a test asks at a time to meet in one batch.
    assert "batch_timeout_micros { value: 2000 }" in example
    batching.write_text(example.replace("{ value: 2000 }", "{ value: 100000 }"))
    with running(
        models_config.with_name("log"),
        model_config_file=models_config,
        batching_parameters_file=batching,
        file_system_poll_wait_seconds=0.2,
    ) as started:
        yield started
