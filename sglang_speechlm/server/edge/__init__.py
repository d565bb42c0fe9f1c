"""The layers that every request passes before and after its route: keys, origins, limits, errors."""
