"""The demo plays its sounds with a player of this machine."""

from pathlib import Path

import pytest

from sglang_speechlm.demo.player import play


@pytest.mark.process
def test_sounds_are_played_by_the_first_working_player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played_path = tmp_path / "heard"
    for name, script in (("aplay", "exit 1"), ("play", f'printf "%s" "$2" > {played_path}')):
        player = tmp_path / name
        player.write_text(f"#!/bin/sh\n{script}\n")
        player.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert play(tmp_path / "some.wav")
    assert played_path.read_text() == str(tmp_path / "some.wav")


def test_without_a_player_nothing_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not play(tmp_path / "some.wav")
