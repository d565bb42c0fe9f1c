"""The checks that need a GPU, as one command of at most ten minutes."""
