"""The routes, which answer requests completely or as streams."""
