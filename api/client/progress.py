"""One line that shows how far an order is, in a terminal or below a notebook's cell."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from api.client.events import Event

BAR_LETTERS = 24


class Progress:
    """Redraws one line of stderr at each event of an order; where a line cannot be
    redrawn, prints the last one.

    >>> progress = Progress("Order 37", most_rounds=10, stream=sys.stdout)
    >>> progress.tell(Event("round", {"fold": 0, "round": 5, "loss": 0.62315}))
    >>> progress.tell(Event("state", {"order_id": 37, "state": "success"}))
    >>> progress.end_with(["Training ended by max_iter."])
    >>> progress.close()
    Order 37 [########################] round 5 of 10, loss 0.62315, success, 0 s
    Warning: Training ended by max_iter.
    """

    def __init__(
        self,
        title: str,
        *,
        most_rounds: int | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self._title = title
        self._most_rounds = most_rounds
        self._stream = sys.stderr if stream is None else stream
        # A notebook's stream is no terminal, and redraws a line all the same.
        is_notebook = type(self._stream).__module__.startswith("ipykernel")
        self._is_live = is_notebook or self._stream.isatty()
        self._began = time.monotonic()
        self._n_done = 0
        self._n_parts = most_rounds
        self._words = ""
        self._state = "pending"
        # Of the line that is on the screen: a shorter one has to cover it.
        self._width = 0
        self._sentences: list[str] = []

    def tell(self, event: Event) -> None:
        """Shows an event."""
        data = event.data
        if event.name == "round":
            number, loss = data["round"], data["loss"]
            fold = f"fold {data['fold']}, " if data["fold"] else ""
            of_most = f" of {self._most_rounds}" if self._most_rounds else ""
            # None where the hospitals withhold the metrics of their own rows.
            loss_words = "withheld" if loss is None else f"{loss:.5g}"
            self._words = f"{fold}round {number}{of_most}, loss {loss_words}, "
            self._n_done = number
            self._n_parts = self._most_rounds
        elif event.name == "stage":
            self._words = f"{data['what']}, "
            self._n_done = data["done"]
            self._n_parts = data["of"]
        elif event.name == "state":
            self._state = data["state"]
        if self._is_live:
            self._draw()

    def end_with(self, sentences: list[str]) -> None:
        """What is to be said when the line has ended, a line each."""
        self._sentences = sentences

    def close(self) -> None:
        """Ends the line."""
        if not self._is_live:
            self._stream.write(self._line())
        self._stream.write("\n")
        for sentence in self._sentences:
            self._stream.write(f"Warning: {sentence}\n")
        self._stream.flush()

    def _draw(self) -> None:
        # A line as wide as the terminal would break, and the next one would be drawn
        # below it.
        n_columns = shutil.get_terminal_size().columns
        drawn_line = self._line()[: n_columns - 1]
        self._stream.write("\r" + drawn_line.ljust(self._width))
        self._stream.flush()
        self._width = len(drawn_line)

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        return f"{self._title} {self._bar()}{self._words}{self._state}, {seconds:.0f} s"

    def _bar(self) -> str:
        """Nothing where nobody knows how many parts there are."""
        if not self._n_parts:
            return ""
        n_done = min(self._n_done, self._n_parts)
        # Training may converge before its last round.
        if self._state == "success":
            n_done = self._n_parts
        marks = "#" * (BAR_LETTERS * n_done // self._n_parts)
        return f"[{marks:{BAR_LETTERS}}] "
