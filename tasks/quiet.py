"""What Prefect's own code writes of a lost connection is kept out of an agent's log: one line of ours says it.

Each of its services would write a traceback for itself, in each flow process.
"""

from __future__ import annotations

import logging

import httpx
from websockets.exceptions import WebSocketException

_LOST = (httpx.HTTPError, WebSocketException, ConnectionError, TimeoutError, EOFError)


def hush() -> None:
    """To be called once in each process, after Prefect has been imported, which sets its loggers up."""
    for handler in _handlers():
        handler.addFilter(_is_worth_a_line)


def _handlers() -> set[logging.Handler]:
    """Those to which the records of Prefect's loggers come: the root's, and those that some of them have."""
    named = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "prefect"]
    return {handler for name in ("", *named) for handler in logging.getLogger(name or None).handlers}


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (record.name.startswith("prefect") and isinstance(error, _LOST))
