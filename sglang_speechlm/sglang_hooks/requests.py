"""SGLang's request, as its TokenizerManager takes it."""

from sglang.srt.managers.io_struct import GenerateReqInput

__all__ = ["GenerateReqInput"]
