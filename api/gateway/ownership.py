"""What belongs to which hospital: a flow run, a deployment and a queue have a work
pool, and a flow belongs to every pool that a deployment of it runs in.

Prefect is asked once for each id, since an id's pool never changes; what an answer to
the hospital itself has shown of its pool is remembered without asking.

Decision 79.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from api.gateway.relay import Relay
from protocol.errors import NotFound

MOST_KNOWN = 50_000
"""So many ids are remembered; of an older one Prefect is asked again."""


class Kind(Enum):
    """What an id in a path is of: Prefect's word for it there."""

    FLOW = "flows"
    FLOW_RUN = "flow_runs"
    DEPLOYMENT = "deployments"
    QUEUE = "work_queues"


@dataclass(frozen=True, slots=True)
class Owned:
    """Something of a pool's."""

    pool: str
    name: str


class Ownership:
    """Of which pool an id is, by Prefect's word."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        # By kind and id; a flow's by pool, too, since it may be of several.
        self._known: OrderedDict[tuple[Any, ...], Owned] = OrderedDict()

    async def require(
        self,
        kind: Kind,
        id_: UUID,
        pool: str,
    ) -> Owned:
        """NotFound unless it is this pool's: of another's it is not even said that it
        is there.
        """
        ownership_key = _key(kind, id_, pool)
        owned = self._known.get(ownership_key)
        if owned is None:
            owned = await self._ask(kind, id_, pool)
        if owned is None or owned.pool != pool:
            raise NotFound(
                f"This hospital has nothing of this id in {kind.value}.",
                remedy="Ask for what runs in its own pool.",
            )
        return owned

    def learn(
        self,
        pool: str,
        runs: Iterable[Any],
    ) -> None:
        """Flow runs that Prefect has just named, asked for those of this pool alone."""
        for flow_run in runs:
            run_id = UUID(flow_run["id"])
            ownership_key = _key(Kind.FLOW_RUN, run_id, pool)
            owned = Owned(pool, flow_run["name"])
            self._keep(ownership_key, owned)

    async def _ask(
        self,
        kind: Kind,
        id_: UUID,
        pool: str,
    ) -> Owned | None:
        if kind is Kind.FLOW:
            record = await self._flow_of(id_, pool)
        else:
            record = await self._relay.read(f"/{kind.value}/{id_}")
        # That there is none is not remembered: it may come to be.
        if record is None:
            return None
        of_pool = pool
        if kind is not Kind.FLOW:
            # A queue or a run without a pool is nobody's.
            of_pool = record.get("work_pool_name") or ""
        # Another pool's is remembered, too: who asks for it again and again costs
        # Prefect one call.
        owned = Owned(of_pool, record["name"])
        ownership_key = _key(kind, id_, pool)
        self._keep(ownership_key, owned)
        return owned

    async def _flow_of(self, id_: UUID, pool: str) -> Any:
        filters = {
            "flows": {"id": {"any_": [str(id_)]}},
            "work_pools": {"name": {"any_": [pool]}},
            "limit": 1,
        }
        flows = await self._relay.find("/flows/filter", filters)
        if not flows:
            return None
        return flows[0]

    def _keep(
        self,
        key: tuple[Any, ...],
        owned: Owned,
    ) -> None:
        self._known[key] = owned
        self._known.move_to_end(key)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)


def _key(
    kind: Kind,
    id_: UUID,
    pool: str,
) -> tuple[Any, ...]:
    if kind is Kind.FLOW:
        return (kind, id_, pool)
    return (kind, id_)
