"""What every test runs under: CPU only, two logical devices, a calm Hypothesis, a Chromium for the browser tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before TensorFlow is imported anywhere. Child processes of the tests inherit these.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import tensorflow as tf

# Two CPUs for the tests of tf.distribute; it can only be said before TensorFlow first runs anything.
_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

# Time per example depends on the machine and on tracing, so no deadline; in CI the same examples every time.
hypothesis.settings.register_profile("dvt", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
hypothesis.settings.load_profile("dvt")

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_CHROMIUM_ARGUMENTS = (
    "--no-sandbox",  # root in a container has no sandbox
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="session")
def require_browser() -> Path:
    """The Chromium of this machine; without one the test is skipped, or fails where `CI` is set."""
    for name in _CHROMIUM_NAMES:
        found = shutil.which(name)
        if found:
            return Path(found)
    message = f"no browser: none of {', '.join(_CHROMIUM_NAMES)} is on the PATH (Debian: apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser(require_browser: Path) -> Iterator[Any]:
    """A headless Chromium (Playwright's `Browser`); per module, since Playwright runs an event loop while it lives."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=require_browser, args=list(_CHROMIUM_ARGUMENTS))
        yield chromium
        chromium.close()
