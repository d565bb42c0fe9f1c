"""``--check``: report on a source, on its conversion and on every problem, without writing anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sglang_speechlm.checkpoint.convert import Conversion, plan_conversion
from sglang_speechlm.checkpoint.disk import refuse_full_disk
from sglang_speechlm.checkpoint.memory import describe_cards
from sglang_speechlm.checkpoint.prepare import Log, Wanted, cached_at, conversion_need, tokenizer_name
from sglang_speechlm.checkpoint.served import check_served, checkpoint_config, tokenizer_files
from sglang_speechlm.checkpoint.source import Source, find_source
from sglang_speechlm.checkpoint.source.hub import choose_checkpoint, choose_tokenizer, is_tag, look_up
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.files import CheckpointError
from sglang_speechlm.prompt.presets import load_preset

Value = TypeVar("Value")

_GIGABYTE = 1e9


def check(wanted: Wanted, log: Log) -> int:
    """Report on a source; return the exit status: 0 without problems, 2 with any."""
    problems: list[str] = []

    def attempt(action: Callable[[], Value]) -> Value | None:
        try:
            return action()
        except (ValueError, OSError) as error:
            problems.append(str(error))
            return None

    source = attempt(lambda: _locate(wanted, log))
    config = None
    if source is not None:
        log(source.description)
        for note in source.notes:
            log(f"note: {note}")
        if source.kind == "served":
            config = attempt(lambda: checkpoint_config(source.path))
            if config is not None:
                _check_parts(wanted, source.path, config, attempt)
        else:
            conversion = attempt(lambda: _plan(wanted, source, log))
            if conversion is not None:
                config = conversion.config
                attempt(lambda: _report_conversion(wanted, conversion, log))
    if config is not None:
        _report_config(config, log)
        for line in describe_cards(config):
            log(line)
    for problem in problems:
        log(f"problem: {problem}")
    if not problems:
        log("no problems found")
    return 2 if problems else 0


def _locate(wanted: Wanted, log: Log) -> Source | None:
    if not is_tag(wanted.model):
        return find_source(Path(wanted.model), wanted.train_config)
    remote = look_up(wanted.model, wanted.revision, choose_checkpoint)
    if remote is None:
        raise CheckpointError(f"{wanted.model}: the hub cannot be reached, so the files are unknown")
    log(remote.description)
    if remote.missing:
        for name, size in remote.missing.items():
            log(f"  to download: {name}, {size / _GIGABYTE:.2f} GB")
        needs = remote.needs(wanted.cache)
        log(f"disk: {' and '.join(need.description for need in needs)}")
        refuse_full_disk(*needs)
        return None
    return find_source(remote.folder, wanted.train_config)


def _check_parts(wanted: Wanted, directory: Path, config: SpeechLMConfig, attempt: Callable[..., Any]) -> None:
    """Check each part of a served directory besides its config, even if another part has a problem."""
    named = Path(wanted.tokenizer) if wanted.tokenizer else directory
    attempt(lambda: check_served(directory, config))
    attempt(lambda: tokenizer_files(named if named.is_dir() else directory, config))
    attempt(lambda: load_preset(None, directory))


def _plan(wanted: Wanted, source: Source, log: Log) -> Conversion:
    name = tokenizer_name(wanted, source)
    if name is None:
        raise CheckpointError("no tokenizer given: use --tokenizer-path DIR or a hub tag such as Qwen/Qwen3-8B-Base")
    directory = Path(name)
    if is_tag(name):
        remote = look_up(name, None, choose_tokenizer)
        log(f"tokenizer: {remote.description if remote is not None else f'{name}, which cannot be looked up offline'}")
        if remote is None or remote.missing:
            return plan_conversion(source, None, wanted.settings)
        directory = remote.folder
    return plan_conversion(source, directory, wanted.settings)


def _report_conversion(wanted: Wanted, conversion: Conversion, log: Log) -> None:
    for note in conversion.notes[len(conversion.source.notes) :]:
        log(f"note: {note}")
    directory = cached_at(wanted, conversion.source)
    codec = "with the codec" if conversion.codec is not None else f"codec: {conversion.config.xcodec_hf_model_tag}"
    log(
        f"becomes {directory}: {len(conversion.sizes)} tensors in {len(conversion.shards)} files, "
        f"{conversion.total_bytes / _GIGABYTE:.2f} GB, {codec}"
    )
    refuse_full_disk(conversion_need(conversion, directory))


def _report_config(config: SpeechLMConfig, log: Log) -> None:
    text, audio = config.text_config, config.audio_config
    log(
        f"model: {text.num_hidden_layers} layers, hidden {text.hidden_size}, {config.vocab_size} ids, "
        f"{config.num_stream} streams, {text.max_position_embeddings} positions, "
        f"audio windows {audio.n_window}/{audio.n_window_infer}"
    )
    log(f"decoding defaults: {config.decoding}")
