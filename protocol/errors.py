"""Every error a user can meet, as one tree.

    ConsiliumError               root: a code, one safe sentence and its remedy
    ├── InvalidInput       422   malformed: wrong type, missing or unknown field, no JSON
    ├── BadRequest         400   well-formed, but cannot be honoured as it stands
    ├── Unauthenticated    401   no token
    ├── Forbidden          403   the token may not do this
    ├── Refused            403   a hospital's policy or cohort gate says no; has the rule
    ├── NotFound           404   no such order, model, hospital or round
    ├── Conflict           409   exists with other content, or its state forbids this
    ├── OrderStopped       410   the order was cancelled, refused or has ended
    ├── OrderWaits         409   the order has no places now; it goes on when it has
    ├── TooLarge           413   a body, message or result above its limit
    ├── ProtocolViolation  409   not the message that is waited for, or not authentic
    ├── TooManyRequests    429   the rate limit of a token
    └── Unavailable        503   a part that is needed does not answer

A sentence never holds a value from a row; it names fields, rules, hospitals and limits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import (
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple


class ConsiliumError(Exception):
    """A failure that can be shown to a user as it is.

    `sentence` says what is wrong and with which field; `remedy` says what to change.
    `code` is a short machine-readable word. `detail` carries JSON-ready facts (never
    row values).

    >>> str(BadRequest("max_iter is 0.", remedy="Give 1 or more.", code="max_iter"))
    'max_iter is 0. Give 1 or more.'
    """

    status: ClassVar[int] = 400
    default_code: ClassVar[str] = "error"

    def __init__(
        self, sentence: str, *, remedy: str, code: str | None = None, **detail: Any
    ) -> None:
        super().__init__(f"{sentence} {remedy}".strip())
        self.sentence = sentence
        self.remedy = remedy
        self.code = code or self.default_code
        self.detail = detail

    def to_json(self) -> dict[str, Any]:
        """The error as a JSON object; `from_json` makes the same error of it."""
        return {
            "type": type(self).__name__,
            "code": self.code,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "detail": self.detail,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> ConsiliumError:
        """Inverse of `to_json`; an unknown type becomes the root class.

        The sender may be hostile: whatever the object holds, the answer is an error
        that `to_json` can write, and a detail that strict JSON and PostgreSQL could not
        keep (NaN, NUL) is left out.
        """
        classes = {class_.__name__: class_ for class_ in _tree(ConsiliumError)}
        class_ = classes.get(str(data.get("type")), ConsiliumError)
        error = class_(
            _plain(data.get("sentence", "")),
            remedy=_plain(data.get("remedy", "")),
            code=_plain(data.get("code") or class_.default_code),
        )
        detail = data.get("detail")
        if isinstance(detail, dict) and _is_storable(detail):
            extra_names = set(detail) - set(_OWN_NAMES)
            error.detail = {
                name: detail[name] for name in detail if name in extra_names
            }
        return error


class InvalidInput(ConsiliumError):
    status = 422
    default_code = "invalid_input"


class BadRequest(ConsiliumError):
    status = 400
    default_code = "bad_request"


class Unauthenticated(ConsiliumError):
    status = 401
    default_code = "unauthenticated"


class Forbidden(ConsiliumError):
    status = 403
    default_code = "forbidden"


class Refused(ConsiliumError):
    """A hospital said no. `code` is the name of the rule."""

    status = 403
    default_code = "refused"


class NotFound(ConsiliumError):
    status = 404
    default_code = "not_found"


class Conflict(ConsiliumError):
    status = 409
    default_code = "conflict"


class OrderStopped(ConsiliumError):
    status = 410
    default_code = "order_stopped"


class OrderWaits(ConsiliumError):
    """The order waits for places.

    Whoever works on it ends its process and is started again when the order has them.
    """

    status = 409
    default_code = "order_waits"


class TooLarge(ConsiliumError):
    status = 413
    default_code = "too_large"


class ProtocolViolation(ConsiliumError):
    status = 409
    default_code = "protocol_violation"


class TooManyRequests(ConsiliumError):
    status = 429
    default_code = "too_many_requests"


class Unavailable(ConsiliumError):
    status = 503
    default_code = "unavailable"


def bad_request(code: str, sentence: str, remedy: str) -> BadRequest:
    """A BadRequest where many are raised in a row: the code first, as in docs/errors.md."""
    return BadRequest(sentence, remedy=remedy, code=code)


@dataclass
class Problems:
    """What is wrong with the fields of a request, all of it, to be said at once."""

    found: list[BadRequest] = field(default_factory=list)

    def add(self, code: str, sentence: str, remedy: str) -> None:
        self.found.append(bad_request(code, sentence, remedy))

    def adder(self, code: str) -> Callable[[str, str], None]:
        """`add`, of problems of one code."""
        return partial(self.add, code)

    def raise_any(self) -> None:
        """Raises as `check_all`; nothing where nothing is wrong."""
        _raise_all(self.found)


def other_version(code: str, sentence: str, **detail: Any) -> ProtocolViolation:
    """What no party of this version sends: a header, a size or a share of another form."""
    return ProtocolViolation(
        sentence,
        remedy="Use one version of Consilium at all parties.",
        code=code,
        **detail,
    )


@contextmanager
def sent_by(hospital: int) -> Iterator[None]:
    """Where a hospital's message is read: what is wrong with it is told by its name."""
    try:
        yield
    except ProtocolViolation as error:
        detail = {**error.detail, "hospitals": [hospital]}
        raise ProtocolViolation(
            f"{error.sentence} It is from hospital {hospital}.",
            remedy=error.remedy,
            code=error.code,
            **detail,
        ) from None


def who_differ(values: Mapping[int, Hashable]) -> list[int]:
    """The hospitals that have another value than most; all where no majority has one.

    >>> who_differ({2: "a", 3: "b", 4: "a"})
    [3]
    >>> who_differ({2: "a", 3: "b"})
    [2, 3]
    """
    if not values:
        return []
    counts = Counter(values.values())
    ((common, n_common),) = counts.most_common(1)
    named = sorted(user_id for user_id, value in values.items() if value != common)
    if named and n_common <= len(named):
        return sorted(values)
    return named


def listed(hospitals: list[int]) -> str:
    """Hospitals in a sentence.

    >>> listed([3]), listed([2, 3])
    ('hospital 3', 'hospitals 2, 3')
    """
    word = "hospital" if len(hospitals) == 1 else "hospitals"
    return f"{word} {', '.join(map(str, hospitals))}"


def check_all(*checks: Callable[[], object]) -> None:
    """Makes every check, so that a user who changes one thing is not refused for the
    next one.

    Raises the one error, or of several the first one's class and code with the
    sentences and remedies of all, and `detail.reasons`.
    """
    errors = []
    for check in checks:
        try:
            check()
        except ConsiliumError as error:
            errors.append(error)
    _raise_all(errors)


def _raise_all(errors: Sequence[ConsiliumError]) -> None:
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    reasons: list[Any] = []
    for error in errors:
        reasons += error.detail.get("reasons") or [reason_of(error)]
    # The same remedy is not said twice.
    remedies = dict.fromkeys(error.remedy for error in errors)
    first_error = errors[0]
    raise type(first_error)(
        " ".join(error.sentence for error in errors),
        remedy=" ".join(remedies),
        code=first_error.code,
        **{**first_error.detail, "reasons": reasons},
    )


class Rule(NamedTuple):
    """A rule by itself: who decides makes all of them, who explains each one."""

    # The code of its refusal.
    name: str
    # Returns, or raises the refusal.
    check: Callable[[], object]


def check_rules(rules: Iterable[Rule]) -> None:
    """As `check_all`."""
    check_all(*[rule.check for rule in rules])


def reason_of(error: ConsiliumError) -> dict[str, Any]:
    """An error as one of several reasons."""
    reason = error.to_json()
    reason.pop("type")
    return reason


# Details are keyword arguments beside these.
_OWN_NAMES = ("self", "sentence", "remedy", "code")


def _plain(text: Any) -> str:
    """A text that can be kept, with ? for what cannot.

    UTF-8 cannot hold half of a surrogate pair, PostgreSQL no NUL.
    """
    valid = str(text).encode(errors="replace").decode()
    return valid.replace("\0", "?")


def _is_storable(detail: dict[str, Any]) -> bool:
    """Whether strict JSON and PostgreSQL can hold it.

    That is: no NaN, no NUL, no half of a surrogate pair.
    """
    try:
        written = json.dumps(detail, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        return False
    return b"\\u0000" not in written


def _tree(root: type[ConsiliumError]) -> list[type[ConsiliumError]]:
    """A class and all below it."""
    classes = [root]
    for child in root.__subclasses__():
        classes += _tree(child)
    return classes
