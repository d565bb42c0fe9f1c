"""Read bodies: their schema, their messages, and the program request that they resolve to."""
