"""A link between an agent and a server on this machine that a test can cut, and whose
traffic it can keep.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


class Relay:
    """Passes on what comes to its port.

    While it is cut, nothing gets through and nobody is let in. In the folder `record`,
    if there is one, is what passes: of each connection what was asked, in a file
    `*.asked`, and what was answered, in `*.answered`.
    """

    def __init__(self, port: int, *, record: Path | None = None) -> None:
        self.target, self._is_cut = port, False
        self.record = record
        self._numbers = itertools.count(1)
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
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # the server is not there yet
                    near.close()
                    continue
                self._ends |= {near, far}
            number = next(self._numbers)
            for source, drain, name in (
                (near, far, f"{number}.asked"),
                (far, near, f"{number}.answered"),
            ):
                copy = None if self.record is None else self.record / name
                threading.Thread(
                    target=_pass_on, args=(source, drain, copy), daemon=True
                ).start()


def _pass_on(source: socket.socket, drain: socket.socket, copy: Path | None) -> None:
    with contextlib.ExitStack() as ending:
        ending.enter_context(contextlib.suppress(OSError))
        file = None
        if copy is not None:
            file = ending.enter_context(copy.open("wb", buffering=0))
        while data := source.recv(2**16):
            if file is not None:  # first: nobody has read what is not in it
                file.write(data)
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
