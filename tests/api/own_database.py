"""A PostgreSQL database of a test's own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import psycopg
import pytest

SERVER = "postgres@127.0.0.1:5432"


@contextlib.contextmanager
def own_databases(*purposes: str) -> Iterator[list[str]]:
    """Their names; dropped at the end. Skips where there is no server, unless CI=true."""
    try:
        connection = psycopg.connect(
            f"postgresql://{SERVER}/postgres", autocommit=True, connect_timeout=5
        )
    except psycopg.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL at 127.0.0.1:5432 ({type(error).__name__})")
    suffix = secrets.token_hex(4)
    names = [f"consilium_{purpose}_{suffix}" for purpose in purposes]
    with connection:
        try:
            for name in names:
                connection.execute(f"CREATE DATABASE {name}")
            yield names
        finally:
            for name in names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
