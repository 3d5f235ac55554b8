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
    loggers = [logging.getLogger()]
    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] == "prefect":
            loggers.append(logging.getLogger(name))
    return {handler for logger in loggers for handler in logger.handlers}


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    if not record.exc_info or not record.name.startswith("prefect"):
        return True
    _, error, _ = record.exc_info
    return not isinstance(error, _LOST)
