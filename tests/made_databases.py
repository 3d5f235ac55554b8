"""The database servers of this machine, and schemas of a test's own in them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
MARIADB = "mysql+pymysql://root@127.0.0.1:3306/"


def run(url: str, statements: Iterable[str]) -> None:
    """One transaction; a % in a statement is only a %."""
    options = {"no_parameters": True}
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options=options)


def create_schema(url: str, name: str) -> None:
    """Skips the test where no server answers, but under CI."""
    try:
        run(url, [f"CREATE SCHEMA {name}"])
    except sa.exc.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        kind = sa.make_url(url).get_backend_name()
        pytest.skip(f"no {kind} server here ({type(error.orig).__name__})")


def drop_schema(url: str, name: str) -> None:
    """With all that is in it."""
    is_mysql = sa.make_url(url).get_backend_name() == "mysql"
    run(url, [f"DROP SCHEMA {name}{'' if is_mysql else ' CASCADE'}"])


@contextlib.contextmanager
def postgresql_database() -> Iterator[str]:
    """The address of an empty database of a test's own, for a store. Skips the test where
    no server answers, but under CI.
    """
    server = "postgres@127.0.0.1:5432"
    try:
        connection = psycopg.connect(
            f"postgresql://{server}/postgres", autocommit=True, connect_timeout=5
        )
    except psycopg.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL at 127.0.0.1:5432 ({type(error).__name__})")
    name = f"consilium_store_{secrets.token_hex(4)}"
    with connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield f"postgresql+psycopg://{server}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
