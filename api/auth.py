"""Who gets in: bearer tokens, stored hashed, and what each role may do. No token 401,
the wrong one 403.

A route takes `CallerOf`, and asks one of the `require_` functions before it reads
anything of an order. Tokens are made and looked up in `api/store/hospitals.py`.
"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.store import Store
from api.store.engine import in_thread
from api.store.hospitals import Caller, token_digest
from protocol.errors import Forbidden, TooManyRequests, Unauthenticated

OPERATOR = "operator"  # the coordinator's own people, who may read every order
HOSPITAL = "hospital"  # a hospital's users, in its own name only
AGENT = "agent"  # the process at a hospital
COORDINATOR_ROLE = "coordinator"  # the coordinator's own flows
OPEN = "open"  # everybody, where authentication is switched off
ANYBODY = Caller(OPEN, None)
ENROLMENT_ADDRESS = "/hospitals/me/token"
"""The one address that takes an enrolment's token, which is nobody's anywhere else."""
MOST_SEEN = 10_000
"""So many tokens are remembered; of any other the store is asked first."""


class Rate:
    """A token bucket for each caller: `per_second` calls, with bursts of as many as
    four seconds allow.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = 4 * per_second
        # By caller: the calls that are left, and when that was so.
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(
        self,
        who: str,
        *,
        now: float | None = None,
    ) -> None:
        """Raises TooManyRequests when the bucket is empty."""
        if now is None:
            now = time.monotonic()
        remaining_calls = self.check(who, now=now)
        self._buckets[who] = (remaining_calls - 1, now)

    def check(
        self,
        who: str,
        *,
        now: float | None = None,
    ) -> float:
        """The calls that are left. TooManyRequests when there are none."""
        if now is None:
            now = time.monotonic()
        full = (self._burst, now)
        remaining_calls, earlier = self._buckets.get(who, full)
        passed_seconds = now - earlier
        refilled = passed_seconds * self._per_second
        remaining_calls = min(self._burst, remaining_calls + refilled)
        if remaining_calls < 1:
            raise TooManyRequests(
                f"This token makes more than {self._per_second:g} calls a second.",
                remedy="Wait a second, then go on.",
            )
        return remaining_calls


class SeenTokens:
    """Whose the tokens were that came last, by their digests: to refuse a call before
    the store is asked, and never to let one in.

    A crowd that is refused would otherwise cost as much as what is answered.
    """

    def __init__(self) -> None:
        self._callers: dict[str, Caller] = {}

    def caller(self, connection: HTTPConnection) -> Caller | None:
        header = connection.headers.get("authorization", "")
        _, _, token = header.partition(" ")
        digest = token_digest(token.strip())
        return self._callers.get(digest)

    def add(self, token: str, caller: Caller) -> None:
        digest = token_digest(token)
        # Taken out first: a dictionary keeps the place of a key that it has, and the
        # oldest go.
        self._callers.pop(digest, None)
        self._callers[digest] = caller
        while len(self._callers) > MOST_SEEN:
            oldest = next(iter(self._callers))
            del self._callers[oldest]


async def current_caller(request: HTTPConnection) -> Caller:
    """Who makes a call of HTTP; looked up once for each, at the door."""
    caller: Caller | None = getattr(request.state, "caller", None)
    return caller or await caller_of(request)


async def caller_of(connection: HTTPConnection) -> Caller:
    """Who calls, or opens a socket, by the Authorization header.

    With authentication switched off, a call without a token is anybody's.
    """
    app_state = connection.app.state
    header = connection.headers.get("authorization", "")
    scheme, _, credentials = header.partition(" ")
    token = credentials.strip()
    if not header and not app_state.settings.authentication:
        return ANYBODY
    # A token that was sent is checked also where none is needed.
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(
            "This address needs a token.",
            remedy="Send the header Authorization: Bearer <token>; see docs/api.md.",
        )
    store: Store = app_state.store
    # Asked for at every call: of a token that was remembered nobody would notice that
    # it has been revoked.
    caller = await in_thread(store.hospitals.caller, token)
    people = app_state.settings.sign_in
    if caller is None and people is not None:
        caller = await in_thread(store.sessions.person, token)
        # A group that the settings name no longer opens nothing any more.
        if caller is not None and not people.opens(caller.user_id):
            caller = None
    # A page's own call, as of a token that somebody types in, has no address.
    path = connection.scope.get("path", "")
    address = path.rstrip("/")
    if caller is None and address == ENROLMENT_ADDRESS:
        caller = await in_thread(store.hospitals.enrolment, token)
    if caller is None:
        raise Forbidden(
            "This token is not known or was revoked.",
            remedy="Ask the operator for a new one.",
            code="token",
        )
    app_state.seen_tokens.add(token, caller)
    # By name and not by token: ten tokens of a hospital make no more calls than one.
    app_state.rate.spend(caller.name)
    return caller


CallerOf = Annotated[Caller, Depends(current_caller)]


def require_role(caller: Caller, *roles: str) -> None:
    """Forbidden unless the caller has one of the roles.

    ANYBODY (authentication off) passes.
    """
    if caller.role not in (*roles, OPEN):
        allowed = " or ".join(roles)
        raise Forbidden(
            f"A token of role {caller.role} may not do this.",
            remedy=f"It takes a token of role {allowed}.",
        )


def require_owner(caller: Caller, user_id: int) -> None:
    """Forbidden unless the caller is this hospital's user: one orders and infers in
    one's own name only.
    """
    require_role(caller, HOSPITAL)
    is_own = caller.user_id == user_id
    if caller.role != OPEN and not is_own:
        raise Forbidden(
            f"This token belongs to another hospital than {user_id}.",
            remedy="Use a token of the hospital itself.",
        )


def require_reader(caller: Caller, hospitals: list[int]) -> None:
    """Forbidden unless the caller is an operator or a party of the order."""
    if caller.role in (OPEN, OPERATOR, COORDINATOR_ROLE):
        return
    if caller.user_id in hospitals:
        return
    raise Forbidden(
        "This order is not one of this hospital's.",
        remedy="Ask a party of the order or the operator.",
    )
