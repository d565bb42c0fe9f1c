"""Convert a clip's samples to the log-mel frames that the audio encoder was trained on."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from transformers import WhisperFeatureExtractor

from sglang_speechlm.audio.errors import AudioError
from sglang_speechlm.config import SpeechLMConfig

SAMPLE_RATE = 16_000
MAX_SECONDS = 30
HOP = 160
N_FFT = 400

# The transform mirrors half a window at each end, so its input must be longer than that.
_SHORTEST = {"bagpiper": N_FFT // 2 + 1, "espnet": 1, "fork": HOP + 1}

_PREPARATION: dict[str, dict[str, Any]] = {
    "bagpiper": {"do_normalize": True, "padding": "do_not_pad"},
    "espnet": {"do_normalize": True, "padding": "max_length"},
    "fork": {"do_normalize": False, "padding": "longest", "pad_to_multiple_of": HOP},
}


def mel_features(samples: npt.NDArray[np.float32], config: SpeechLMConfig) -> npt.NDArray[np.float32]:
    """Return log-mel frames ``[num_mel_bins, frames]``, float32, of ``n`` samples at 16 kHz.

    They are Whisper's features (hop 160, window 400, clamped to 8 decades below the clip's loudest bin), prepared
    according to ``config.audio_frontend``:

    - "bagpiper": zero-mean unit-variance waveform, ``floor(n / 160)`` frames (Bagpiper's training);
    - "espnet": the same, then zero-padded to 30 s, of which ``ceil(n / 160)`` frames are kept
      (espnet2/speechlm/model/speechlm/multimodal_io/audio.py, ``ContinuousAudioIO.preprocess``);
    - "fork": the unchanged waveform, zero-padded to whole hops, ``ceil(n / 160)`` frames (the modified vLLM).

    They depend on the arguments only: each clip is padded, normalised and clamped by itself.

    Raises:
        AudioError: if the clip is too short for a frame (less than 201 samples for "bagpiper", 161 for
            "fork", 1 for "espnet") or longer than 30 s.
    """
    n = len(samples)
    shortest = _SHORTEST[config.audio_frontend]
    if n < shortest:
        raise AudioError(
            f"audio clip of {n} samples ({1000 * n / SAMPLE_RATE:.1f} ms) is too short; at least {shortest} "
            f"({1000 * shortest / SAMPLE_RATE:.1f} ms) at {SAMPLE_RATE} Hz are needed"
        )
    if n > MAX_SECONDS * SAMPLE_RATE:
        raise AudioError(f"audio clip of {n / SAMPLE_RATE:.1f} s is too long; the limit is {MAX_SECONDS} s")
    preparation = _PREPARATION[config.audio_frontend]
    extract = _extractor(config.audio_config.num_mel_bins)
    mel = extract(samples, sampling_rate=SAMPLE_RATE, truncation=False, **preparation)["input_features"][0]
    frames = n // HOP if preparation["padding"] == "do_not_pad" else -(-n // HOP)
    return np.ascontiguousarray(mel[:, :frames], np.float32)


def content_hash(mel: npt.NDArray[Any]) -> int:
    """Return a 64-bit hash of a clip's features, the same in every process, as the multimodal item's cache key."""
    digest = hashlib.blake2b(repr((mel.shape, mel.dtype.str)).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(mel).data)
    return int.from_bytes(digest.digest(), "little")


@lru_cache(maxsize=4)
def _extractor(num_mel_bins: int) -> WhisperFeatureExtractor:
    extractor = WhisperFeatureExtractor(
        feature_size=num_mel_bins,
        sampling_rate=SAMPLE_RATE,
        hop_length=HOP,
        chunk_length=MAX_SECONDS,
        n_fft=N_FFT,
    )
    return cast(WhisperFeatureExtractor, extractor)
