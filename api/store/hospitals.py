"""Who takes part: hospitals, and the tokens by which callers are known.

Of a hospital stands here what its agent says of itself.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from api.store.engine import Database
from api.store.rows import HospitalRow
from api.store.tables import hospitals, page_sessions, tokens, utc_now
from protocol.errors import Conflict, Forbidden, Unavailable
from protocol.versions import UNSAID_WINDOW, Window

ENROLMENT = "enrolment"
"""The role of a token that makes an agent's token known, once, and nothing else."""
ENROLMENT_DAYS = 7


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


_HAS_DIGEST = tokens.c.digest == sa.bindparam("digest")

_TOKEN = sa.select(tokens).where(_HAS_DIGEST)
"""Asked at every call: made once."""


class HospitalStore:
    """Hospitals and tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, user_id: int, name: str) -> None:
        """Conflict when the id or the name is taken."""
        is_taken = sa.or_(
            hospitals.c.user_id == user_id,
            hospitals.c.name == name,
        )
        taken_query = sa.select(hospitals.c.user_id).where(is_taken)
        insert = hospitals.insert().values(
            user_id=user_id,
            name=name,
        )
        try:
            with self._database.begin() as connection:
                earlier = connection.execute(taken_query).first()
                if earlier:
                    raise _taken(user_id, name)
                connection.execute(insert)
        except sa.exc.IntegrityError:
            # Somebody else registered one of them between the look and the row.
            raise _taken(user_id, name) from None

    def all(self) -> list[HospitalRow]:
        """By user id."""
        query = sa.select(hospitals).order_by(hospitals.c.user_id)
        with self._database.begin() as connection:
            rows = connection.execute(query)
            return [HospitalRow(**row._mapping) for row in rows]

    def names(self) -> dict[int, str]:
        all_hospitals = self.all()
        return {hospital.user_id: hospital.name for hospital in all_hospitals}

    def enrol(
        self,
        user_id: int,
        identity: str,
        version: str,
        scoring: str = "none",
        policy: Mapping[str, Any] | None = None,
        max_orders: int | None = None,
        speaks: Window = UNSAID_WINDOW,
    ) -> None:
        """Keeps the first public keys that an agent presents: SQL is sealed to them.

        `scoring` is its policy's, `speaks` the protocol numbers that it takes. Conflict
        for other keys than those: a stolen token must not draw later orders' SQL to the
        thief.
        """
        is_meant = hospitals.c.user_id == user_id
        hospital_query = sa.select(hospitals).where(is_meant)
        news = {
            "identity": identity,
            "agent_version": version,
            "scoring": scoring,
            "policy": policy,
            "max_orders": max_orders,
            "protocol": speaks.newest,
            "oldest_protocol": speaks.oldest,
        }
        # Asked by the write itself: of two first enrolments at one time both have read
        # that there are no keys yet.
        has_no_others = sa.or_(
            hospitals.c.identity.is_(None),
            hospitals.c.identity == identity,
        )
        update = hospitals.update().where(is_meant, has_no_others)
        with self._database.begin() as connection:
            row = connection.execute(hospital_query).first()
            earlier: dict[str, Any] = {}
            if row is not None:
                earlier = {column: row._mapping[column] for column in news}
            is_new = earlier != news
            n_changed = 0
            if is_new:
                n_changed = self._touch(connection, update, news)
        if not is_new:
            # Nothing new: this is no reason to turn it away while the disk is full.
            self.seen(user_id)
        elif row is not None and n_changed == 0:
            # Whoever has a token but not the vault cannot take a hospital's place
            # (decision 24).
            raise Conflict(
                f"Hospital {user_id} has presented other keys before.",
                remedy="If its vault was lost, the operator runs: ./run server forget-keys "
                f"--user-id {user_id}, and its partners pin the new fingerprint.",
                code="keys_changed",
            )

    def forget_keys(self, user_id: int) -> None:
        """The hospital may present new keys once."""
        is_meant = hospitals.c.user_id == user_id
        update = hospitals.update().where(is_meant)
        forgotten = update.values(identity=None)
        with self._database.begin() as connection:
            connection.execute(forgotten)

    def seen(self, user_id: int) -> None:
        """When it was seen is not kept while the disk is full.

        Nobody is turned away for that.
        """
        is_meant = hospitals.c.user_id == user_id
        update = hospitals.update().where(is_meant)
        with contextlib.suppress(Unavailable), self._database.begin() as connection:
            self._touch(connection, update, {})

    def _touch(
        self,
        connection: sa.Connection,
        update: sa.Update,
        news: Mapping[str, Any],
    ) -> int:
        """How many hospitals the update was of: one or none."""
        changed = update.values(last_seen=utc_now(), **news)
        return connection.execute(changed).rowcount

    # Tokens

    def add_token(
        self,
        token: str,
        role: str,
        user_id: int | None,
    ) -> None:
        # Only the digest: who reads the store can call with nobody's token.
        digest = token_digest(token)
        insert = tokens.insert().values(
            digest=digest,
            role=role,
            user_id=user_id,
            created=utc_now(),
        )
        with self._database.begin() as connection:
            connection.execute(insert)

    def revoke_tokens(self, role: str, user_id: int | None) -> int:
        """Revokes every token of a role (and hospital); returns how many.

        Whom an identity provider has signed in as the same is out, too.
        """
        is_meant = sa.and_(
            tokens.c.role == role,
            # The operator has no number, and in SQL NULL = NULL is not true: the
            # operator's tokens would never be revoked.
            tokens.c.user_id.is_not_distinct_from(user_id),
            tokens.c.revoked.is_(None),
        )
        is_theirs = sa.and_(
            page_sessions.c.role == role,
            page_sessions.c.user_id.is_not_distinct_from(user_id),
        )
        update = tokens.update().where(is_meant)
        revoked = update.values(revoked=utc_now())
        sign_out = page_sessions.delete().where(is_theirs)
        with self._database.begin() as connection:
            # With the tokens or not at all: a crash in between would leave somebody
            # signed in whose tokens are revoked.
            connection.execute(sign_out)
            return connection.execute(revoked).rowcount

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None for an unknown or revoked one."""
        digest = token_digest(token)
        with self._database.begin() as connection:
            rows = connection.execute(_TOKEN, {"digest": digest})
            row = rows.first()
        if row is None or row.revoked is not None:
            return None
        is_same = hmac.compare_digest(row.digest, digest)
        # An enrolment opens one address, which asks `enrolment` for it: here it is
        # nobody's token.
        if not is_same or row.role == ENROLMENT:
            return None
        return Caller(row.role, row.user_id)

    # Enrolment: an agent makes its token itself, and shows its digest by a token of one
    # use (decision 110)

    def enrolment(self, token: str) -> Caller | None:
        """Whose enrolment a token is, used, expired or not; None for any other."""
        digest = token_digest(token)
        is_meant = sa.and_(
            tokens.c.digest == digest,
            tokens.c.role == ENROLMENT,
        )
        token_query = sa.select(tokens).where(is_meant)
        with self._database.begin() as connection:
            row = connection.execute(token_query).first()
        if row is None:
            return None
        return Caller(row.role, row.user_id)

    def take_enrolment(
        self,
        token: str,
        agent_digest: str,
        *,
        now: datetime.datetime | None = None,
    ) -> None:
        """Knows an agent's token from now on by its digest, and the enrolment no more.

        The same digest again is fine: the agent may not have heard the first answer.
        Forbidden (codes enrolment_used, enrolment_expired, enrolment_token).
        """
        now = now or utc_now()
        digest = token_digest(token)
        is_enrolment = tokens.c.digest == digest
        of_token = sa.select(tokens).where(is_enrolment)
        is_agents = tokens.c.digest == agent_digest
        of_agent = sa.select(tokens).where(is_agents)
        with self._database.begin() as connection:
            enrolment = connection.execute(of_token).one()
            agent_token = connection.execute(of_agent).first()
            if agent_token is not None:
                _check_same_agent(agent_token, enrolment)
                return
            validity = datetime.timedelta(days=ENROLMENT_DAYS)
            # Behind the look for the agent's own token: who was answered before, and
            # has not heard it, may ask again however late.
            if enrolment.created + validity < now:
                raise _no_enrolment("has expired", code="enrolment_expired")
            # One of two at the same time is too late.
            unused = sa.and_(
                tokens.c.digest == digest,
                tokens.c.revoked.is_(None),
            )
            update = tokens.update().where(unused)
            revocation = update.values(revoked=now)
            n_changed = connection.execute(revocation).rowcount
            if n_changed != 1:
                # The agent may have asked twice: then the other call has just made
                # this very token known.
                agent_token = connection.execute(of_agent).first()
                if agent_token is not None:
                    used_enrolment = connection.execute(of_token).one()
                    _check_same_agent(agent_token, used_enrolment)
                    return
                raise _no_enrolment("has been used, or replaced", code="enrolment_used")
            insert = tokens.insert().values(
                digest=agent_digest,
                role="agent",
                user_id=enrolment.user_id,
                created=now,
            )
            # In the transaction that uses the enrolment up: a crash between two would
            # shut the hospital out.
            connection.execute(insert)


def _taken(user_id: int, name: str) -> Conflict:
    return Conflict(
        f"Hospital {user_id} or the name {name} is registered already.",
        remedy="Choose another, or rotate its token.",
    )


def _check_same_agent(
    agent_token: sa.Row[Any],
    enrolment: sa.Row[Any],
) -> None:
    """A digest that is known already is that of this enrolment's own agent."""
    is_agent = agent_token.role == "agent"
    is_own = is_agent and agent_token.user_id == enrolment.user_id
    is_used = enrolment.revoked is not None
    is_taken = is_used and agent_token.created >= enrolment.created
    is_revoked = agent_token.revoked is not None
    if not is_own or not is_taken or is_revoked:
        raise Forbidden(
            "This is no new token.",
            remedy="Remove the file token from the state folder, and run init again.",
            code="enrolment_token",
        )


def _no_enrolment(predicate: str, *, code: str) -> Forbidden:
    return Forbidden(
        f"This enrolment {predicate}.",
        remedy="Ask the operator for a new file (./run server enrol). If nobody here has used this one, say so: then "
        "somebody else may have had it.",
        code=code,
    )
