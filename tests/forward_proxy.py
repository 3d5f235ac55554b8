"""An HTTP proxy as hospitals have one, on real sockets: it passes calls on by CONNECT,
or opens TLS to look into them with an authority of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import re
import ssl
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

CUT = (OSError, EOFError, asyncio.IncompleteReadError)
"""What a side that ends its connection looks like."""
_REQUEST = re.compile(rb"^(?:GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r$", re.M)


@dataclass(frozen=True)
class Opens:
    """How a proxy opens TLS: as the server that was asked for, and as its client."""

    as_server: ssl.SSLContext
    as_client: ssl.SSLContext


@dataclass
class ForwardProxy:
    """A proxy that knows a few targets, `name:port`, and where each is.

    It calls them from `source`, an address of 127.0.0.0/8, so that the other side sees
    who came through it.
    """

    targets: Mapping[str, tuple[str, int]]
    source: str
    login: str = ""  # user:password, if it asks for them
    opens: Opens | None = None
    port: int = 0
    # First lines of what it was asked.
    asked: list[str] = field(default_factory=list)
    # Of one that opens TLS: paths of the calls that it has seen.
    seen: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        login = f"{self.login}@" if self.login else ""
        return f"http://{login}127.0.0.1:{self.port}"

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(*CUT):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                refusal, target = self._judge(head)
                if refusal:
                    writer.write(
                        f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode()
                    )
                    await writer.drain()
                else:
                    await self._pass_on(target, reader, writer)
        finally:
            await _close(writer)

    def _judge(self, head: str) -> tuple[str, str]:
        """A status to refuse with, or none; and the target."""
        first, *lines = head.split("\r\n")
        self.asked.append(first)
        method, target, _ = first.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        wanted = f"basic {base64.b64encode(self.login.encode()).decode()}".lower()
        if self.login and headers.get("proxy-authorization") != wanted:
            return "407 Proxy Authentication Required", target
        if method != "CONNECT" or target not in self.targets:
            return "403 Forbidden", target
        return "", target

    async def _pass_on(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, port = self.targets[target]
        name = target.rpartition(":")[0]
        there_reader, there_writer = await asyncio.open_connection(
            host,
            port,
            local_addr=(self.source, 0),
        )
        # TLS puts a transport of its own in the place of this one, which has the socket.
        raw = there_writer.transport
        try:
            if self.opens:
                # Not while the connection is opened: of a call that is cancelled then,
                # the socket would stay open until a good-bye that nobody says.
                await there_writer.start_tls(self.opens.as_client, server_hostname=name)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            if self.opens:
                await writer.start_tls(self.opens.as_server)
            there = self._pump(reader, there_writer, looks=self.opens is not None)
            back = self._pump(there_reader, writer, looks=False)
            await asyncio.gather(there, back)
        finally:
            await _close(there_writer)
            raw.abort()
            await asyncio.sleep(0)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        looks: bool,
    ) -> None:
        with contextlib.suppress(*CUT):
            while data := await reader.read(65_536):
                if looks:
                    found = [match[1].decode() for match in _REQUEST.finditer(data)]
                    self.seen.extend(found)
                writer.write(data)
                await writer.drain()
        # The other side hears of the end, and ends as well.
        with contextlib.suppress(*CUT):
            writer.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    """At once where the proxy ends, else when all is sent; a side that does not take it
    is cut off. The socket is closed when this returns.
    """
    try:
        async with asyncio.timeout(5):
            writer.close()
            await writer.wait_closed()
    except CUT:  # TimeoutError is an OSError
        pass
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # the loop closes the socket in its next step


@contextlib.contextmanager
def running_proxy(proxy: ForwardProxy) -> Iterator[ForwardProxy]:
    """In a thread of its own, on a free port of 127.0.0.1."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()
        open_calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in open_calls:
            call.cancel()
        await asyncio.gather(*open_calls, return_exceptions=True)
        # Of a call that was cancelled while its connection was opened, asyncio itself
        # closes the socket in its next step.
        await asyncio.sleep(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert started.wait(30)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
        # Of a handshake that is cut off asyncio may leave its socket to the collector,
        # which would warn in whichever test comes next.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
