"""Free disk space is checked before anything is written."""

import shutil
from pathlib import Path

import pytest

from sglang_speechlm.checkpoint.disk import Need, refuse_full_disk
from sglang_speechlm.config.files import CheckpointError


@pytest.fixture
def most(tmp_path: Path) -> int:
    """More than half of the free bytes."""
    return int(shutil.disk_usage(tmp_path).free * 0.7)


def test_a_need_that_fits_is_accepted(tmp_path: Path, most: int) -> None:
    refuse_full_disk(Need(tmp_path / "new" / "folder", most, "to convert"))


def test_needs_on_one_disk_are_added(tmp_path: Path, most: int) -> None:
    download, conversion = Need(tmp_path / "hub", most, "to download"), Need(tmp_path / "x", most, "to convert")
    refuse_full_disk(download)
    with pytest.raises(
        CheckpointError, match=r"not enough disk space: .* GB to download \(.*hub\) and .* GB to convert"
    ):
        refuse_full_disk(download, conversion)
    assert not list(tmp_path.iterdir())
