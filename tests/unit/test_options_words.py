"""The words of a command line: values with spaces, and the options of --config FILE."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sglang_speechlm.options import command_line, fleet
from sglang_speechlm.options.vllm_names import OVERRIDDEN_BY, choose
from sglang_speechlm.options.words import words_of


@pytest.mark.parametrize("option", ["--api-key", "--admin-api-key", "--chat-template", "--preset"])
@pytest.mark.parametrize("names", ["--model-alias", "--served-model-name"])
def test_a_value_with_a_space_is_not_one_of_the_list_before_it(names: str, option: str) -> None:
    words = words_of(["--model-path", "m", names, "tts-1", f"{option}=two words"])
    parsed, others = command_line.build_parser().parse_known_args(choose(words)[1])
    assert vars(parsed)[names[2:].replace("-", "_")] == ["tts-1"]
    assert vars(parsed).get(option[2:]) == "two words" or others == [option, "two words"]


def test_a_front_reads_a_value_with_a_space_after_its_workers() -> None:
    options = fleet.read(words_of(["--worker-urls", "http://a:1", "--api-key=two words"]))
    assert (options.urls, options.keys.user) == (("http://a:1",), "two words")


def test_other_words_are_unchanged() -> None:
    words = ["--api-key=-x", "--json-model-override-args", '{"a": "b=c d"}', "--port=9000", "-h", "--any-model"]
    assert words_of(words) == words


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "a b.yaml"
    file.write_text(
        "model-path: my model\nport: 9001\napi_key: secret\nany-model: true\nsleep-on-idle: false\n"
        "enable-prefix-caching: false\nmodel-alias: [tts-1, whisper-1]\njson-model-override-args: {a: [1, true]}\n"
    )
    return file


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_a_config_file_may_contain_every_option(form: list[str], config: Path) -> None:
    assert words_of(["--port", "9002", *(word.format(config) for word in form), "--dp", "2"]) == [
        *("--model-path", "my model", "--port=9001", "--api-key=secret", "--any-model", "--no-enable-prefix-caching"),
        *("--model-alias", "tts-1", "whisper-1", "--json-model-override-args", '{"a": [1, true]}'),
        *("--port", "9002", "--dp", "2"),
    ]


def test_a_fleets_front_has_the_key_and_the_port_of_a_config_file(config: Path) -> None:
    words = words_of(["--config", str(config), "--dp", "2"])
    assert fleet.is_fleet(words)
    options = fleet.read(words)
    assert (options.keys.user, options.port, options.model_path) == ("secret", 9001, "my model")
    assert "--config" not in options.worker_arguments


def test_a_config_file_overrides_a_scripts_defaults(config: Path) -> None:
    words = words_of(["--port", "9000", OVERRIDDEN_BY, "--log-level", "info", "--config", str(config)])
    assert words[:4] == ["--port", "9000", OVERRIDDEN_BY, "--model-path"]
    assert words[-2:] == ["--log-level", "info"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot: 9000", "prot: unknown option; similar: --port"),
        ("api-kye: my secret", "api-kye: unknown option; similar: --api-key"),
        ("api-key:", "api-key: must have a value"),
        ("any-model: 1", "any-model: must be true or false"),
        ("config: other.yaml", "config: must not name another file"),
        ("- port", "must contain a mapping"),
        ("a: [", "expected the node content"),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_a_fault_of_a_config_file_is_described(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"^--config {file}: .*{message}") as raised:
        words_of(["--config", str(file)])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config"], "must not be empty"),
        (["--config="], "must not be empty"),
        (["--config", "absent.yaml"], "--config absent.yaml: No such file"),
        (["--config", "."], "--config .: Is a directory"),
        (["--config", "a", "--config=b"], "--config: must be given only once"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words_of(words)


@pytest.mark.parametrize("read", [command_line.read, fleet.read])
def test_an_empty_model_path_is_refused(
    read: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(["--model-path", "", "--dp", "1"])
    assert "argument --model-path/--model: must not be empty" in capsys.readouterr().err
