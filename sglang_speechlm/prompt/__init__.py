"""The layout of messages as the positions that the model reads."""
