"""Audio input: a clip's bytes to samples, to mel frames, to encoder features."""

from sglang_speechlm.audio.clip import Clip, decode_clip
from sglang_speechlm.audio.errors import AudioError
from sglang_speechlm.audio.lengths import encoder_length
from sglang_speechlm.audio.mel import content_hash, mel_features
from sglang_speechlm.audio.payload import decode_audio, decode_base64, decode_data_url
from sglang_speechlm.audio.recording import Recording

__all__ = [
    "AudioError",
    "Clip",
    "Recording",
    "content_hash",
    "decode_audio",
    "decode_base64",
    "decode_clip",
    "decode_data_url",
    "encoder_length",
    "mel_features",
]
