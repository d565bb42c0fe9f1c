"""The options that the launcher and its scripts accept, and the arguments of SGLang that result."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_speechlm.checkpoint import CheckpointSpec
from sglang_speechlm.checkpoint.random.vocabulary import write_raw_tokenizer
from sglang_speechlm.options.command_line import build_parser, gpu_defaults, read, served_tokenizer
from sglang_speechlm.options.sglang_args import refuse_missing_gpus
from sglang_speechlm.options.vllm_names import CPU_CORES, LONGER_CONTEXT, MEMORY, OVERRIDDEN_BY, Machine, choose, fit
from sglang_speechlm.process import ExitStatus
from sglang_speechlm.tokenizer import TextTokenizer

LAUNCH = Path(__file__).parents[2] / "launch"
GPUS = Machine(gpus=4, numa_nodes=2, environment={})
CPU = Machine(gpus=0, numa_nodes=1, environment={})
POSITIONS = 40960


def fitted(arguments: list[str], machine: Machine = GPUS, positions: int = POSITIONS) -> tuple[str, list[str]]:
    """Return SGLang's arguments and the notes about them."""
    choices, rest = choose(arguments)
    translated, notes = fit(choices, machine, positions)
    return " ".join([*translated, *rest]), notes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--tensor-parallel-size 4", "--tp-size 4"),
        ("--max-num-seqs 1024", "--max-running-requests 1024"),
        ("--max-model-len 16384", "--context-length 16384"),
        ("--no-enable-prefix-caching", "--disable-radix-cache"),
    ],
)
def test_the_guides_option_becomes_sglangs_with_one_note(given: str, expected: str) -> None:
    arguments, notes = fitted(given.split())
    assert arguments == expected
    (note,) = notes
    assert given.split()[0] in note
    assert expected in note


def test_prefix_caching_is_always_on() -> None:
    arguments, notes = fitted(["--enable-prefix-caching"])
    assert arguments == ""
    assert "radix cache" in notes[0]


@pytest.mark.parametrize(
    "given",
    [
        "--tp-size 2", "--max-running-requests 8", "--context-length 4096", "--mem-fraction-static 0.8",
        "--disable-radix-cache", "--port 8080 --log-level debug --json-model-override-args {}",
    ],
)  # fmt: skip
def test_sglangs_options_pass_without_a_note(given: str) -> None:
    assert fitted(given.split()) == (given, [])


@pytest.mark.parametrize(
    "given",
    [
        "--max-num-seqs 8 --max-running-requests 16",
        "--context-length 4096 --max-model-len 8192",
        "--tensor-parallel-size 2 --tp 4",
        "--gpu-memory-utilization 0.8 --mem-fraction-static 0.9",
        "--enable-prefix-caching --disable-radix-cache",
    ],
)
def test_two_names_of_an_option_with_different_values_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="contradict") as error:
        fitted(given.split())
    for name in (word for word in given.split() if word.startswith("--")):
        assert name.removesuffix("-size") in str(error.value)


@pytest.mark.parametrize(
    "given",
    ["--max-num-seqs 8 --max-running-requests 8", "--no-enable-prefix-caching --disable-radix-cache", "--tp 2 --tp 2"],
)
def test_two_names_of_an_option_with_the_same_value_are_accepted(given: str) -> None:
    arguments, _ = fitted(given.split())
    assert len(arguments.split()) <= 2


def test_the_last_value_of_a_repeated_option_wins() -> None:
    assert fitted(["--max-num-seqs", "8", "--max-num-seqs", "9"])[0] == "--max-running-requests 9"


@pytest.mark.parametrize("given", ["--max-num-seqs 8", "--max-running-requests 8"])
def test_either_name_overrides_a_scripts_default(given: str) -> None:
    arguments, _ = fitted(["--max-num-seqs", "2048", "--port", "9001", OVERRIDDEN_BY, *given.split(), "--port", "1"])
    assert arguments == "--max-running-requests 8 --port 9001 --port 1"


@pytest.mark.parametrize(
    "given",
    [
        "--max-num-seqs 0", "--max-num-seqs many", "--max-model-len -5", "--gpu-memory-utilization 0",
        "--gpu-memory-utilization 1.5", "--tensor-parallel-size 0.5",
    ],
)  # fmt: skip
def test_an_impossible_value_is_refused_by_name(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        choose(given.split())
    assert exited.value.code == ExitStatus.BAD_OPTIONS
    assert given.split()[0] in capsys.readouterr().err


# Machines


def test_ranks_on_a_cpu_are_limited_to_its_numa_nodes() -> None:
    arguments, notes = fitted(["--tensor-parallel-size", "4"], CPU)
    assert arguments == "--tp-size 1"
    assert "no GPU" in notes[0]
    assert CPU_CORES in notes[0]
    assert fitted(["--tp", "4"], Machine(0, 3, {}))[0] == "--tp-size 2"


def test_ranks_on_a_cpu_are_limited_to_the_given_sets_of_cores() -> None:
    bound = Machine(0, 1, {CPU_CORES: "0|1"})
    assert fitted(["--tp", "2"], bound) == ("--tp-size 2", [])
    assert fitted(["--tensor-parallel-size", "4"], bound)[0] == "--tp-size 2"
    for given in ([], ["--tp", "1"]):
        with pytest.raises(ValueError, match="2 ranks"):
            fitted(given, bound)


def test_the_share_of_gpu_memory_is_ignored_on_a_cpu() -> None:
    arguments, notes = fitted(["--gpu-memory-utilization", "0.9"], CPU)
    assert arguments == ""
    assert "no GPU" in notes[0]
    assert fitted(["--mem-fraction-static", "0.5"], CPU)[0] == "--mem-fraction-static 0.5"


@pytest.mark.parametrize(("ranks", "first", "is_served"), [(4, 0, True), (5, 0, False), (2, 2, True), (2, 3, False)])
def test_more_ranks_than_gpus_are_refused(ranks: int, first: int, is_served: bool) -> None:
    options = SimpleNamespace(tp_size=ranks, dp_size=1, nnodes=1, base_gpu_id=first, gpu_id_step=1)
    refuse_missing_gpus(options, gpus=0)
    if is_served:
        refuse_missing_gpus(options, gpus=4)
    else:
        with pytest.raises(ValueError, match="has 4"):
            refuse_missing_gpus(options, gpus=4)


def test_ranks_may_be_distributed_over_several_machines() -> None:
    refuse_missing_gpus(SimpleNamespace(tp_size=8, dp_size=1, nnodes=2, base_gpu_id=0, gpu_id_step=1), gpus=4)


@pytest.mark.parametrize(("given", "rows"), [([], 1024), (["--max-num-seqs", "48"], 48)])
def test_graphs_are_captured_for_all_rows_that_can_run(given: list[str], rows: int, served_checkpoint: Path) -> None:
    card = Machine(gpus=1, numa_nodes=1, environment={}, gpu_bytes=80e9, capability=(9, 0))
    defaults = gpu_defaults(read(["--model-path", str(served_checkpoint), *given]), card)
    assert defaults["cuda_graph_max_bs_decode"] == rows
    assert defaults.get("max_running_requests") == (None if given else rows)


@pytest.mark.parametrize("given", [["--device", "cpu"], ["--device=cpu"]])
def test_the_device_is_read_as_in_sglang(given: list[str], served_checkpoint: Path) -> None:
    assert read(["--model-path", str(served_checkpoint), *given]).device == "cpu"
    assert read(["--model-path", str(served_checkpoint)]).device is None


# Positions


def test_more_positions_than_the_checkpoint_has_are_refused() -> None:
    with pytest.raises(ValueError, match="--max-model-len 8192: exceeds the checkpoint's limit of 4096"):
        fitted(["--max-model-len", "8192"], positions=4096)


def test_a_scripts_default_is_reduced_to_the_checkpoints_positions() -> None:
    arguments, notes = fitted(["--max-model-len", "16384", OVERRIDDEN_BY], positions=4096)
    assert arguments == "--context-length 4096"
    assert "checkpoint" in notes[0]


def test_sglangs_variable_allows_more_positions() -> None:
    machine = Machine(4, 1, {LONGER_CONTEXT: "1"})
    assert fitted(["--context-length", "8192"], machine, positions=4096)[0] == "--context-length 8192"


# Scripts


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout whose Python prints its arguments."""
    home = tmp_path / "a checkout"
    python = home / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    (home / "launch").mkdir()
    for script in LAUNCH.glob("serve*.sh"):
        (home / "launch" / script.name).write_bytes(script.read_bytes())
    return home


def script_arguments(
    home: Path, script: str, *arguments: str, cwd: Path | None = None, model: str | None = None
) -> list[str]:
    """The arguments with which a script starts the launcher."""
    environment = {name: value for name, value in os.environ.items() if name != "MODEL"}
    environment |= {"MODEL": model} if model else {}
    command = ["bash", str(home / "launch" / script), *arguments]
    printed = subprocess.run(command, cwd=cwd or home.parent, env=environment, check=True, capture_output=True)
    assert printed.stdout.splitlines()[:2] == [b"-m", b"sglang_speechlm.launch"]
    return printed.stdout.decode().splitlines()[2:]


@pytest.mark.parametrize(
    ("script", "port", "ranks", "rows"),
    [("serve_cfg_1", 9000, 1, 1024), ("serve_cfg", 9001, 4, 2048), ("serve_bagpiper", 9811, 1, 1024)],
)
def test_scripts_have_the_defaults_of_the_guide(script: str, port: int, ranks: int, rows: int, home: Path) -> None:
    given = script_arguments(home, f"{script}.sh")
    assert choose(given)[0][MEMORY].value == 0.9
    arguments, _ = fitted(given)
    for expected in (
        f"--tp-size {ranks}", f"--max-running-requests {rows}", f"--port {port}", "--context-length 16384",
    ):  # fmt: skip
        assert f"{expected} " in f"{arguments} "
    assert "--disable-radix-cache" not in arguments


def test_arguments_override_the_defaults_of_a_script(home: Path) -> None:
    arguments, _ = fitted(
        script_arguments(home, "serve_cfg.sh", "--port", "8080", "--max-model-len", "8192", "--api-key", "a b")
    )
    assert "--context-length 8192" in arguments
    assert "--context-length 16384" not in arguments
    assert arguments.index("--port 8080") > arguments.index("--port 9001")
    assert arguments.endswith("--api-key a b")


def test_scripts_find_the_model(home: Path, tmp_path: Path) -> None:
    name = "speechlm-qwen3-8b"
    assert script_arguments(home, "serve_cfg.sh")[:2] == ["--model-path", name]
    (home / name).mkdir()
    assert script_arguments(home, "serve_cfg.sh")[1] == str(home / name)
    (tmp_path / "here" / name).mkdir(parents=True)
    assert script_arguments(home, "serve_cfg.sh", cwd=tmp_path / "here")[1] == name
    assert script_arguments(home, "serve_cfg.sh", model="/my model")[1] == "/my model"


def test_a_missing_model_is_reported_with_instructions(tmp_path: Path) -> None:
    command = ["bash", str(LAUNCH / "serve_cfg_1.sh")]
    result = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MODEL": ""}, capture_output=True, text=True)
    assert result.returncode == ExitStatus.BAD_OPTIONS
    for hint in ("--model-path speechlm-qwen3-8b", "sglang_speechlm.convert", "sglang_speechlm.checkpoint", "MODEL="):
        assert hint in result.stderr
    assert "Traceback" not in result.stderr


def test_the_help_lists_all_options_and_exit_statuses() -> None:
    help_text = build_parser().format_help()
    for option in (
        "--model-path", "--help-sglang", "--tensor-parallel-size", "--max-num-seqs", "--max-model-len",
        "--gpu-memory-utilization", "--enable-prefix-caching", "--drain-timeout", "--codec-device", "--port", "--dp",
    ):  # fmt: skip
        assert option in help_text
    for status in ExitStatus:
        assert f"{status.value}  {status.meaning}" in help_text


def test_the_products_options_and_sglangs_are_separated(served_checkpoint: Path) -> None:
    options = read(
        ["--model", str(served_checkpoint), "--port", "1", "--drain-timeout", "0", "--max-num-seqs", "2", "--dp", "1"]
    )
    assert options.others == ["--port", "1"]
    assert options.own.drain_seconds == 0
    assert [choice.value for choice in options.choices.values()] == [2]


def test_a_raw_tokenizer_is_given_the_checkpoints_ids(tmp_path: Path) -> None:
    spec = CheckpointSpec()
    config = spec.config()
    with pytest.raises(ValueError, match=r"--tokenizer-path .*/tokenizer\.json: no such file"):
        served_tokenizer(tmp_path, config)
    write_raw_tokenizer(tmp_path, spec.text_vocab_size)
    folder = served_tokenizer(tmp_path, config)
    assert folder != tmp_path
    assert TextTokenizer.fits(folder, config)
    assert served_tokenizer(folder, config) == folder


def test_a_named_tokenizer_is_used_for_a_directory_that_needs_no_conversion(
    served_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ["--model-path", str(served_checkpoint), "--tokenizer-path", str(tmp_path)]
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file; --tokenizer-path must name its directory"):
        read(arguments)
    write_raw_tokenizer(tmp_path, CheckpointSpec().text_vocab_size)
    assert read(arguments).tokenizer_path == tmp_path


def test_the_bagpiper_script_serves_the_release_that_espnets_clients_expect(home: Path) -> None:
    arguments = script_arguments(home, "serve_bagpiper.sh")
    assert arguments[:2] == ["--model-path", "espnet/bagpiper-tts-sft"]
    assert "bagpiper" in arguments
    assert script_arguments(home, "serve_bagpiper.sh", model="here/release")[1] == "here/release"


def test_several_names_may_be_served(tmp_path: Path, served_checkpoint: Path) -> None:
    options = read(["--model-path", str(served_checkpoint), "--served-model-name", "a", "b", "--port", "1"])
    assert options.own.served_names == ("a", "b")
    assert options.others == ["--port", "1"]
    assert read(["--model-path", str(served_checkpoint)]).own.served_names == ()
