"""The sockets of SGLang's ranks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def stay_on_this_machine() -> None:
    """Make the ranks of a single-machine server meet in a file and communicate over the loopback.

    Otherwise torch opens a store on every interface, which obeys any client, and gloo and NCCL choose an interface.
    Values that the operator has set are kept. Call this before the ranks are started: they inherit it.
    """
    meeting = Path(tempfile.mkdtemp(prefix="ranks-")) / "store"
    os.environ.setdefault("SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE", f"file://{meeting}")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
