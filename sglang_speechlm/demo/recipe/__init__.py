"""The recipe of the demonstration's model: synthesize speech, then train a codec and a language model on it."""
