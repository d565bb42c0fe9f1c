"""``sglang serve``: entry point of group ``sglang.serve_backends``, so that it also starts this package's server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sglang.cli.serve_backends import SERVE_BACKEND_API_VERSION, ServeBackend, ServeBackendDetection, ServeRequest

from sglang_speechlm.config import MODEL_TYPES


def serve_backend() -> ServeBackend:
    """Return what ``sglang serve --model-type speechlm`` runs, and without the option for a served directory."""
    return ServeBackend(api_version=SERVE_BACKEND_API_VERSION, run=_become_launcher, detect=_detect)


def _become_launcher(request: ServeRequest) -> None:
    """Replace this process with the launcher, which must fork before it imports SGLang; this one has imported it."""
    os.execv(sys.executable, [sys.executable, "-m", "sglang_speechlm.launch", *request.argv])


def _detect(request: ServeRequest) -> ServeBackendDetection:
    """Look into the config of a local directory; a checkpoint that must be converted is not recognised."""
    try:
        config = json.loads((Path(request.model_path or "") / "config.json").read_bytes())
        is_speechlm = config["model_type"] in MODEL_TYPES
    except (OSError, ValueError, KeyError, TypeError):
        return ServeBackendDetection.UNKNOWN
    return ServeBackendDetection.MATCH if is_speechlm else ServeBackendDetection.NO_MATCH
