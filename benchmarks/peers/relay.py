"""Counts the bytes between hospitals and their server: each hospital dials a port of
this process, which passes everything on as it comes.

What is counted is what TCP carries: HTTP or gRPC, TLS where there is one, heartbeats
and polls; without the headers of TCP and IP. Standard library only: it runs in the
peers' environments too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

HERE = "127.0.0.1"
CHUNK_BYTES = 1 << 16


class Relay:
    """Listens at `port` of this machine while the block runs; `n_bytes` is of all
    connections, both ways.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server((HERE, 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._n_bytes = 0
        self._open: set[socket.socket] = set()

    @property
    def n_bytes(self) -> int:
        """Bytes passed on so far."""
        with self._lock:
            return self._n_bytes

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # who waits in accept is woken by it
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for end in left:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                hospital, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(hospital,), daemon=True).start()

    def _serve(self, hospital: socket.socket) -> None:
        """One connection; a server that does not listen yet is a hospital's refused
        connection, as it would be without the relay.
        """
        with hospital:
            try:
                server = socket.create_connection((HERE, self._to_port))
            except OSError:
                return
            with server:
                ends = {hospital, server}
                # At once: the kernel would hold small messages back for a while.
                for end in ends:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open |= ends
                up = threading.Thread(target=self._pass_on, args=(hospital, server))
                up.start()
                self._pass_on(server, hospital)
                up.join()
                with self._lock:
                    self._open -= ends

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        """Until the source has said its last byte, which the sink is told."""
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                with self._lock:
                    self._n_bytes += len(chunk)
                sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])
