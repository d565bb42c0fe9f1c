"""The sizes of the measurements, on a GPU and in a rehearsal without one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The sizes of the measurements.

    Attributes:
        on_gpu: whether the released sizes run on a GPU; else small ones on the CPU.
        options: command-line options of every server.
        rows: batch sizes whose steps are measured.
        steps: decode steps to measure.
        listeners: numbers of concurrent listeners.
        frames: number of frames in each answer for a listener.
        long_prompt: positions of the long guided prompt.
        texts: concurrent texts, one of which samples from the whole vocabulary.
        profiled_steps: decode steps to profile.
        crowd: concurrent answers to a server that has graphs for eight rows only.
    """

    on_gpu: bool
    options: tuple[str, ...]
    rows: tuple[int, ...]
    steps: int
    listeners: tuple[int, ...]
    frames: int
    long_prompt: int
    texts: int
    profiled_steps: int
    crowd: int


GPU = Scale(
    on_gpu=True,
    options=(),
    rows=(1, 16, 64, 256),
    steps=128,
    listeners=(32, 128, 256),
    frames=150,
    long_prompt=16_000,
    texts=256,
    profiled_steps=50,
    crowd=300,
)
REHEARSAL = Scale(
    on_gpu=False,
    options=("--device", "cpu", "--max-total-tokens", "12000"),
    rows=(1, 2),
    steps=8,
    listeners=(2,),
    frames=20,
    long_prompt=1000,
    texts=8,
    profiled_steps=5,
    crowd=12,
)
