"""Writes sharing_vectors.json: run it only when a format is changed on purpose, and
raise the version there.

.venv/bin/python tests/vectors/make_sharing_vectors.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from analytics.statistics.circuit import Plan  # noqa: E402
from analytics.statistics.compiling import plan  # noqa: E402
from analytics.statistics.exact import text_of  # noqa: E402
from analytics.statistics.kinds import Fixed  # noqa: E402
from analytics.statistics.reading import parse_expression  # noqa: E402
from protocol.shares import triples  # noqa: E402
from protocol.shares.ring import Ring  # noqa: E402
from protocol.shares.shared_expression import reveal  # noqa: E402
from protocol.shares.triples import (  # noqa: E402
    Buckets,
    linear_digest,
    uniform_order,
)
from protocol.sums.masks import Stream  # noqa: E402
from tasks.coordinator.dealing import (  # noqa: E402
    Dealt,
    deal,
)
from tests.made_providers import column, hall_of, seeds_of, shares_of  # noqa: E402

PATH = Path(__file__).with_name("sharing_vectors.json")
OWNERS = {"df1": 7, "df2": 3, "df3": 5}
COMPLETE = [0, 1, 3]
"""The rows of TABLE that miss nothing: an aggregate is over these, as the others are
left out before.
"""
TABLE: dict[str, list[int | None]] = {
    "df1.x": [1250, -3, None, 999999, 0],
    "df2.u": [3, -40, 5, -999999, None],
    "df3.v": [-1, 0, 7, 999999, 2],
}
EXPRESSIONS = {
    "product": "df1.x * df2.u",
    "comparison": "df1.x + df2.u >= df3.v",
    "choice": "case when df1.x > df2.u then df3.v else 0.5 end",
    "aggregates": "var(df1.x * df3.v) / count(df2.u)",
}
VALUES = [0, 1, -1, 2**31, -(2**63), 2**95 - 1, -(2**95)]


def made_plan(name: str) -> Plan:
    types = {column: Fixed.decimal(6, 2) for column in TABLE}
    return plan(
        parse_expression(EXPRESSIONS[name], dict.fromkeys(OWNERS)), types, OWNERS
    )


def rows_of(name: str) -> list[int]:
    return COMPLETE if name == "aggregates" else list(range(5))


def columns(name: str) -> dict[int, dict[str, Any]]:
    rows = rows_of(name)
    table = {full: [values[row] for row in rows] for full, values in TABLE.items()}
    return {
        owner: {
            full: column(values)
            for full, values in table.items()
            if full.startswith(alias)
        }
        for alias, owner in OWNERS.items()
    }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ring_vectors() -> list[dict[str, Any]]:
    return [
        {
            "n_limbs": ring.n_limbs,
            "values": [str(value) for value in VALUES],
            "bytes": ring.to_bytes(ring.encode(VALUES)).hex(),
            "decoded": [str(value) for value in ring.decode(ring.encode(VALUES))],
            "squares": ring.to_bytes(
                ring.multiply(ring.encode(VALUES), ring.encode(VALUES))
            ).hex(),
            "total": hex(ring.total(ring.encode(VALUES))),
        }
        for ring in (Ring(1), Ring(2), Ring(4))
    ]


def triple_vectors() -> dict[str, Any]:
    seeds = seeds_of((3, 5, 7))
    stream = Stream(bytes(32), b"vector", b"")
    return {
        "seeds": {str(provider): seed.hex() for provider, seed in seeds.items()},
        "numbers": triples.number_correction(seeds, 1, ring=Ring(3), count=2).hex(),
        "bits": triples.bit_correction(seeds, 2, count=3).hex(),
        "buckets": {
            str(n): [Buckets.of(n).n_buckets, Buckets.of(n).size]
            for n in (1, 1024, 5000, 2**19, 2**22)
        },
        "order": uniform_order(stream, 12).tolist(),
        "digest": hex(linear_digest(stream, np.arange(100, dtype=np.uint64))),
    }


def run_vectors(name: str) -> dict[str, Any]:
    """SHA-256 of what is dealt and opened, the shares themselves, and the result."""
    made, n_rows = made_plan(name), len(rows_of(name))
    hall = hall_of(made, n_rows)
    shares = shares_of(made, columns(name), n_rows, hall)
    result = reveal(made, shares)
    return {
        "expression": EXPRESSIONS[name],
        "steps": [repr(step) for step in made.steps],
        "bits": made.bits(n_rows),
        "dealt": {
            f"{number} to {provider}": digest(data)
            for (number, provider), data in hall.dealt.items()
        },
        "opened": {
            str(n): {str(p): digest(d) for p, d in sorted(by.items())}
            for n, by in sorted(hall.sent.items())
        },
        "shares": {
            str(provider): share.hex() for provider, share in sorted(shares.items())
        },
        "values": [written(value) for value in result.values],
    }


def written(value: Any) -> Any:
    return value if value is None or isinstance(value, bool) else text_of(value)


def must_fail() -> list[dict[str, Any]]:
    """Changes of one message that is dealt, and of one share, with the code of the
    refusal.
    """
    dealt = [
        ("a flipped bit of c", "product", 1, 0, "false_triple"),
        ("a flipped bit of the check's c", "product", 1, -1, "false_triple"),
        ("a flipped bit of a bit triple", "comparison", 1, 0, "false_triple"),
        ("another seed", "product", 0, 0, "false_triple"),
        ("a correction that is cut", "product", 1, None, "dealt"),
        ("a seed that is cut", "comparison", 0, None, "dealt"),
    ]
    shares = [
        ("a version of its own", 0, 255),
        ("one limb more", 3, 1),
        ("one row more", 11, 1),
        ("one number", 19, 1),
    ]
    return [
        *(
            {"what": w, "run": r, "number": n, "at": at, "code": code}
            for w, r, n, at, code in dealt
        ),
        *(
            {"what": w, "run": "product", "share": at, "xor": x, "code": "result_share"}
            for w, at, x in shares
        ),
    ]


def changed(data: bytes, at: int | None, xor: int = 1) -> bytes:
    """One byte changed, or the last one cut off."""
    if at is None:
        return data[:-1]
    octets = bytearray(data)
    octets[at] ^= xor
    return bytes(octets)


def dealt_of(name: str) -> list[Dealt]:
    made = made_plan(name)
    return list(deal(made, n_rows=len(rows_of(name)), seeds=seeds_of(made.providers)))


def all_vectors() -> dict[str, Any]:
    return {
        "ring": ring_vectors(),
        "triples": triple_vectors(),
        "runs": {name: run_vectors(name) for name in EXPRESSIONS},
        "must_fail": must_fail(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(all_vectors(), indent=1, ensure_ascii=False) + "\n")
