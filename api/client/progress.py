"""One line that says how far an order is, in a terminal or below a notebook's cell."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from api.client.events import Event

BAR = 24


class Progress:
    """Redraws one line of stderr at each event of an order; where a line cannot be redrawn, prints the last one.

    >>> progress = Progress("Order 37", most_rounds=10, stream=sys.stdout)
    >>> progress.tell(Event("round", {"fold": 0, "round": 5, "loss": 0.62315}))
    >>> progress.tell(Event("state", {"order_id": 37, "state": "success"}))
    >>> progress.close()
    Order 37 [############            ] round 5 of 10, loss 0.62315, success, 0 s
    """

    def __init__(self, title: str, *, most_rounds: int | None = None, stream: TextIO | None = None) -> None:
        self._title, self._most_rounds = title, most_rounds
        self._stream = sys.stderr if stream is None else stream
        self._is_live = self._stream.isatty() or type(self._stream).__module__.startswith("ipykernel")
        self._began, self._width = time.monotonic(), 0
        self._done: tuple[int, int | None] = (0, most_rounds)
        self._words, self._state = "", "pending"

    def tell(self, event: Event) -> None:
        """Shows what an event says."""
        data = event.data
        if event.name == "round":
            fold = f"fold {data['fold']}, " if data["fold"] else ""
            most = f" of {self._most_rounds}" if self._most_rounds else ""
            self._done = (data["round"], self._most_rounds)
            self._words = f"{fold}round {data['round']}{most}, loss {data['loss']:.5g}, "
        elif event.name == "stage":
            self._done = (data["done"], data["of"])
            self._words = f"{data['what']}, "
        elif event.name == "state":
            self._state = data["state"]
        if self._is_live:
            self._draw()

    def close(self) -> None:
        """Ends the line."""
        if not self._is_live:
            self._stream.write(self._line())
        self._stream.write("\n")
        self._stream.flush()

    def _draw(self) -> None:
        line = self._line()[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def _line(self) -> str:
        return (
            f"{self._title} {self._bar()}{self._words}{self._state}, {time.monotonic() - self._began:.0f} s"
        )

    def _bar(self) -> str:
        done, of = self._done
        if not of:
            return ""
        return f"[{'#' * (BAR * min(done, of) // of):{BAR}}] "
