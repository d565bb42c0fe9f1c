"""The error for a clip that cannot be used."""


class AudioError(ValueError):
    """A client's audio cannot be used; the message says why and what is accepted."""
