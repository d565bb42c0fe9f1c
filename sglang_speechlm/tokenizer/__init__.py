"""Text to SpeechLM ids and back, with a tokenizer file whose ids are already the checkpoint's."""

from sglang_speechlm.tokenizer.offset import offset_tokenizer, reserved_names
from sglang_speechlm.tokenizer.text import TextStream, TextTokenizer

__all__ = ["TextStream", "TextTokenizer", "offset_tokenizer", "reserved_names"]
