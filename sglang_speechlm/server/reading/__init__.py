"""Bodies read: their schema, their messages, and the one request that they come to."""
