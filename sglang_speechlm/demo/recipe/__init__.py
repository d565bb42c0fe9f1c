"""The recipe of the demonstration's model: speech is synthesized, a codec and a language model learn from it."""
