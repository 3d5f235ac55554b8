"""What the coordinator keeps: orders, rounds, messages, schedules. The only room that
speaks SQL.

`Store` is one database with a small store for each subject: `store.orders.add(...)`,
`store.messages.put(...)`. Their methods block; a route calls them through `in_thread`
(api/store/engine.py). What they return are the frozen rows of api/store/rows.py; the
tables behind them stand in api/store/tables.py.

SQLite by default, PostgreSQL by URL. The store holds who takes part, what was ordered
and how far it is, the exchange's messages, and which round files there are. It never
holds a row, a gradient, a model, or an SQL text in clear.
"""

from __future__ import annotations

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

    def __init__(self, url: str, disk: Disk | None = None) -> None:
        super().__init__(url, disk)
        self.hospitals = HospitalStore(self)
        self.orders = OrderStore(self)
        self.places = PlaceStore(self)
        self.messages = MessageStore(self)
        self.rounds = RoundStore(self)
        self.schedules = ScheduleStore(self)
        self.sessions = SessionStore(self)
