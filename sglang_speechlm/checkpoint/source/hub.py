"""Download the necessary files of a repository on the hub; interrupted downloads are resumed.

huggingface_hub's variables have their usual meaning: HF_HOME and HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT for mirrors,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sglang_speechlm.checkpoint.disk import Need, refuse_full_disk
from sglang_speechlm.config.files import CheckpointError

_TAG = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TORCH_SUFFIXES = (".pt", ".pth")
_TRIES = 8
_PAUSE_SECONDS = 1.0
_GIGABYTE = 1e9

Choose = Callable[[Sequence[str]], list[str]]
"""Selects the necessary files of a repository."""


def is_tag(name: str) -> bool:
    """Whether ``name`` may be a repository: OWNER/NAME, and not an existing path."""
    return _TAG.fullmatch(name) is not None and not Path(name).exists()


@dataclass(frozen=True)
class Remote:
    """The necessary files of one revision.

    Attributes:
        tag: OWNER/NAME.
        commit: the revision's commit.
        sizes: sizes in bytes, by file name.
        folder: the revision's folder in the cache.
    """

    tag: str
    commit: str
    sizes: dict[str, int]
    folder: Path

    @property
    def missing(self) -> dict[str, int]:
        """Return the files that are not in the cache yet."""
        return {name: size for name, size in self.sizes.items() if not (self.folder / name).is_file()}

    @property
    def description(self) -> str:
        """What is available and what must be downloaded, in words."""
        missing = self.missing
        sizes = f"{len(self.sizes)} files, {sum(self.sizes.values()) / _GIGABYTE:.2f} GB"
        state = (
            f"{len(missing)} to download, {sum(missing.values()) / _GIGABYTE:.2f} GB" if missing else "all downloaded"
        )
        return f"{self.tag} at {self.commit[:12]}: {sizes}; {state} ({self.folder})"

    def needs(self, conversions: Path | None) -> list[Need]:
        """Return the disk space needed to serve the files: for downloads, and for a conversion of about their size.

        Args:
            conversions: where conversions are kept; None if these files need none.
        """
        weights = sum(size for name, size in self.sizes.items() if name.endswith(_TORCH_SUFFIXES))
        needs = [Need(Path(constants.HF_HUB_CACHE), sum(self.missing.values()), "to download")]
        if conversions is not None and weights:
            needs.append(Need(conversions, weights, "to convert"))
        return needs


def choose_checkpoint(files: Sequence[str]) -> list[str]:
    """Select a checkpoint's files: the YAML files and the .pt, or the files of a served directory."""
    top = [name for name in files if "/" not in name]
    if "config.json" in top and any(name.endswith(".safetensors") for name in top):
        return [name for name in files if name.endswith((".json", ".safetensors")) and _is_served_file(name)]
    return [name for name in top if name.endswith((*_TORCH_SUFFIXES, ".yaml", ".yml"))]


def _is_served_file(name: str) -> bool:
    return "/" not in name or name.startswith("xcodec/")


def choose_tokenizer(files: Sequence[str]) -> list[str]:
    """Select a text model's files that a conversion reads, without weights."""
    return [name for name in ("tokenizer.json", "tokenizer_config.json", "config.json") if name in files]


def look_up(tag: str, revision: str | None, choose: Choose) -> Remote | None:
    """Look up a repository on the hub; return None without a connection, or if HF_HUB_OFFLINE forbids one.

    Raises:
        CheckpointError: if the hub has no such repository or revision, or denies access, or it has none of the
            necessary files.
    """
    at = f" at revision {revision}" if revision else ""
    try:
        info = HfApi().model_info(tag, revision=revision, files_metadata=True)
    except GatedRepoError as error:
        raise CheckpointError(f"{tag}: gated on the hub; accept its terms there and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{tag}: the hub has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{tag}: neither a local path nor a repository on the hub (or it is private)") from error
    except (OfflineModeIsEnabled, httpx.TransportError):
        return None
    except (HfHubHTTPError, ValueError) as error:
        raise CheckpointError(f"{tag}{at}: the hub answered: {str(error).splitlines()[0]}") from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    chosen = choose(list(sizes))
    if not chosen or info.sha is None:
        raise CheckpointError(f"{tag}{at}: no checkpoint or tokenizer files found")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{tag.replace('/', '--')}" / "snapshots" / info.sha
    return Remote(tag, info.sha, {name: sizes[name] for name in chosen}, folder)


def fetch(
    tag: str,
    revision: str | None,
    choose: Choose,
    log: Callable[[str], None],
    conversions: Path | None = None,
) -> Path:
    """Return the folder with the necessary files of a repository, after downloading those that are not in the cache.

    Args:
        tag: OWNER/NAME.
        revision: branch, tag or commit; None means the default branch.
        choose: selects the necessary files.
        log: called with sentences about the downloads and their disk space.
        conversions: where the files are converted afterwards, which needs disk space, too.

    Raises:
        CheckpointError: as for ``look_up``; if the disk is too full; or if the download fails repeatedly.
    """
    remote = look_up(tag, revision, choose)
    if remote is None:
        return _from_cache(tag, revision)
    missing = remote.missing
    if missing:
        log(remote.description)
        needs = remote.needs(conversions)
        log(f"disk: {' and '.join(need.description for need in needs)}")
        refuse_full_disk(*needs)
    for name in missing:
        _download(remote, name, log)
    _note_revision(remote, revision or constants.DEFAULT_REVISION)
    return remote.folder


def _note_revision(remote: Remote, revision: str) -> None:
    """Record the revision in the cache, as a download by name would, so that it is found offline.

    The files are downloaded by their commit, so that they belong together even if the revision moves meanwhile.
    """
    if revision != remote.commit:
        reference = remote.folder.parent.parent / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(remote.commit, encoding="utf-8")


def _from_cache(tag: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(tag, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise CheckpointError(
            f"{tag}: not in the cache ({constants.HF_HUB_CACHE}), and the hub cannot be reached "
            f"({constants.ENDPOINT}, or HF_HUB_OFFLINE is set)"
        ) from error


def _download(remote: Remote, name: str, log: Callable[[str], None]) -> None:
    for remaining in reversed(range(_TRIES)):
        try:
            hf_hub_download(remote.tag, name, revision=remote.commit)
            return
        except (HfHubHTTPError, httpx.TransportError, OSError) as error:
            if not _is_temporary(error):
                raise CheckpointError(f"{remote.tag}: {name}: {str(error).splitlines()[0]}") from error
            if not remaining:
                raise CheckpointError(
                    f"{remote.tag}: {name}: the download failed {_TRIES} times, last with: {error}; "
                    "run the same command again to resume"
                ) from error
            log(f"{name}: the download was interrupted ({str(error) or type(error).__name__}); resuming")
            time.sleep(_PAUSE_SECONDS)


def _is_temporary(error: Exception) -> bool:
    """Whether the error is a temporary one of the network or the hub, rather than of the disk or the request."""
    if isinstance(error, LocalEntryNotFoundError | httpx.TransportError | ConnectionError):
        return True
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, OSError) and error.errno is None  # huggingface_hub's own error for a wrong size
