"""What strangers try on a server with keys does not succeed: the short form of ``make attack``."""

from pathlib import Path

from attack.__main__ import SHORT, attack


def test_nothing_falls_in_the_short_attack(served_checkpoint: Path, tmp_path: Path) -> None:
    ledger = attack(served_checkpoint, tmp_path, ["single, keys"], SHORT, seed=1)
    assert not ledger.falls, ledger.table()
    assert sum(ledger.tried.values()) > 1000
