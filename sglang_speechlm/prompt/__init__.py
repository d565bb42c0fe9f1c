"""From messages to the positions that the model reads."""
