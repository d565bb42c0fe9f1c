"""The life of a server: start, warm-up, serving, stop."""
