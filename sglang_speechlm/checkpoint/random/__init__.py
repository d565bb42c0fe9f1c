"""Small random checkpoints, for tests and benchmarks."""
