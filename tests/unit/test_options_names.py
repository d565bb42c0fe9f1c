"""Misspelt options, which are found before anything is imported or converted."""

import re
import subprocess
import sys

import pytest
from option_names import all_names

from sglang_speechlm.options.names import FILE, refuse_unknown_options
from sglang_speechlm.process import ExitStatus


def test_the_list_has_the_options_of_all_parsers() -> None:
    assert FILE.read_text().split() == all_names(), "python tests/support/option_names.py writes the list"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model-path", "x", "--port", "9000", "--dp=2"],
        ["--api-key", "-1.5", "--schedule-conservativeness", "-1"],
        ["--json-model-override-args", "--a value with spaces", "-h", "--", "-"],
        ["--tp", "1", "--overridden-by", "--no-enable-prefix-caching", "--worker-urls", "http://a:1", "http://b:1"],
    ],
)
def test_options_and_values_are_told_apart_as_argparse_does(arguments: list[str]) -> None:
    refuse_unknown_options(arguments)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--prot", "--prot: unknown option; similar: --port"),
        ("--prot=9000", "--prot: unknown option; similar: --port"),
        ("--api-kye=secret", "--api-kye: unknown option; similar: --api-key"),
        ("--max-token", "--max-token: unknown option; similar: --max-"),
        ("-tp", "-tp: unknown option"),
        ("--api-kye=my secret", "--api-kye: unknown option; similar: --api-key"),
        ("--qqqqqqqqqqqqq", "--qqqqqqqqqqqqq: unknown option; --help and --help-sglang list all options"),
    ],
)
def test_an_unknown_option_is_named_without_its_value(word: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)) as raised:
        refuse_unknown_options(["--model-path", "x", word, "9000"])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("workers", [(), ("--dp", "2")])
def test_a_misspelt_option_ends_the_launcher_before_it_reads_the_checkpoint(workers: tuple[str, ...]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "sglang_speechlm.launch", "--model-path", "absent", *workers]
    result = subprocess.run([*command, "--prot", "1"], capture_output=True, text=True, check=False)
    assert result.returncode == ExitStatus.BAD_OPTIONS
    assert not re.search(r"\| +(torch|sglang)$", result.stderr, re.MULTILINE)
    assert result.stderr.splitlines()[-1].startswith("error: --prot: unknown option; similar: --port")
