"""The SpeechLM model in SGLang: backbone, audio tower, streams, and the per-request state that they share."""
