"""What the coordinator keeps: orders, rounds, messages, schedules. The only room that
speaks SQL.

`Store` is one database with a small store for each subject: `store.orders.add(...)`,
`store.messages.put(...)`. Their methods block; a route calls them through `in_thread`
(api/store/engine.py). What they return are the frozen rows of api/store/rows.py; the
tables behind them stand in api/store/tables.py.

SQLite by default, PostgreSQL by URL; large messages are files beside it. The store
holds who takes part, what was ordered
and how far it is, the exchange's messages, and which round files there are. It never
holds a row, a gradient, a model, or an SQL text in clear.
"""

from __future__ import annotations

from datetime import datetime

from api.store.bodies import Bodies
from api.store.disk import Disk
from api.store.engine import Database
from api.store.hospitals import HospitalStore
from api.store.messages import MessageStore
from api.store.orders import OrderStore
from api.store.places import PlaceStore
from api.store.rounds import RoundStore
from api.store.schedules import ScheduleStore
from api.store.sessions import SessionStore


class Store(Database):
    """The coordinator's database, and what is read and written in it.

    Every method of these is one transaction.
    """

    def __init__(
        self, url: str, disk: Disk | None = None, *, exchange_url: str | None = None
    ) -> None:
        """`exchange_url` is where large messages are kept: a folder, or an address that
        fsspec knows. Beside SQLite's file unless told.

        BadRequest as `Database` and `Bodies`.
        """
        super().__init__(url, disk)
        self.bodies = Bodies(exchange_url or str(self.folder / "exchange"), disk)
        self.hospitals = HospitalStore(self)
        self.orders = OrderStore(self, self.bodies)
        self.places = PlaceStore(self)
        self.messages = MessageStore(self, self.bodies)
        self.rounds = RoundStore(self)
        self.schedules = ScheduleStore(self)
        self.sessions = SessionStore(self)

    def clean_up_bodies(self, before: datetime) -> int:
        """Removes large messages' files that a crash has left without a row, and that
        have not changed since; how many.
        """

        def named_by(order_id: int) -> set[str] | None:
            if not self.orders.exists(order_id):
                return None
            return self.messages.files(order_id)

        return self.bodies.clean_up(named_by, before)
