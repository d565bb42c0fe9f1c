"""Sources of weights: the checkpoint at a path, and its tensors by name, each read when it is used."""

from sglang_speechlm.checkpoint.source.find import PRESET_FILE, Source, find_source
from sglang_speechlm.checkpoint.source.stored import StoredTensor

__all__ = ["PRESET_FILE", "Source", "StoredTensor", "find_source"]
