"""A server with keys withstands the short form of ``make attack``."""

from pathlib import Path

from attack.__main__ import SHORT, attack


def test_the_short_attack_finds_no_failure(served_checkpoint: Path, tmp_path: Path) -> None:
    ledger = attack(served_checkpoint, tmp_path, ["single, keys"], SHORT, seed=1)
    assert not ledger.failures, ledger.table()
    assert sum(ledger.tried.values()) > 1000
