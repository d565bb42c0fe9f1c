"""``python -m sglang_speechlm.fleet.router_process``: smg, with the key of its control plane in the environment.

Everybody on the machine could read it on the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

KEY_VARIABLE = "SGLANG_SPEECHLM_ROUTER_KEY"


def main(arguments: Sequence[str]) -> None:
    """Route until stopped."""
    from smg.launch_router import parse_router_args
    from smg.router import Router

    key = os.environ.pop(KEY_VARIABLE)
    options = parse_router_args([*arguments, "--control-plane-api-keys", f"front:front:admin:{key}"])
    Router.from_args(options).start()


if __name__ == "__main__":
    main(sys.argv[1:])
