"""The tensors of a served directory: their names and shapes, their files, and small random ones for tests.

``python -m sglang_speechlm.checkpoint`` builds a random checkpoint.
"""

from sglang_speechlm.checkpoint.random.builder import build_checkpoint
from sglang_speechlm.checkpoint.random.spec import CheckpointSpec
from sglang_speechlm.checkpoint.tensors import AUDIO_TOWER_PREFIX, CODEC_PREFIX, check_tensors, expected_tensors

__all__ = [
    "AUDIO_TOWER_PREFIX",
    "CODEC_PREFIX",
    "CheckpointSpec",
    "build_checkpoint",
    "check_tensors",
    "expected_tensors",
]
