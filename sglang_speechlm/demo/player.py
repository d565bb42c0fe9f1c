"""Play a WAV if the machine has a player."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_PLAYERS = (
    ("paplay",),
    ("pw-play",),
    ("aplay", "-q"),
    ("play", "-q"),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
)
_PATIENCE_SECONDS = 30


def play(file: Path) -> bool:
    """Play ``file``; return whether a player was found and succeeded."""
    for command in _PLAYERS:
        if shutil.which(command[0]):
            try:
                played = subprocess.run(
                    [*command, str(file)], capture_output=True, check=False, timeout=_PATIENCE_SECONDS
                )
            except subprocess.TimeoutExpired:
                continue
            if played.returncode == 0:
                return True
    return False
