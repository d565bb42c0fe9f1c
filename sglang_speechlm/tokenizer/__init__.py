"""Text to SpeechLM ids and back, on a tokenizer file whose ids are already those of the checkpoint."""

from sglang_speechlm.tokenizer.offset import reserved_names, write_offset_tokenizer
from sglang_speechlm.tokenizer.text import TextStream, TextTokenizer

__all__ = ["TextStream", "TextTokenizer", "reserved_names", "write_offset_tokenizer"]
