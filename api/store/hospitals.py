"""Who takes part: hospitals, and the tokens by which callers are known.

Of a hospital stands here what its agent says of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from api.store.engine import Database
from api.store.rows import HospitalRow
from api.store.tables import hospitals, tokens, utc_now
from protocol.errors import Conflict, Unavailable


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token belongs to."""

    # operator, hospital (its user), agent, coordinator (its own flows); open where
    # nobody needs a token.
    role: str
    user_id: int | None  # the hospital of a user or an agent

    @property
    def name(self) -> str:
        """By which it is counted: a hospital's user and its agent apart."""
        return f"{self.role}/{self.user_id}"


def token_digest(token: str) -> str:
    """SHA-256; a token has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


class HospitalStore:
    """Hospitals and tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, user_id: int, name: str) -> None:
        """Conflict when the id or the name is taken."""
        is_taken = sa.or_(hospitals.c.user_id == user_id, hospitals.c.name == name)
        query = sa.select(hospitals.c.user_id).where(is_taken)
        with self._database.begin() as connection:
            if connection.execute(query).first():
                raise Conflict(
                    f"Hospital {user_id} or the name {name} is registered already.",
                    remedy="Choose another, or rotate its token.",
                )
            connection.execute(hospitals.insert().values(user_id=user_id, name=name))

    def all(self) -> list[HospitalRow]:
        """By user id."""
        query = sa.select(hospitals).order_by(hospitals.c.user_id)
        with self._database.begin() as connection:
            return [HospitalRow(**row._mapping) for row in connection.execute(query)]

    def names(self) -> dict[int, str]:
        return {hospital.user_id: hospital.name for hospital in self.all()}

    def enrol(
        self,
        user_id: int,
        identity: str,
        version: str,
        scoring: str = "none",
        policy: Mapping[str, Any] | None = None,
        max_orders: int | None = None,
    ) -> None:
        """Keeps the first public keys that an agent presents: SQL is sealed to them.

        `scoring` is its policy's. Conflict for other keys than those: a stolen token
        must not draw later orders' SQL to the thief.
        """
        query = sa.select(hospitals).where(hospitals.c.user_id == user_id)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        # Whoever has a token but not the vault cannot take a hospital's place (decision
        # 24).
        first_identity = None if row is None else row.identity
        if first_identity not in (None, identity):
            raise Conflict(
                f"Hospital {user_id} has presented other keys before.",
                remedy="If its vault was lost, the operator runs: ./run server forget-keys "
                f"--user-id {user_id}, and its partners pin the new fingerprint.",
                code="keys_changed",
            )
        news = {
            "identity": identity,
            "agent_version": version,
            "scoring": scoring,
            "policy": policy,
            "max_orders": max_orders,
        }
        known = {} if row is None else {name: row._mapping[name] for name in news}
        if known == news:
            # Nothing new: this is no reason to turn it away while the disk is full.
            self.seen(user_id)
        else:
            self._touch(user_id, news)

    def forget_keys(self, user_id: int) -> None:
        """The hospital may present new keys once."""
        update = hospitals.update().where(hospitals.c.user_id == user_id)
        with self._database.begin() as connection:
            connection.execute(update.values(identity=None))

    def seen(self, user_id: int) -> None:
        """When it was seen is not kept while the disk is full.

        Nobody is turned away for that.
        """
        with contextlib.suppress(Unavailable):
            self._touch(user_id, {})

    def _touch(self, user_id: int, news: Mapping[str, Any]) -> None:
        update = hospitals.update().where(hospitals.c.user_id == user_id)
        with self._database.begin() as connection:
            connection.execute(update.values(last_seen=utc_now(), **news))

    # Tokens

    def add_token(self, token: str, role: str, user_id: int | None) -> None:
        # Only the digest: who reads the store can call with nobody's token.
        digest = token_digest(token)
        insert = tokens.insert().values(
            digest=digest, role=role, user_id=user_id, created=utc_now()
        )
        with self._database.begin() as connection:
            connection.execute(insert)

    def revoke_tokens(self, role: str, user_id: int | None) -> int:
        """Revokes every token of a role (and hospital); returns how many."""
        is_meant = sa.and_(
            tokens.c.role == role,
            tokens.c.user_id.is_not_distinct_from(user_id),
            tokens.c.revoked.is_(None),
        )
        update = tokens.update().where(is_meant).values(revoked=utc_now())
        with self._database.begin() as connection:
            return connection.execute(update).rowcount

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None for an unknown or revoked one."""
        digest = token_digest(token)
        query = sa.select(tokens).where(tokens.c.digest == digest)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        if row is None or row.revoked is not None:
            return None
        if not hmac.compare_digest(row.digest, digest):
            return None
        return Caller(row.role, row.user_id)
