"""What meets every request before and after its route: keys, limits, errors."""
