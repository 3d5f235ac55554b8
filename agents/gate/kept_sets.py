"""A set of members that has left or may leave: its column, its total, who was in it, and
how it is written down. `memory.py` keeps them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property

from agents.gate.members import Numbers
from analytics.arrays import row_chunks
from analytics.statistics.hospital_audit import Part

COORDINATOR = "coordinator"
"""Receives what leaves in clear."""

NO_SUM = 0
"""The least hospitals of what is no sum over several and hides no other's part."""

IDS_ALONE = "ids alone"
"""The form of sets that an earlier version has kept: ids, and no value."""

ANY_FORM = "any form"
"""Of what is no column: a person of any form is its own member."""


@dataclass(frozen=True)
class ColumnName:
    """Where members are numbered: those of one column of one population."""

    population: str
    name: str
    # How values are written before they are digested, by number, and what is a person:
    # "1, persons". Members of two forms are never compared.
    form: str

    @property
    def by_persons(self) -> ColumnName:
        """The same column, of which persons themselves are the members."""
        return ColumnName(self.population, self.name, f"{ANY_FORM}, {self._unit}")

    @property
    def _unit(self) -> str:
        return self.form.partition(", ")[2]

    def has_persons_of(self, form: str) -> bool:
        """Whether its persons are those of this column in another form."""
        other_column = ColumnName(self.population, self.name, form)
        return other_column.form != self.form and other_column._unit == self._unit


@dataclass(frozen=True)
class Terms:
    """What the parties of an order have said, in their acceptances, of hospitals that
    answers together would leave alone.
    """

    # The most that one of them asks for.
    least_hospitals: int
    # Those that let be told what they alone have.
    willing: frozenset[int]


@dataclass(frozen=True, eq=False)
class OpenedSet:
    """The members in a total that a receiver can open."""

    column: ColumnName
    members: Numbers  # (n,): numbers of members, sorted, each once
    name: str  # of the total within its order
    order_id: int
    # The coefficient in the total of each other hospital, or of its column, relative to
    # that of one's own.
    parts: Mapping[Part, Fraction]
    # That may be in a sum, by the strictest of the parties; by this hospital until all
    # have accepted.
    least_hospitals: int
    has_left: bool = False
    # The hospitals that in this order let be told what they alone have; None until all
    # have accepted, and where an earlier version has not written it down.
    willing: frozenset[int] | None = None
    # `digest`, of a set that comes from the file.
    kept_digest: bytes = b""

    @cached_property
    def digest(self) -> bytes:
        """Of the members: equal sets of a column have one."""
        if self.kept_digest:
            return self.kept_digest
        hasher = hashlib.blake2b(digest_size=32)
        for chunk in row_chunks(self.members.size):
            hasher.update(self.members[chunk].astype("<u4").tobytes())
        return hasher.digest()

    @cached_property
    def total(self) -> bytes:
        """Of the members, what the total was made of and what its parties said."""
        terms = f"{self.least_hospitals} {sorted(self.willing or ())}"
        return self.digest + f"{terms} {written_parts(self.parts)}".encode()

    @property
    def is_agreed(self) -> bool:
        """Whether all have accepted its order."""
        return self.has_left or self.willing is not None


@dataclass(frozen=True)
class Listed:
    """A line for who looks at what has left."""

    receiver: str
    population: str
    column: str
    name: str
    order_id: int
    n_members: int
    at: datetime
    has_left: bool


def written_parts(parts: Mapping[Part, Fraction]) -> str:
    """As [hospital, its column or null, coefficient], in one order for equal parts."""
    written = []
    for part, coefficient in parts.items():
        hospital, column = (part, None) if isinstance(part, int) else part
        written.append([hospital, column, str(coefficient)])
    written.sort(key=lambda entry: (entry[0], entry[1] or "", entry[2]))
    return json.dumps(written)


def read_parts(text: str) -> dict[Part, Fraction]:
    parts: dict[Part, Fraction] = {}
    for hospital, column, coefficient in json.loads(text):
        part = hospital if column is None else (hospital, column)
        parts[part] = Fraction(coefficient)
    return parts


def written_hospitals(hospitals: Collection[int]) -> str:
    return json.dumps(sorted(hospitals))


def read_hospitals(text: str) -> frozenset[int]:
    return frozenset(json.loads(text))
