"""From a released native checkpoint (an ESPnet ``.pt`` with its training config) to a served directory.

``python -m sglang_speechlm.convert --checkpoint X.pt --train-config config.yaml --tokenizer QWEN3_DIR --output DIR``
"""

from sglang_speechlm.checkpoint.convert.convert import convert
from sglang_speechlm.checkpoint.convert.settings import ConversionSettings

__all__ = ["ConversionSettings", "convert"]
