"""The SpeechLM model inside SGLang: backbone, audio tower, streams, and the per-request state they share."""
