"""What providers state to each other of their groups: the names of those with enough
rows, tags of the others, and why each is withheld.

Decision 39. To read next: what withholds a group, `withheld_groups`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agents.gate.withheld_groups import Hidden, Label, Withheld, named_groups
from protocol.errors import BadRequest, ProtocolViolation
from protocol.messages import canonical

MOST_GROUPS = 10_000
_OWN_RULES = ("min_rows", "max_share", "pair_rows", "earlier_cohort", "complement")
"""By which one hospital withholds a group."""
_KEY_BYTES = 32
_TAG_BYTES = 16
_TAG = re.compile(r"[0-9a-f]{32}")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,39}(/[1-9][0-9]{0,39})?")


def encode_statement(
    groups: Iterable[Label],
    withheld: Mapping[Label, Withheld],
    *,
    key: bytes,
) -> bytes:
    """This hospital's groups, each with why it is withheld or null, as canonical JSON.

    `key` is a group key of the order, 32 bytes. BadRequest (code group_by) for more
    than MOST_GROUPS groups.

    Disclosure: to the order's hospitals, sealed to the group: the labels that at least
    min_rows rows have. A label of fewer rows goes as a keyed tag, which says something
    only to who has that label too, or guesses it.
    """
    entries = []
    for label in groups:
        why = withheld.get(label)
        entries.append(_entry(label, why, key))
    if len(entries) > MOST_GROUPS:
        raise BadRequest(
            f"group_by makes more than {MOST_GROUPS} groups at a hospital.",
            remedy="Group by columns with fewer different values.",
            code="group_by",
        )
    return _written(entries)


def _written(entries: list[Any]) -> bytes:
    in_order = sorted(entries, key=canonical)
    return canonical({"groups": in_order}).encode()


def _entry(
    label: Label,
    why: Withheld | None,
    key: bytes,
) -> list[Any]:
    if why is None:
        return [list(label), None]
    # The name of a group of few rows can itself be what must not be known (decision
    # 39).
    is_hidden = why.rule == "min_rows"
    written = _tag(label, key) if is_hidden else list(label)
    reason = [why.rule, why.threshold]
    return [written, reason]


def _tag(label: Label, key: bytes) -> str:
    if len(key) != _KEY_BYTES:
        raise _violation(f"has a key of other than {_KEY_BYTES} bytes")
    label_text = canonical(list(label))
    digest = hashlib.blake2b(
        label_text.encode(),
        key=key,
        digest_size=_TAG_BYTES,
    )
    return digest.hexdigest()


def decode_statements(
    statements: Mapping[int, bytes],
    *,
    n_columns: int,
    key: bytes,
) -> dict[int, dict[Label | Hidden, Withheld | None]]:
    """What every provider stated, by its user id: hidden groups under their label where
    anybody names it.

    Every hospital decodes the same bytes, its own among them, so all come to the same.
    ProtocolViolation for anything but what `encode_statement` writes for labels of
    `n_columns` values.
    """
    decoded = {}
    for provider, statement in statements.items():
        decoded[provider] = _decode_statement(statement, n_columns)
    label_of: dict[Label | Hidden, Label] = {}
    for label in named_groups(decoded):
        hidden = Hidden(_tag(label, key))
        label_of[hidden] = label
    stated = {}
    for provider, groups in decoded.items():
        by_label: dict[Label | Hidden, Withheld | None] = {}
        for group, why in groups.items():
            named = label_of.get(group, group)
            by_label[named] = why
        # Once by its name and once by its tag: nobody could say which of the two holds.
        if len(by_label) < len(groups):
            raise _violation("names a group twice")
        stated[provider] = by_label
    return stated


def _decode_statement(
    data: bytes,
    n_columns: int,
) -> dict[Label | Hidden, Withheld | None]:
    try:
        entries = json.loads(data)["groups"]
        groups = {}
        for label, why in entries:
            group = _group(label, n_columns)
            groups[group] = _why(why)
        is_canonical = _written(entries) == data
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _violation("cannot be read") from None
    names_twice = len(groups) < len(entries)
    has_too_many = len(entries) > MOST_GROUPS
    if not is_canonical or names_twice or has_too_many:
        raise _violation("is not written as it should be")
    for label, why in groups.items():
        has_few_rows = why is not None and why.rule == "min_rows"
        if isinstance(label, Hidden) != has_few_rows:
            raise _violation("is not written as it should be")
    return groups


def _group(label: Any, n_columns: int) -> Label | Hidden:
    """A group as `_entry` writes it: a tag, or the values of its columns. ValueError
    for anything else.
    """
    if isinstance(label, str) and _TAG.fullmatch(label):
        return Hidden(label)
    if not isinstance(label, list) or len(label) != n_columns:
        raise ValueError
    are_values = all(value is None or isinstance(value, str) for value in label)
    if not are_values:
        raise ValueError
    return tuple(label)


def _why(why: Any) -> Withheld | None:
    if why is None:
        return None
    rule, threshold = why
    # One hospital alone cannot know the rule min_providers.
    if rule not in _OWN_RULES:
        raise ValueError
    if not _THRESHOLD.fullmatch(threshold):
        raise ValueError
    # A share is the one that need not be whole.
    if "/" in threshold and rule != "max_share":
        raise ValueError
    return Withheld(rule, threshold)


def _violation(problem: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"A statement of groups {problem}.",
        remedy="Nothing was computed. Run the same version at all hospitals.",
        code="bad_message",
    )
