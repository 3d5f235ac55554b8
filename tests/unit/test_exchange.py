"""The exchange client and its stand-in: the same rules over HTTP and in memory, and
nothing believed of an answer.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import (
    BadRequest,
    Conflict,
    ConsiliumError,
    Forbidden,
    InvalidInput,
    OrderStopped,
    ProtocolViolation,
    Refused,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from protocol.exchange import (
    TOGETHER_BYTES,
    Address,
    Exchange,
    HttpTransport,
    Sent,
    Used,
    decode_frames,
    decode_sent,
    encode_frames,
    encode_sent,
)
from protocol.memory_transport import MemoryTransport

ADDRESS = Address(37, "gradient", 1, 2, 0)
Handler = Callable[[httpx.Request], httpx.Response]


def http(handler: Handler) -> HttpTransport:
    return HttpTransport(
        httpx.Client(
            transport=httpx.MockTransport(handler), base_url="http://coordinator"
        ),
        "secret",
    )


def envelope(error: ConsiliumError) -> httpx.Response:
    return httpx.Response(
        error.status,
        json={"code": error.status, "data": {"error": error.to_json()}, "message": ""},
    )


class Naps:
    """A sleep that takes no time and remembers how long it was asked for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


# Frames


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.binary(max_size=50), max_size=5))
def test_frames_come_back(messages: dict[int, bytes]) -> None:
    assert decode_frames(encode_frames(messages)) == messages


@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=9), min_size=1), st.data())
def test_a_cut_body_is_asked_for_again(
    messages: dict[int, bytes], data: st.DataObject
) -> None:
    whole = encode_frames(messages)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(Unavailable):
        assert set(decode_frames(cut)) < set(messages)


@given(st.binary(max_size=100))
def test_hostile_frames_are_refused_or_read(body: bytes) -> None:
    with contextlib.suppress(Unavailable, ProtocolViolation):
        assert encode_frames(decode_frames(body)) == body


def test_a_sender_stands_in_a_body_once() -> None:
    with pytest.raises(ProtocolViolation):
        decode_frames(encode_frames({2: b"one"}) + encode_frames({2: b"two"}))


TOPICS = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=32)
NUMBERS = st.integers(0, 2**31 - 1)


@given(
    NUMBERS,
    st.lists(
        st.tuples(TOPICS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=50)),
        min_size=1,
        max_size=16,
    ),
)
def test_messages_that_are_put_together_come_back(run: int, made: list[Any]) -> None:
    messages = []
    for topic, fold, round_, attempt, recipient, body in made:
        address = Address(run, topic, fold, round_, attempt)
        messages.append(Sent(address, recipient, body))
    assert decode_sent(run, encode_sent(messages)) == messages


@given(st.binary(max_size=200))
def test_hostile_messages_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_sent(1, body)


def test_of_messages_put_together_all_stand_or_none() -> None:
    transport = MemoryTransport()
    transport.put(Address(37, "gradient"), 2, 1, b"sealed")
    both = [
        Sent(Address(37, "vectors"), 1, b"shown"),
        Sent(Address(37, "gradient"), 1, b"another"),
    ]
    with pytest.raises(Conflict):
        transport.put_together(37, 2, both)
    assert transport.gather(Address(37, "vectors"), [2], 1, wait_seconds=0) is None


# What is held


class Noted(MemoryTransport):
    """Remembers what came in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        self.calls.append([address.topic])
        super().put(address, sender, recipient, body)

    def put_together(self, run: int, sender: int, messages: Any) -> None:
        self.calls.append([message.address.topic for message in messages])
        for message in messages:
            super().put(message.address, sender, message.recipient, message.body)


def test_what_is_held_goes_with_the_next_message() -> None:
    transport = Noted()
    exchange = Exchange(transport, 2)
    exchange.hold(Address(37, "vectors"), 1, b"shown")
    assert transport.calls == []
    exchange.put(Address(37, "gradient"), 1, b"sealed")
    exchange.put(Address(37, "done"), 1, b"")
    assert transport.calls == [["vectors", "gradient"], ["done"]]


@pytest.mark.parametrize("waiting", ["gather", "each", "gather_within"])
def test_nobody_waits_with_a_message_in_hand(waiting: str) -> None:
    """The coordinator might wait for it first."""
    transport = Noted()
    exchange = Exchange(transport, 2)
    address = Address(37, "opening")
    MemoryTransport.put(transport, address, 3, 0, b"opened")
    exchange.hold(Address(37, "vectors"), 1, b"shown")
    if waiting == "gather":
        exchange.gather(address, [3], 0)
    elif waiting == "each":
        list(exchange.each(address, [3], 0))
    else:
        exchange.gather_within(address, [3], 0, seconds_left=lambda: 1.0)
    assert transport.calls == [["vectors"]]


def test_large_messages_go_one_by_one_in_their_order() -> None:
    transport = Noted()
    exchange = Exchange(transport, 1)
    exchange.hold(Address(37, "check"), 0, bytes(TOGETHER_BYTES))
    exchange.put(Address(37, "total"), 2, b"x")
    assert transport.calls == [["check"], ["total"]]


def test_what_came_along_is_asked_for_once() -> None:
    """And not taken for anything else."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if "opening" in request.url.path:
            assert request.url.params["along"] == "check"
            body = {2: b"opened", 1: b"mean"}
        else:
            body = {1: b"asked for"}
        return httpx.Response(200, content=encode_frames(body))

    exchange = Exchange(http(answer), 2)
    opening = Address(37, "opening", 1, 2)
    check = Address(37, "check", 1, 2)
    assert exchange.gather(opening, [2], 0, along="check") == {2: b"opened"}
    other = Address(37, "check", 1, 3)
    assert exchange.get(other, 1, 0) == b"asked for"
    assert exchange.get(check, 1, 0) == b"mean"
    assert len(asked) == 2
    assert exchange.get(check, 1, 0) == b"asked for"


def test_no_message_is_brought_along_by_another_hospital() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = encode_frames({2: b"opened", 3: b"mean"})
        return httpx.Response(200, content=body)

    exchange = Exchange(http(answer), 2)
    with pytest.raises(ProtocolViolation) as caught:
        exchange.gather(ADDRESS, [2], 0, along="check")
    assert caught.value.code == "other_senders"


# Errors


HOSTILE_DETAILS = [
    {"sentence": "another"},
    {"remedy": "another", "code": 7, "self": None},
    {"number": float("nan")},
    {"text": "\0"},
    {"text": "\ud800"},
    ["no object"],
]


@pytest.mark.parametrize("detail", HOSTILE_DETAILS)
def test_an_error_of_a_hostile_sender_can_be_kept_and_shown(detail: object) -> None:
    told = {
        "type": "Refused",
        "code": None,
        "sentence": "a\0b\ud800",
        "remedy": 7,
        "detail": detail,
    }
    error = ConsiliumError.from_json(told)
    assert isinstance(error, Refused)
    assert (error.code, error.sentence, error.remedy) == ("refused", "a?b?", "7")
    text = json.dumps(error.to_json(), allow_nan=False, ensure_ascii=False)
    assert b"\\u0000" not in text.encode()
    again = Refused(
        error.sentence, remedy=error.remedy, code=error.code, **error.detail
    )
    assert ConsiliumError.from_json(json.loads(text)).to_json() == again.to_json()


# Over HTTP


def test_a_message_is_put_under_its_address_with_the_token() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201)

    Exchange(http(handler), 2).put(ADDRESS, 1, b"\x00bytes")
    assert (seen[0].method, seen[0].url.path) == (
        "PUT",
        "/exchange/37/gradient/1/2/0/2/1",
    )
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert seen[0].content == b"\x00bytes"


def test_gather_waits_until_all_are_there() -> None:
    answers = [
        httpx.Response(204),
        httpx.Response(200, content=encode_frames({3: b"c", 2: b"b"})),
    ]
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers.pop(0)

    assert Exchange(http(handler), 4).gather(ADDRESS, [2, 3]) == {2: b"b", 3: b"c"}
    assert dict(seen[0].url.params) == {
        "senders": "2,3",
        "recipient": "4",
        "wait": "25.0",
    }
    assert len(seen) == 2


@pytest.mark.parametrize(
    "found", [{}, {2: b"b"}, {2: b"b", 4: b"d"}, {2: b"b", 3: b"c", 4: b"d"}]
)
def test_a_coordinator_that_leaves_a_hospital_out_is_caught(
    found: dict[int, bytes],
) -> None:
    """With the acceptances of two hospitals in place of three, the sum that is opened
    would be over two.
    """
    exchange = Exchange(
        http(lambda request: httpx.Response(200, content=encode_frames(found))), 4
    )
    with pytest.raises(ProtocolViolation) as caught:
        exchange.gather(ADDRESS, [2, 3])
    assert caught.value.code == "other_senders"


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(503),
        httpx.Response(
            500, json={"data": {"error": BadRequest("a", remedy="b").to_json()}}
        ),
        httpx.Response(502, text="<html>proxy</html>"),
        httpx.Response(404, text="<html>proxy</html>"),
        httpx.Response(400, json=["no envelope"]),
        httpx.Response(400, json={"data": "no envelope"}),
        httpx.Response(302, headers={"location": "http://sign-in"}),
        httpx.Response(304),
        envelope(TooManyRequests("Too fast.", remedy="Wait.")),
        httpx.ConnectError("no route"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
    ],
)
def test_what_may_pass_by_itself_is_tried_again(
    trouble: httpx.Response | Exception,
) -> None:
    answers: list[Any] = [trouble, trouble, httpx.Response(201)]
    naps = Naps()

    def handler(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(
            answer.status_code, content=answer.content, headers=answer.headers
        )

    Exchange(http(handler), 2, sleep=naps).put(ADDRESS, 1, b"")
    assert answers == []
    assert len(naps.seconds) == 2


def test_the_pause_grows_and_stays_bounded() -> None:
    left, naps = [httpx.Response(503)] * 12, Naps()
    exchange = Exchange(
        http(lambda request: left.pop() if left else httpx.Response(200)), 2, sleep=naps
    )
    exchange.discard(37, Used(ADDRESS, 1))
    assert len(naps.seconds) == 12
    assert naps.seconds[0] <= 0.1
    assert 3.5 <= naps.seconds[-1] <= 5.0


@pytest.mark.parametrize(
    "kind",
    [BadRequest, Conflict, Forbidden, Unauthenticated, OrderStopped, ProtocolViolation],
)
def test_the_coordinator_s_error_is_the_same_here(kind: type[ConsiliumError]) -> None:
    sent, calls = kind("Sentence.", remedy="Remedy.", code="word", rows=3), []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return envelope(sent)

    with pytest.raises(kind) as caught:
        Exchange(http(handler), 2).put(ADDRESS, 1, b"")
    assert caught.value.to_json() == sent.to_json()
    assert len(calls) == 1


def test_an_error_of_an_unknown_type_is_still_an_error() -> None:
    body = {
        "data": {
            "error": {
                "type": "SystemExit",
                "sentence": "s",
                "remedy": "r",
                "code": "c",
                "detail": 5,
            }
        }
    }
    with pytest.raises(ConsiliumError) as caught:
        Exchange(http(lambda request: httpx.Response(400, json=body)), 2).put(
            ADDRESS, 1, b""
        )
    assert type(caught.value) is ConsiliumError


def test_no_sentence_holds_the_token() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"cannot send {dict(request.headers)}")

    with pytest.raises(Unavailable) as caught:
        http(handler).put(ADDRESS, 2, 1, b"")
    assert "secret" not in str(caught.value)


def test_refusal_progress_and_requests_have_their_own_addresses() -> None:
    seen: dict[str, Any] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        seen[f"{request.method} {request.url.path}"] = (
            json.loads(request.content) if request.content else None
        )
        data: Any = (
            [{"round": 1}]
            if request.url.path.endswith("progress")
            else {"document": "{}", "box": "00ff"}
        )
        return httpx.Response(200, json={"data": data})

    exchange = Exchange(http(handler), 2)
    exchange.refuse(37, BadRequest("No.", remedy="Yes."))
    exchange.record(37, end="success")
    assert exchange.recorded(37) == [{"round": 1}]
    assert exchange.inference_request(37) == ("{}", b"\x00\xff")
    exchange.discard(37, Used(ADDRESS, 1))
    assert seen["POST /orders/37/refuse"]["sentence"] == "No."
    assert seen["POST /orders/37/progress"] == {"end": "success"}
    assert seen["POST /exchange/37/discard"]["used"] == [
        {"topic": "gradient", "fold": 1, "round": 2, "attempt": 0, "recipient": 1}
    ]


@pytest.mark.parametrize("page", [b"<html>", b"[]", b"{}", b'"x"'])
def test_a_page_in_place_of_an_answer_is_unavailable(page: bytes) -> None:
    transport = http(lambda request: httpx.Response(200, content=page))
    with pytest.raises(Unavailable):
        transport.recorded(37)
    with pytest.raises(Unavailable):
        transport.inference_request(37)


# In memory


def test_the_same_bytes_again_are_fine_and_others_are_not() -> None:
    transport = MemoryTransport()
    exchange = Exchange(transport, 2)
    exchange.put(ADDRESS, 1, b"bytes")
    exchange.put(ADDRESS, 1, b"bytes")
    exchange.put(ADDRESS, 3, b"others")
    with pytest.raises(Conflict):
        exchange.put(ADDRESS, 1, b"others")


def test_messages_are_told_apart_by_every_part_of_their_name() -> None:
    transport = MemoryTransport()
    names = [
        (37, "a", 0, 0, 0),
        (38, "a", 0, 0, 0),
        (37, "b", 0, 0, 0),
        (37, "a", 1, 0, 0),
        (37, "a", 0, 1, 0),
    ]
    for number, name in enumerate([*names, (37, "a", 0, 0, 1)]):
        transport.put(Address(*name), 2, 1, bytes([number]))
        assert Exchange(transport, 1).get(Address(*name), 2) == bytes([number])
    assert transport.gather(Address(*names[0]), [2], 3, wait_seconds=0) is None
    assert transport.gather(Address(*names[0]), [3], 1, wait_seconds=0) is None
    assert transport.gather(Address(*names[0]), [2, 3], 1, wait_seconds=0) is None


def test_who_waits_is_woken() -> None:
    transport, found = MemoryTransport(), []
    waiting = threading.Thread(
        target=lambda: found.append(Exchange(transport, 1).gather(ADDRESS, [2, 3]))
    )
    waiting.start()
    transport.put(ADDRESS, 2, 1, b"b")
    transport.put(ADDRESS, 3, 1, b"c")
    waiting.join(timeout=10)
    assert found == [{2: b"b", 3: b"c"}]


def test_a_refusal_ends_the_order_for_everybody_who_waits() -> None:
    transport, caught = MemoryTransport(), []

    def wait() -> None:
        try:
            Exchange(transport, 1).get(ADDRESS, 2)
        except OrderStopped as stop:
            caught.append(stop.detail["cause"]["sentence"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    Exchange(transport, 3).refuse(37, BadRequest("Too few rows.", remedy=""))
    waiting.join(timeout=10)
    assert caught == ["Too few rows."]
    with pytest.raises(OrderStopped):
        transport.put(ADDRESS, 2, 1, b"")


def test_what_was_used_is_dropped() -> None:
    transport = MemoryTransport()
    transport.put(ADDRESS, 2, 1, b"part")
    transport.put(ADDRESS, 2, 3, b"for 3")
    Exchange(transport, 1).discard(ADDRESS.run, Used(ADDRESS, 1))
    assert transport.gather(ADDRESS, [2], 1, wait_seconds=0) is None
    assert transport.gather(ADDRESS, [2], 3, wait_seconds=0) == {2: b"for 3"}


def test_progress_is_remembered() -> None:
    exchange = Exchange(MemoryTransport(), 1)
    exchange.record(37, state="running")
    exchange.record(37, round={"fold": 0, "round": 0})
    assert exchange.recorded(37) == [{"fold": 0, "round": 0}]
    assert exchange.recorded(38) == []
