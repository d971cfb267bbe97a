"""Who waits for whom: the queues of the page's listeners and endpoints."""

from __future__ import annotations

from typing import Any

# One forward pass at a time uses the cores best.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
# Many files take minutes. They take the model anew for every batch, so that single images come in between.
BATCHES: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 2}
