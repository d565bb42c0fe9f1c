"""Draws ids: one per text row, eight per frame."""
