"""Convert published or trained weights to a served directory.

``python -m sglang_speechlm.convert SOURCE --output DIR``
"""

from sglang_speechlm.checkpoint.convert.convert import Conversion, convert, plan_conversion
from sglang_speechlm.checkpoint.convert.settings import ConversionSettings

__all__ = ["Conversion", "ConversionSettings", "convert", "plan_conversion"]
