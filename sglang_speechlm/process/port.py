"""A port that is reserved until a server listens on it."""

from __future__ import annotations

import socket


class ReservedPort:
    """A TCP port that the system assigns to no other process while this is open.

    Its socket is bound but does not listen, so that another socket may listen on the same port with SO_REUSEADDR, as
    servers do.

    Args:
        host: address to listen on.
        number: of the port; 0 means any free one.

    Raises:
        OSError: if the port is in use, the address does not belong to this machine, or no more files may be opened.
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
        """Release the reservation; a server that listens on the port is not affected."""
        self._socket.close()
