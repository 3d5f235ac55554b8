"""The page's port, on this machine alone."""

from __future__ import annotations

import socket

from protocol.errors import BadRequest

LOOPBACK = "127.0.0.1"


def listening(port: int) -> socket.socket:
    """Listens there. BadRequest (code port) where the port is taken or is none."""
    listener = socket.socket()
    # Else who closes the page and opens it again waits until the kernel has forgotten
    # the old connections.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(64)
    except (OSError, OverflowError):
        listener.close()
        raise BadRequest(
            f"Port {port} of this machine cannot be used.",
            remedy="Give another --port, or none.",
            code="port",
        ) from None
    return listener
