"""The command line: SpeechLM's own options and SGLang's, and how each is resolved."""
