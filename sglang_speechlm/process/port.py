"""A port that somebody is to listen on, kept free of others until then."""

from __future__ import annotations

import socket


class ReservedPort:
    """A TCP port that nobody else on this machine is given while this is open.

    Its socket is bound and does not listen, so that another one may, which is bound to the same port with SO_REUSEADDR,
    as servers do.

    Args:
        host: address to listen at.
        number: of the port; 0 is any that is free.

    Raises:
        OSError: if somebody listens there, the address is not of this machine, or no more files may be opened.
    """

    def __init__(self, host: str = "127.0.0.1", number: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, number))
        except BaseException:
            self._socket.close()
            raise
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it up; who listens there goes on."""
        self._socket.close()
