"""A serving runtime for SpeechLM (released as Bagpiper) on stock SGLang."""

from sglang_speechlm.platform.torchvision_operators import define_missing_operators
from sglang_speechlm.sglang_hooks import announce

__version__ = "0.1.0"

# Both must come before whatever imports SGLang; it imports this package first, as a platform plugin, in each process.
define_missing_operators()
announce()
