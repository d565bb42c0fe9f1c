"""A serving runtime for SpeechLM (released as Bagpiper) on stock SGLang."""

from sglang_speechlm.platform.torchvision_operators import define_missing_operators

__version__ = "0.1.0"

# Before anything imports SGLang or transformers, which import torchvision.
define_missing_operators()
