"""What is wrong with a clip, said to the client that sent it."""


class AudioError(ValueError):
    """Audio from outside that cannot be used; the message says why and what is accepted."""
