"""A link between an agent and a server on this machine that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Passes on what comes to its port.

    While it is cut, nothing gets through and nobody is let in.
    """

    def __init__(self, port: int) -> None:
        self._target, self._is_cut = port, False
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Connections break, and new ones are closed as soon as they are made."""
        with self._lock:
            self._is_cut = True
            ends, self._ends = self._ends, set()
        for end in ends:
            _break(end)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends |= {near, far}
            for source, drain in ((near, far), (far, near)):
                threading.Thread(
                    target=_pass_on, args=(source, drain), daemon=True
                ).start()


def _pass_on(source: socket.socket, drain: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            drain.sendall(data)
    for end in (source, drain):
        _break(end)
    source.close()  # the other direction's thread closes the other end


def _break(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relays(*ports: int) -> Iterator[list[Relay]]:
    """One for each port, closed when the block ends."""
    made = [Relay(port) for port in ports]
    try:
        yield made
    finally:
        for one in made:
            one.close()
