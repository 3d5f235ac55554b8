"""Every error a user can meet, as one tree.

ConsiliumError                 root: a code, one safe sentence and its remedy
├── InvalidInput      422      malformed: wrong type, missing or unknown field, not JSON
├── BadRequest        400      well-formed, but cannot be honoured as it stands
├── Unauthenticated   401      no token
├── Forbidden         403      the token may not do this
├── Refused           403      a hospital's policy or cohort gate says no; carries the rule
├── NotFound          404      no such order, model, hospital or round
├── Conflict          409      the thing exists with other content, or its state forbids this
├── OrderStopped      410      the order was cancelled, refused or has ended; carries the reason
├── OrderWaits        409      the order has no places at its hospitals now; it goes on when it has
├── TooLarge          413      a body, message or result above its limit
├── ProtocolViolation 409      a message that is not what its receiver waits for, or not authentic
├── TooManyRequests   429      the rate limit of a token
└── Unavailable       503      a part that is needed does not answer

A sentence never holds a value from a row; it names fields, rules, hospitals and limits.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar


class ConsiliumError(Exception):
    """A failure that can be shown to a user as it is.

    `sentence` says what is wrong and with which field; `remedy` says what to change. `code` is a short
    machine-readable word. `detail` carries JSON-ready facts (never row values).

    >>> str(BadRequest("max_iter is 0.", remedy="Give 1 or more.", code="max_iter"))
    'max_iter is 0. Give 1 or more.'
    """

    status: ClassVar[int] = 400
    default_code: ClassVar[str] = "error"

    def __init__(self, sentence: str, *, remedy: str, code: str | None = None, **detail: Any) -> None:
        super().__init__(f"{sentence} {remedy}".strip())
        self.sentence = sentence
        self.remedy = remedy
        self.code = code or self.default_code
        self.detail = detail

    def to_json(self) -> dict[str, Any]:
        """The error as a JSON object; `from_json` makes the same error again at the other side."""
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

        The sender may be hostile: whatever the object holds, the answer is an error that `to_json` can write, and a
        detail that strict JSON and PostgreSQL could not keep (NaN, NUL) is left out.
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
            error.detail = {name: value for name, value in detail.items() if name not in _OWN_NAMES}
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
    """The order waits for places. Whoever works on it ends its process and is started again when the order has them."""

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


_OWN_NAMES = ("self", "sentence", "remedy", "code")  # details are keyword arguments beside these


def _plain(text: Any) -> str:
    """A text without what UTF-8 (half of a surrogate pair) or PostgreSQL (NUL) cannot hold."""
    return str(text).encode(errors="replace").decode().replace("\0", "?")


def _is_storable(detail: dict[str, Any]) -> bool:
    """Whether strict JSON and PostgreSQL can hold it: no NaN, no NUL, no half of a surrogate pair."""
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
