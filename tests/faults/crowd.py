"""A crowd before the coordinator, as a process of its own: connections that say
nothing, streams of one token, and an agent that puts all that it can.

Reads its orders as JSON from stdin, and says `ready` once it is there; ends with its
stdin. Says when it is there and when the first silent one is cut off; prints at the
end what it was answered, by kind and status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

ANSWERED: Counter[str] = Counter()
PIECE = b"x" * 65_536


class Crowd:
    """So many of each."""

    def __init__(self, asked: dict[str, Any]) -> None:
        url = urlsplit(asked["url"])
        self.host, self.port = str(url.hostname), int(url.port or 80)
        self.user, self.agent = asked["user"], asked["agent"]
        self.n_silent, self.n_streams = asked["silent"], asked["streams"]
        self.order, self.sender = asked["order"], asked["sender"]
        self.there = 0
        self.all_there = asyncio.Event()

    def came(self) -> None:
        self.there += 1
        if self.there == self.n_silent + self.n_streams:
            self.all_there.set()

    async def silent(self) -> None:
        """Comes again as soon as it is cut off."""
        is_first = True
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                if is_first:
                    self.came()
                    is_first = False
                with contextlib.closing(writer):
                    await reader.read()
                ANSWERED["silent: cut off"] += 1
                if ANSWERED["silent: cut off"] == 1:
                    print("cut off", flush=True)

    async def stream(self) -> None:
        is_first = True
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                with contextlib.closing(writer):
                    path = f"/orders/{self.order}/events"
                    writer.write(self.head("GET", path, self.user, 0))
                    status = (await reader.readline())[9:12].decode()
                    ANSWERED[f"stream: {status}"] += 1
                    if is_first:
                        self.came()
                        is_first = False
                    if status == "200":
                        await reader.read()
            # Who is refused tries again like any client: not at once.
            await asyncio.sleep(1)

    async def flood(self) -> None:
        number = 0
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                with contextlib.closing(writer):
                    while True:
                        number += 1
                        # In turns what the order could have, and what it cannot.
                        topic, fold, round_ = ("opened", 0, 50_000 + number)
                        if number % 2:
                            topic, fold, round_ = ("gradient", 901, number)
                        path = (
                            f"/exchange/{self.order}/{topic}/{fold}/{round_}/0/"
                            f"{self.sender}/0"
                        )
                        writer.write(self.head("PUT", path, self.agent, len(PIECE)))
                        writer.write(PIECE)
                        status = await self.answer(reader)
                        ANSWERED[f"flood: {status}"] += 1

    async def answer(self, reader: asyncio.StreamReader) -> str:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        return head[9:12].decode()

    def head(self, method: str, path: str, token: str, length: int) -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    async def run(self) -> None:
        tasks = [asyncio.create_task(self.silent()) for _ in range(self.n_silent)]
        tasks += [asyncio.create_task(self.stream()) for _ in range(self.n_streams)]
        await self.all_there.wait()
        tasks += [asyncio.create_task(self.flood()) for _ in range(4)]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(json.dumps(ANSWERED), flush=True)


if __name__ == "__main__":
    # Attackers have machines of their own: this one's time is the coordinator's.
    os.nice(19)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(Crowd(json.loads(sys.stdin.readline())).run())
