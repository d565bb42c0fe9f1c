"""The request class of SGLang's TokenizerManager."""

from sglang.srt.managers.io_struct import GenerateReqInput

__all__ = ["GenerateReqInput"]
