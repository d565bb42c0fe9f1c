"""The command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from .request import Task
from .run import Job

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
TASKS = ("text", "audiogen", "audiogen_cfg")


@dataclass(frozen=True)
class Defaults:
    """The defaults of a script.

    Attributes:
        description: text for --help.
        tasks: names of ``TASKS``.
        port, concurrency: for the server that it is made for.
        output: the results file, with {cfg} for the guidance scale.
        save_dir: folder of the sounds.
        num_examples: maximum number of lines; None means all.
    """

    description: str
    tasks: tuple[str, ...]
    port: int
    concurrency: int
    output: str
    save_dir: str = ""
    num_examples: int | None = None

    @property
    def speaks(self) -> bool:
        """Whether any answer has sound."""
        return self.tasks != ("text",)


def parse(defaults: Defaults, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; end the process with status 2 if it is invalid."""
    parser = argparse.ArgumentParser(description=defaults.description)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="server address (default: %(default)s)")
    add("--port", type=_count, default=defaults.port, help="port of the server (default: %(default)s)")
    add("--input", type=_path, help="ESPnet-format JSONL or dataset.json (default: the clients' samples)")
    add("--audio-root", type=_path, help="folder to search for audio that is not at its path")
    add("--output", type=_path, help=f"results as JSONL (default: {defaults.output})")
    if defaults.speaks:
        add(
            "--save-dir",
            type=_path,
            default=defaults.save_dir,
            help="folder for random WAV samples (default: %(default)s)",
        )
        add("--cfg", type=_guidance, default=3.0, help="guidance scale, 1 (none) to 20 (default: %(default)g)")
    add("--num-examples", type=_count, default=defaults.num_examples, help=_of_examples(defaults))
    per_task = " per task" if len(defaults.tasks) > 1 else ""
    add("--concurrency", type=_count, default=defaults.concurrency, help=f"concurrent requests{per_task} (%(default)s)")
    add("--timeout", type=_seconds, default=3600.0, help="time limit per line in seconds (default: %(default)g)")
    if "text" in defaults.tasks:
        add("--send-ground-truth", action="store_true", help="send the assistant's last turn too, and score nothing")
    add("--fresh", action="store_true", help="start over and replace this client's earlier results")
    parsed = parser.parse_args(arguments)
    cfg = parsed.cfg if defaults.speaks else 1.0
    parsed.output = parsed.output or Path(defaults.output.format(cfg=f"{cfg:g}"))
    if parsed.output.suffix != ".jsonl":
        parser.error(f"--output: must end in .jsonl; got {parsed.output}")
    return parsed


def jobs(defaults: Defaults, parsed: argparse.Namespace) -> list[Job]:
    """Return the jobs of the command line, one per task."""
    several = len(defaults.tasks) > 1
    made = []
    for name in defaults.tasks:
        speaks = name != "text"
        output, sounds = parsed.output, parsed.save_dir if speaks else None
        if several:
            output = output.with_stem(f"{output.stem}_{name}")
            sounds = sounds / name if sounds else None
        made.append(
            Job(
                task=Task(name, speaks, parsed.cfg if name == "audiogen_cfg" else 1.0),
                input=parsed.input or SAMPLES / ("speak.jsonl" if speaks else "listen.jsonl"),
                count=parsed.num_examples,
                output=output,
                audio_root=parsed.audio_root,
                sounds=sounds,
                send_ground_truth=not speaks and parsed.send_ground_truth,
            )
        )
    return made


def _of_examples(defaults: Defaults) -> str:
    return f"send only the first N lines (default: {'all' if defaults.num_examples is None else '%(default)s'})"


def _path(text: str) -> Path:
    if not text.strip():  # as from an unset variable: it would mean the current directory
        raise argparse.ArgumentTypeError(f"must not be empty; got {text!r}")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text}")
    return int(text)


def _guidance(text: str) -> float:
    return _number(text, 1, 20)


def _seconds(text: str) -> float:
    return _number(text, 0.001, 1e9)


def _number(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}; got {text}")
    return value
