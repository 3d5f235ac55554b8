"""First on the path of an agent's processes: all of them, Prefect's code among it, read a clock that is wrong.

Python imports a module of this name when it starts. `datetime.now` is C's own and is replaced where classes keep their
methods; a class of ours in its place would not be what pydantic knows.
"""

import ctypes
import datetime
import gc
import os
import time

AHEAD_SECONDS = float(os.environ["CONSILIUM_TEST_CLOCK_SECONDS"])

_right_time, _right_now = time.time, datetime.datetime.now


def _time():
    return _right_time() + AHEAD_SECONDS


def _now(cls, tz=None):
    return _right_now(tz) + datetime.timedelta(seconds=AHEAD_SECONDS)


time.time = _time
time.time_ns = lambda: int(_time() * 1e9)
_methods = gc.get_referents(datetime.datetime.__dict__)[0]
_methods["now"] = classmethod(_now)
_methods["utcnow"] = classmethod(lambda cls: _now(cls, datetime.UTC).replace(tzinfo=None))
ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
