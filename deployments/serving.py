"""What every part that serves does before it starts: look whether its port is free, and
say why it cannot start.
"""

from __future__ import annotations

import errno
import socket

from protocol.errors import BadRequest, Conflict, ConsiliumError, Unavailable
from tasks.exit_codes import ExitCode


def exit_code(error: ConsiliumError) -> int:
    """Of a part that cannot start: whoever keeps it running is told whether to try
    again.
    """
    return ExitCode.NOT_READY if isinstance(error, BadRequest | Conflict) else 2


def said(error: OSError) -> ConsiliumError:
    """A full disk or a wrong owner, in a sentence."""
    where = error.filename or "A file"
    return Unavailable(
        f"{where} cannot be read or written ({error.strerror or type(error).__name__}).",
        remedy="Make room on the disk, or correct owner and mode; then start again.",
        code="disk",
    )


def check_port(host: str, port: int, name: str) -> None:
    """BadRequest (code `name`, the variable that sets it) for a port that nothing can
    listen on here.
    """
    if (why := why_not(host, port)) is not None:
        raise BadRequest(
            f"Port {port} of {host} {why}.",
            remedy=f"Set {name} to a free one.",
            code=name,
        )


def shared_socket(host: str, port: int) -> socket.socket:
    """Listens on a port together with other processes of this user, each with such a
    socket: the system deals connections out among them, and one that has died gets
    none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def why_not(host: str, port: int) -> str | None:
    """Why nothing can listen on a port; None where something can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: else a connection that has just ended would keep it taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (
                "is taken"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used ({error.strerror})"
            )
    return None
