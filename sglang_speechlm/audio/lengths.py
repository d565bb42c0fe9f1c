"""The number of features of the audio encoder, by the number of mel frames."""

from __future__ import annotations


def encoder_length(frames: int, n_window: int) -> int:
    """Return the number of features for ``frames`` mel frames, which the encoder takes in chunks of ``2 * n_window``.

    ``(frames // c) * conv(c) + conv(frames % c)`` with ``c = 2 * n_window`` (ESPnet's
    ``ContinuousAudioIO._encoder_output_length``). Ten seconds give 130 with n_window 50 and 125 with 100.
    """
    chunk = 2 * n_window
    return (frames // chunk) * conv_length(chunk) + conv_length(frames % chunk)


def conv_length(frames: int) -> int:
    """Return the length after three convolutions (kernel 3, stride 2, padding 1); each halves it, rounding up."""
    for _ in range(3):
        frames = (frames + 1) // 2
    return frames
