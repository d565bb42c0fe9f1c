"""A serving runtime for SpeechLM (released as Bagpiper) on stock SGLang."""

__version__ = "0.1.0"
