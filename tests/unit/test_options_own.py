"""Impossible values of options: the message names the option."""

import argparse
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.options.command_line import build_parser
from sglang_speechlm.options.server import add_own_options
from sglang_speechlm.options.sglang_args import _REFUSED, refuse_unsupported

KEY = "sesame"
ALLOWED: dict[str, Any] = {
    **{name: allowed for name, (allowed, _) in _REFUSED.items()},
    "api_key": None,
    "admin_api_key": None,
    "chunked_prefill_size": None,
    "json_model_override_args": "{}",
}


@pytest.mark.parametrize(
    "option",
    [
        ("--max-body-mib", "0"), ("--max-body-mib", "much"), ("--max-clips", "0"), ("--max-clips", "1.5"),
        ("--request-timeout-secs", "-1"), ("--request-timeout-secs", "nan"), ("--max-kept-answers", "-1"),
        ("--max-kept-mib", "inf"), ("--allowed-media-domains", "http://example.com"),
        ("--allowed-media-path", "/nowhere/at/all"), ("--allowed-media-path", ""), ("--speech-template", ""),
        ("--speech-template", "/nowhere.json"),
        ("--transcription-template", "/nowhere.json"), ("--codec-threads", "0"),
        ("--served-model-name", ""), ("--model-alias", " "),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_own_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(option)
    error = capsys.readouterr().err
    assert option[0] in error
    assert "error" in error


@pytest.mark.parametrize("key", ["s\xe9same", "", " sesame", "ses\name"])
def test_a_key_that_is_not_a_valid_header_value_is_refused(key: str) -> None:
    refuse_unsupported(SimpleNamespace(**ALLOWED | {"api_key": KEY}))
    with pytest.raises(ValueError, match="--api-key"):
        refuse_unsupported(SimpleNamespace(**ALLOWED | {"api_key": key}))


def test_empty_names_of_tls_files_are_refused() -> None:
    with pytest.raises(ValueError, match="--ssl-keyfile: must not be empty"):
        refuse_unsupported(SimpleNamespace(**ALLOWED | {"ssl_keyfile": "", "ssl_certfile": ""}))


@pytest.mark.parametrize("option", ["--tokenizer-path", "--train-config", "--convert-dir", "--revision"])
def test_an_empty_name_is_not_the_current_directory(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--model-path", "m", option, ""])
    assert option in capsys.readouterr().err


def test_prefills_too_small_for_a_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="--prefill-max-requests"):
        refuse_unsupported(SimpleNamespace(**ALLOWED | {"prefill_max_requests": 1}))
