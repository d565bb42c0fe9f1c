"""The program that answers a request: a text stage, then an audio stage on the same radix-cached prefix."""
