"""Which options the launcher and its scripts take, and what becomes of them."""

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


def became(arguments: list[str], machine: Machine = GPUS, positions: int = POSITIONS) -> tuple[str, list[str]]:
    """SGLang's arguments, and what is said of them."""
    choices, rest = choose(arguments)
    translated, said = fit(choices, machine, positions)
    return " ".join([*translated, *rest]), said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--tensor-parallel-size 4", "--tp-size 4"),
        ("--max-num-seqs 1024", "--max-running-requests 1024"),
        ("--max-model-len 16384", "--context-length 16384"),
        ("--no-enable-prefix-caching", "--disable-radix-cache"),
    ],
)
def test_a_name_of_the_guide_becomes_sglangs_and_this_is_said_once(given: str, expected: str) -> None:
    arguments, said = became(given.split())
    assert arguments == expected
    (sentence,) = said
    assert given.split()[0] in sentence
    assert expected in sentence


def test_prefix_caching_is_on_anyway() -> None:
    arguments, said = became(["--enable-prefix-caching"])
    assert arguments == ""
    assert "radix cache" in said[0]


@pytest.mark.parametrize(
    "given",
    [
        "--tp-size 2", "--max-running-requests 8", "--context-length 4096", "--mem-fraction-static 0.8",
        "--disable-radix-cache", "--port 8080 --log-level debug --json-model-override-args {}",
    ],
)  # fmt: skip
def test_sglangs_names_pass_without_a_word(given: str) -> None:
    assert became(given.split()) == (given, [])


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
def test_two_names_with_two_values_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="contradict") as refused:
        became(given.split())
    for name in (word for word in given.split() if word.startswith("--")):
        assert name.removesuffix("-size") in str(refused.value)


@pytest.mark.parametrize(
    "given",
    ["--max-num-seqs 8 --max-running-requests 8", "--no-enable-prefix-caching --disable-radix-cache", "--tp 2 --tp 2"],
)
def test_two_names_with_one_value_are_one_option(given: str) -> None:
    arguments, _ = became(given.split())
    assert len(arguments.split()) <= 2


def test_of_one_name_the_last_wins() -> None:
    assert became(["--max-num-seqs", "8", "--max-num-seqs", "9"])[0] == "--max-running-requests 9"


@pytest.mark.parametrize("given", ["--max-num-seqs 8", "--max-running-requests 8"])
def test_a_scripts_default_gives_way_to_either_name(given: str) -> None:
    arguments, _ = became(["--max-num-seqs", "2048", "--port", "9001", OVERRIDDEN_BY, *given.split(), "--port", "1"])
    assert arguments == "--max-running-requests 8 --port 9001 --port 1"


@pytest.mark.parametrize(
    "given",
    [
        "--max-num-seqs 0", "--max-num-seqs many", "--max-model-len -5", "--gpu-memory-utilization 0",
        "--gpu-memory-utilization 1.5", "--tensor-parallel-size 0.5",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_name(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        choose(given.split())
    assert exited.value.code == ExitStatus.BAD_OPTIONS
    assert given.split()[0] in capsys.readouterr().err


# Machines


def test_a_cpu_has_as_many_ranks_as_numa_nodes() -> None:
    arguments, said = became(["--tensor-parallel-size", "4"], CPU)
    assert arguments == "--tp-size 1"
    assert "no GPU" in said[0]
    assert CPU_CORES in said[0]
    assert became(["--tp", "4"], Machine(0, 3, {}))[0] == "--tp-size 2"


def test_a_cpu_has_as_many_ranks_as_cores_are_named_for() -> None:
    bound = Machine(0, 1, {CPU_CORES: "0|1"})
    assert became(["--tp", "2"], bound) == ("--tp-size 2", [])
    assert became(["--tensor-parallel-size", "4"], bound)[0] == "--tp-size 2"
    for given in ([], ["--tp", "1"]):
        with pytest.raises(ValueError, match="2 ranks"):
            became(given, bound)


def test_a_cpu_has_no_gpu_memory() -> None:
    arguments, said = became(["--gpu-memory-utilization", "0.9"], CPU)
    assert arguments == ""
    assert "no GPU" in said[0]
    assert became(["--mem-fraction-static", "0.5"], CPU)[0] == "--mem-fraction-static 0.5"


@pytest.mark.parametrize(("ranks", "first", "is_served"), [(4, 0, True), (5, 0, False), (2, 2, True), (2, 3, False)])
def test_more_ranks_than_gpus_are_refused(ranks: int, first: int, is_served: bool) -> None:
    asked = SimpleNamespace(tp_size=ranks, dp_size=1, nnodes=1, base_gpu_id=first, gpu_id_step=1)
    refuse_missing_gpus(asked, gpus=0)
    if is_served:
        refuse_missing_gpus(asked, gpus=4)
    else:
        with pytest.raises(ValueError, match="has 4"):
            refuse_missing_gpus(asked, gpus=4)


def test_ranks_may_be_on_several_machines() -> None:
    refuse_missing_gpus(SimpleNamespace(tp_size=8, dp_size=1, nnodes=2, base_gpu_id=0, gpu_id_step=1), gpus=4)


@pytest.mark.parametrize(("given", "rows"), [([], 1024), (["--max-num-seqs", "48"], 48)])
def test_graphs_are_captured_for_all_rows_that_may_run(given: list[str], rows: int, served_checkpoint: Path) -> None:
    card = Machine(gpus=1, numa_nodes=1, environment={}, gpu_bytes=80e9, capability=(9, 0))
    defaults = gpu_defaults(read(["--model-path", str(served_checkpoint), *given]), card)
    assert defaults["cuda_graph_max_bs_decode"] == rows
    assert defaults.get("max_running_requests") == (None if given else rows)


@pytest.mark.parametrize("given", [["--device", "cpu"], ["--device=cpu"]])
def test_a_device_is_read_where_sglang_reads_it(given: list[str], served_checkpoint: Path) -> None:
    assert read(["--model-path", str(served_checkpoint), *given]).device == "cpu"
    assert read(["--model-path", str(served_checkpoint)]).device is None


# Positions


def test_more_positions_than_the_checkpoint_has_are_refused() -> None:
    with pytest.raises(ValueError, match="--max-model-len 8192: exceeds the checkpoint's limit of 4096"):
        became(["--max-model-len", "8192"], positions=4096)


def test_a_scripts_default_is_cut_to_the_checkpoints_positions() -> None:
    arguments, said = became(["--max-model-len", "16384", OVERRIDDEN_BY], positions=4096)
    assert arguments == "--context-length 4096"
    assert "checkpoint" in said[0]


def test_sglangs_own_permission_for_more_positions_holds() -> None:
    machine = Machine(4, 1, {LONGER_CONTEXT: "1"})
    assert became(["--context-length", "8192"], machine, positions=4096)[0] == "--context-length 8192"


# Scripts


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout whose Python prints what it is told to run."""
    home = tmp_path / "a checkout"
    python = home / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    (home / "launch").mkdir()
    for script in LAUNCH.glob("serve*.sh"):
        (home / "launch" / script.name).write_bytes(script.read_bytes())
    return home


def told(home: Path, script: str, *arguments: str, cwd: Path | None = None, model: str | None = None) -> list[str]:
    """What the script has Python run."""
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
def test_the_scripts_defaults_are_the_guides(script: str, port: int, ranks: int, rows: int, home: Path) -> None:
    given = told(home, f"{script}.sh")
    assert choose(given)[0][MEMORY].value == 0.9
    arguments, _ = became(given)
    for expected in (
        f"--tp-size {ranks}", f"--max-running-requests {rows}", f"--port {port}", "--context-length 16384",
    ):  # fmt: skip
        assert f"{expected} " in f"{arguments} "
    assert "--disable-radix-cache" not in arguments


def test_what_the_scripts_are_given_wins(home: Path) -> None:
    arguments, _ = became(told(home, "serve_cfg.sh", "--port", "8080", "--max-model-len", "8192", "--api-key", "a b"))
    assert "--context-length 8192" in arguments
    assert "--context-length 16384" not in arguments
    assert arguments.index("--port 8080") > arguments.index("--port 9001")
    assert arguments.endswith("--api-key a b")


def test_the_scripts_find_the_model(home: Path, tmp_path: Path) -> None:
    name = "speechlm-qwen3-8b"
    assert told(home, "serve_cfg.sh")[:2] == ["--model-path", name]
    (home / name).mkdir()
    assert told(home, "serve_cfg.sh")[1] == str(home / name)
    (tmp_path / "here" / name).mkdir(parents=True)
    assert told(home, "serve_cfg.sh", cwd=tmp_path / "here")[1] == name
    assert told(home, "serve_cfg.sh", model="/my model")[1] == "/my model"


def test_a_missing_model_is_told_with_what_to_do(tmp_path: Path) -> None:
    command = ["bash", str(LAUNCH / "serve_cfg_1.sh")]
    tried = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MODEL": ""}, capture_output=True, text=True)
    assert tried.returncode == ExitStatus.BAD_OPTIONS
    for hint in ("--model-path speechlm-qwen3-8b", "sglang_speechlm.convert", "sglang_speechlm.checkpoint", "MODEL="):
        assert hint in tried.stderr
    assert "Traceback" not in tried.stderr


def test_the_help_has_our_options_and_the_guides_and_the_exit_statuses() -> None:
    shown = build_parser().format_help()
    for told_of in (
        "--model-path", "--help-sglang", "--tensor-parallel-size", "--max-num-seqs", "--max-model-len",
        "--gpu-memory-utilization", "--enable-prefix-caching", "--drain-timeout", "--codec-device", "--port", "--dp",
    ):  # fmt: skip
        assert told_of in shown
    for status in ExitStatus:
        assert f"{status.value}  {status.meaning}" in shown


def test_our_options_and_sglangs_are_told_apart(served_checkpoint: Path) -> None:
    asked = read(
        ["--model", str(served_checkpoint), "--port", "1", "--drain-timeout", "0", "--max-num-seqs", "2", "--dp", "1"]
    )
    assert asked.others == ["--port", "1"]
    assert asked.own.drain_seconds == 0
    assert [choice.value for choice in asked.choices.values()] == [2]


def test_a_raw_tokenizer_is_served_with_the_checkpoints_ids(tmp_path: Path) -> None:
    spec = CheckpointSpec()
    config = spec.config()
    with pytest.raises(ValueError, match=r"--tokenizer-path .*/tokenizer\.json: no such file"):
        served_tokenizer(tmp_path, config)
    write_raw_tokenizer(tmp_path, spec.text_vocab_size)
    folder = served_tokenizer(tmp_path, config)
    assert folder != tmp_path
    assert TextTokenizer.fits(folder, config)
    assert served_tokenizer(folder, config) == folder


def test_a_named_tokenizer_is_served_with_a_directory_that_needs_no_conversion(
    served_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ["--model-path", str(served_checkpoint), "--tokenizer-path", str(tmp_path)]
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file; --tokenizer-path must name its directory"):
        read(arguments)
    write_raw_tokenizer(tmp_path, CheckpointSpec().text_vocab_size)
    assert read(arguments).tokenizer_path == tmp_path


def test_the_bagpiper_script_serves_the_release_that_espnets_clients_look_for(home: Path) -> None:
    told_without = told(home, "serve_bagpiper.sh")
    assert told_without[:2] == ["--model-path", "espnet/bagpiper-tts-sft"]
    assert "bagpiper" in told_without
    assert told(home, "serve_bagpiper.sh", model="here/release")[1] == "here/release"


def test_several_names_may_be_served(tmp_path: Path, served_checkpoint: Path) -> None:
    asked = read(["--model-path", str(served_checkpoint), "--served-model-name", "a", "b", "--port", "1"])
    assert asked.own.served_names == ("a", "b")
    assert asked.others == ["--port", "1"]
    assert read(["--model-path", str(served_checkpoint)]).own.served_names == ()
