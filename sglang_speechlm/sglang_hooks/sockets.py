"""On which sockets SGLang's ranks meet and speak."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def stay_on_this_machine() -> None:
    """Have the ranks of a server that has one machine meet in a file, and speak over the loopback.

    Otherwise torch opens a store on every interface, which obeys whoever connects, and gloo and NCCL choose an
    interface. What the operator has set stays. Call this before the ranks are started: they inherit it.
    """
    meeting = Path(tempfile.mkdtemp(prefix="ranks-")) / "store"
    os.environ.setdefault("SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE", f"file://{meeting}")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
