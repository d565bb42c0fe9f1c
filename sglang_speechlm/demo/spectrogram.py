"""Draw spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import soundfile
from matplotlib.figure import Figure

_WINDOW = 512
_INCHES_PER_SECOND = 2.2


def draw(files: Sequence[Path], picture: Path) -> None:
    """Write a PNG with the spectrogram of each WAV, one above the other, on a common time scale."""
    sounds = [soundfile.read(file) for file in files]
    longest = max(len(samples) / rate for samples, rate in sounds)
    figure = Figure(figsize=(2 + _INCHES_PER_SECOND * longest, 2 * len(files)), layout="constrained")
    axes = figure.subplots(len(files), 1, sharex=True, squeeze=False)[:, 0]
    for place, file, (samples, rate) in zip(axes, files, sounds, strict=True):
        place.specgram(samples + 1e-9, NFFT=_WINDOW, Fs=rate, noverlap=_WINDOW * 3 // 4, vmin=-140, cmap="magma")
        place.set(title=file.name, ylabel="Hz", xlim=(0, longest))
    axes[-1].set_xlabel("s")
    figure.savefig(picture, dpi=100)
