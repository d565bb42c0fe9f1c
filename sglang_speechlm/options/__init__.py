"""The command line: SpeechLM's own options and SGLang's, and what each becomes."""
