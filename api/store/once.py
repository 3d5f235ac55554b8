"""Idempotency keys: a request that is sent again with the same key finds what was made
of it the first time.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from api.store.hospitals import Caller
from protocol.errors import Conflict
from protocol.messages import canonical


@dataclass(frozen=True, slots=True)
class Once:
    """An Idempotency-Key of one caller, and the request that it was used for; both as
    digests.

    The request's is keyed with the Idempotency-Key, which is not kept: a plain one
    would let guesses at the SQL be checked.
    """

    owner_key: str
    body_digest: str

    @staticmethod
    def of(caller: Caller, idempotency_key: str | None, request: Any) -> Once | None:
        if idempotency_key is None:
            return None
        # With the caller's name: two callers may choose the same key, and neither is
        # given the other's order.
        own_key = f"{caller.role}/{caller.user_id}/{idempotency_key}".encode()
        digest = hmac.new(own_key, canonical(request).encode(), "sha256").hexdigest()
        return Once(hashlib.sha256(own_key).hexdigest(), digest)

    def earlier(self, connection: sa.Connection, table: sa.Table) -> int | None:
        """The number of the order or schedule that this key was used for; Conflict when
        it was another body's.
        """
        (number,) = table.primary_key.columns
        earlier_query = sa.select(number, table.c.body_digest).where(
            table.c.owner_key == self.owner_key
        )
        row = connection.execute(earlier_query).first()
        if row is None:
            return None
        if row.body_digest != self.body_digest:
            record_kind = number.name.removesuffix("_id")
            raise Conflict(
                "This Idempotency-Key was used for another body.",
                remedy=f"Use a new key for a new {record_kind}.",
                code="idempotency",
            )
        return int(row[0])
