"""The page to try the server with: static files, nothing from elsewhere."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""Directory of index.html and what it loads."""
