"""A database of a Redis of a test's own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import pytest
import redis

HOST, PORT = "127.0.0.1", 6379
MARK = "consilium-test"
MARKED_SECONDS = 3600


@contextlib.contextmanager
def own_redis() -> Iterator[str]:
    """Its address; emptied at the end. Skips where there is no server, unless CI=true.

    Of the numbers that a Redis has by default the last one that is empty.
    """
    me = secrets.token_hex(8)
    try:
        for number in range(15, 0, -1):
            client = redis.Redis(HOST, PORT, db=number, decode_responses=True)
            # Only who has marked it writes there: two tests never take the same one.
            if client.set(MARK, me, nx=True, ex=MARKED_SECONDS):
                if client.dbsize() == 1:
                    break
                client.delete(MARK)
            client.close()
        else:
            raise AssertionError("no database of this Redis is empty")
    except redis.ConnectionError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no Redis at {HOST}:{PORT} ({type(error).__name__})")
    try:
        # A Redis that asks for no password takes any.
        yield f"redis://default:any@{HOST}:{PORT}/{number}"
    finally:
        client.flushdb()
        client.close()
