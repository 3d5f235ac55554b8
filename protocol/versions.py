"""Two numbers: a release's version, and the protocol that its parts speak.

The version (`protocol.VERSION`) says which release an installation is. The protocol
number says how messages are written and what an order may ask for. A release speaks a
window of two, its own and the one before, so that hospitals need not upgrade on one
day; an order is written in one of them from its first message to its last: the largest
that all of its hospitals speak (`common_protocol`). The number stands in the order's
document, which the initiator signs and all keys of the run hang on; in every message's
header; and each hospital signs in its acceptance up to which number it could have gone,
so that nobody on the way lowers it (`check_agreed`).

Decisions 132 and 133.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol import VERSION
from protocol.errors import Conflict, ProtocolViolation, Refused, bad_request

PROTOCOL = 3
"""The newest number that this release speaks. It grows by one where a message or a key
is made otherwise; tests/vectors has the bytes of each.
"""

OLDEST_PROTOCOL = 2
"""The oldest: the number before. A release whose fix closes a hole in an older one sets
both to the same, and so closes the window.
"""

UNSAID = 2
"""What an agent speaks that does not say so: none of before protocol 3 does."""

LARGEST_PROTOCOL = 255
"""A message's header has one byte for it."""

FEATURES = {"start_window": 3, "sparse_masks": 3}
"""By what an order makes use of, the least number that it has to be written in."""

FEATURE_OF_FIELD = {"start_within_seconds": "start_window", "at_least": "start_window"}
"""By fields of an order's request. What no field asks for, such as sparse masks, an
order has where its number is large enough (`has_feature`).
"""

_MARK = 0x80
"""The highest bit of an X25519 key's last byte."""

_NUMBERS = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")


def numbers_of(version: str) -> tuple[int, ...] | None:
    """(1, 10, 0) of 1.10.0; None for what is no version of a release."""
    matched = _NUMBERS.fullmatch(version)
    return (
        None if matched is None else tuple(int(digits) for digits in matched.groups())
    )


def is_older(version: str, other: str) -> bool:
    """False where either is no version of a release: nothing is known of those.

    >>> is_older("1.9.0", "1.10.0")
    True
    """
    numbers, other_numbers = numbers_of(version), numbers_of(other)
    return numbers is not None and other_numbers is not None and numbers < other_numbers


def bundle_name(version: str, python: str) -> str:
    """Of the agent's offline bundle, without .tar; `python` is 3.11 or the like."""
    return f"consilium-agent-{version}-py{python}"


def upgrade_command(version: str, python: str = "3.NN") -> str:
    """What a hospital's IT runs to get to a version."""
    bundle = bundle_name(version, python)
    return f"consilium-agent upgrade --site FOLDER --bundle {bundle}.tar"


def other_version_remedy(agent: str, coordinator: str, python: str = "3.NN") -> str:
    """What is done where an agent's version is not the coordinator's: by the hospital's
    IT where the agent is the older one, by the operator where the coordinator is.
    """
    if is_older(coordinator, agent):
        return (
            f"The operator upgrades the coordinator to {agent}; or the hospital's IT goes back to {coordinator},"
            " where that ran before: consilium-agent upgrade --back."
        )
    return (
        f"The hospital's IT upgrades the agent: {upgrade_command(coordinator, python)}."
    )


# What an agent speaks


@dataclass(frozen=True)
class Window:
    """The protocol numbers that one part takes, from the oldest to the newest."""

    oldest: int
    newest: int

    def __contains__(self, protocol: int) -> bool:
        return self.oldest <= protocol <= self.newest

    def __str__(self) -> str:
        if self.oldest == self.newest:
            return str(self.newest)
        return f"{self.oldest} to {self.newest}"

    def not_below(self, oldest: int) -> Window:
        """Of these numbers those that are not below a policy's `oldest_protocol`."""
        return Window(max(self.oldest, oldest), self.newest)

    def meets(self, other: Window) -> bool:
        """Whether both have a number in common."""
        return max(self.oldest, other.oldest) <= min(self.newest, other.newest)


SPOKEN = Window(OLDEST_PROTOCOL, PROTOCOL)
"""What this release speaks, where nothing is stricter."""

UNSAID_WINDOW = Window(UNSAID, UNSAID)


def has_feature(feature: str, protocol: int) -> bool:
    """Whether an order of this number may make use of a feature."""
    return protocol >= FEATURES[feature]


def features_of(request: Mapping[str, Any]) -> set[str]:
    """The features that an order's request asks for, by its fields that say something."""
    features = set()
    for field_name, feature in FEATURE_OF_FIELD.items():
        if request.get(field_name) is not None:
            features.add(feature)
    return features


def common_protocol(
    windows: Mapping[int, Window],
    features: Iterable[str] = (),
    *,
    own: Window = SPOKEN,
    version: str = VERSION,
) -> int:
    """The largest number that all hospitals of an order speak, and this coordinator.

    Conflict (code protocol) where there is none, or where a feature needs a larger one;
    it names who lags, in `detail.hospitals`, and the command to upgrade.
    """
    newest = min([own.newest, *(window.newest for window in windows.values())])
    oldest = max([own.oldest, *(window.oldest for window in windows.values())])
    needs = {feature: FEATURES[feature] for feature in sorted(features)}
    needs["this order"] = oldest
    for subject, least_number in needs.items():
        if least_number > own.newest:
            users = [
                user for user, window in windows.items() if window.oldest > own.newest
            ]
            raise Conflict(
                f"The coordinator speaks protocol {own}, and {subject} needs {least_number}.",
                remedy="The operator upgrades the coordinator first, then the hospitals' ITs their agents.",
                code="protocol",
                hospitals=sorted(users),
            )
        if least_number > newest:
            raise _lag(windows, least_number, subject, version)
    return newest


def _lag(
    windows: Mapping[int, Window], least_number: int, subject: str, version: str
) -> Conflict:
    """Who does not speak what an order needs, and the command."""
    users = [user for user, window in windows.items() if window.newest < least_number]
    spoken = min(windows[user].newest for user in users)
    return Conflict(
        f"{_named(users)} speaks protocol {spoken}, and {subject} needs {least_number}.",
        remedy=f"The IT there upgrades the agent: {upgrade_command(version)}.",
        code="protocol",
        hospitals=sorted(users),
    )


def _named(users: Iterable[int]) -> str:
    numbers = ", ".join(str(user_id) for user_id in sorted(users))
    return f"The agent of hospital {numbers}"


@dataclass(frozen=True)
class Lag:
    """How far an agent and its coordinator are apart, and what is done."""

    # agent or coordinator
    who: str
    # They have no number in common: no order is possible.
    is_outside: bool
    sentence: str
    remedy: str


def lag_between(
    agent: Window, coordinator: Window, version: str, *, python: str = "3.NN"
) -> Lag | None:
    """Whether an agent lags behind its coordinator, which runs `version`, or the
    coordinator behind its agent; None where neither does. As the agent says it.
    """
    is_outside = not agent.meets(coordinator)
    who = "agent" if agent.newest < coordinator.newest else "coordinator"
    if agent.newest == coordinator.newest:
        return None
    sentence = f"This agent speaks protocol {agent}, the coordinator {coordinator}"
    if is_outside:
        sentence += ": every order is refused."
    else:
        common = min(agent.newest, coordinator.newest)
        sentence += f": orders are written in {common}."
    remedy = (
        f"The hospital's IT upgrades the agent: {upgrade_command(version, python)}."
    )
    if who == "coordinator":
        remedy = (
            "The operator upgrades the coordinator; it is the first to be upgraded."
        )
    return Lag(who, is_outside, sentence, remedy)


# The number of an order


def document_version(protocol: int) -> int:
    """`version` of an order's document: 1 of protocol 2, whose documents said so, else
    the protocol's number. An agent that does not know it refuses the document.
    """
    return 1 if protocol == UNSAID else protocol


def protocol_of_document(text: str) -> int:
    """The number in which an order is written, by its document.

    ProtocolViolation (code protocol) for a number that this release does not speak, for
    none, and where the order asks for what this number does not have; BadRequest (code
    document) for what is no document. Whoever takes part in an order asks this first;
    who only reads an old one does not.
    """
    try:
        document = json.loads(text)
        said_number = document["version"]
        request = document["request"]
        asked_features = features_of(request)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise bad_request(
            "document", "The order's document is not readable.", "Send the order again."
        ) from None
    protocol = UNSAID if said_number == 1 else said_number
    # A bool is an int to Python, and 1.0 is 1.
    if type(said_number) is not int or said_number == UNSAID or protocol not in SPOKEN:
        raise ProtocolViolation(
            f"The order is written in a protocol that this release does not speak: it speaks {SPOKEN}.",
            remedy="Who lags upgrades: the operator the coordinator first, then a hospital's IT its agent"
            f" ({upgrade_command(VERSION)}).",
            code="protocol",
        )
    for feature in sorted(asked_features):
        if not has_feature(feature, protocol):
            raise ProtocolViolation(
                f"The order asks for {feature}, which protocol {protocol} does not have.",
                remedy="Send the order again; if this repeats, the coordinator alters orders.",
                code="protocol",
            )
    return protocol


def check_spoken(protocol: int, spoken: Window) -> None:
    """Refused (code protocol) for an order in a number that this hospital does not take:
    its policy may ask for more than its release (`orders.oldest_protocol`).
    """
    if protocol in spoken:
        return
    if protocol > spoken.newest:
        remedy = f"Its IT upgrades the agent: {upgrade_command(VERSION)}."
    else:
        remedy = (
            f"Upgrade the other hospitals' agents to protocol {spoken.oldest} (GET /hospitals says who lags),"
            " or lower orders.oldest_protocol in this hospital's policy."
        )
    raise Refused(
        f"The order is written in protocol {protocol}, and this hospital takes {spoken}.",
        remedy=remedy,
        code="protocol",
    )


def check_agreed(protocol: int, spoken: Mapping[int, int]) -> None:
    """What each hospital of an order has signed that it speaks, oneself included, fits
    the order's number.

    Refused (code protocol) where some hospital does not speak it, and (code
    protocol_lowered) where all of them speak a larger one: whoever wrote the document
    had no reason to lower it.
    """
    lagging = sorted(user_id for user_id, newest in spoken.items() if newest < protocol)
    if lagging:
        raise Refused(
            f"The order is written in protocol {protocol}. {_named(lagging)} does not speak it.",
            remedy=f"The IT there upgrades the agent: {upgrade_command(VERSION)}. Then send the order again.",
            code="protocol",
            hospitals=lagging,
        )
    common = min(*spoken.values(), PROTOCOL)
    if common > protocol:
        raise Refused(
            f"The order is written in protocol {protocol}, and the agents of all its hospitals speak {common}.",
            remedy="Send the order again: an agent may have been upgraded since. If this repeats, the coordinator is"
            " older than its hospitals and its operator upgrades it, or it lowers orders on purpose.",
            code="protocol_lowered",
        )


# An acceptance of protocol 2 has no field for what its agent speaks, and its readers
# refuse any that they do not know. Its X25519 key has a bit that every reader ignores:
# RFC 7748, section 5, keeps it free "for use in other protocols". So it is said there,
# within what is signed. As TLS 1.3 marks the random bytes of a TLS 1.2 answer (RFC
# 8446, section 4.1.3), and for the same reason. Goes when OLDEST_PROTOCOL is 3.


def marked_key(public: bytes) -> bytes:
    """The same X25519 public key (32 bytes), marked: its agent speaks protocol 3."""
    return public[:-1] + bytes([public[-1] | _MARK])


def is_marked(public: bytes) -> bool:
    """Whether an X25519 public key (32 bytes) says that its agent speaks protocol 3."""
    return bool(public[-1] & _MARK)
