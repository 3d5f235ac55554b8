"""First on the path of an agent's processes: all of them, Prefect's code among it, read
a clock that is wrong.

Python imports a module of this name when it starts. `datetime.now` is C's own and is
replaced where classes keep their methods; a class of ours in its place would not be
what pydantic knows.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import time
from typing import Any

AHEAD_SECONDS = float(os.environ["CONSILIUM_TEST_CLOCK_SECONDS"])

_right_time, _right_now = time.time, datetime.datetime.now


def _time() -> float:
    return _right_time() + AHEAD_SECONDS


def _now(cls: Any, tz: datetime.tzinfo | None = None) -> datetime.datetime:
    return _right_now(tz) + datetime.timedelta(seconds=AHEAD_SECONDS)


time.time = _time
time.time_ns = lambda: int(_time() * 1e9)
_methods: Any = gc.get_referents(datetime.datetime.__dict__)[0]
_methods["now"] = classmethod(_now)
_methods["utcnow"] = classmethod(
    lambda cls: _now(cls, datetime.UTC).replace(tzinfo=None)
)
ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
