"""Joint statistics under a coordinator or a partner that cheats: each ends with its
code, and nobody has a result.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.statistics import (
    described,
    groups,
    joined,
    joined_rows,
    quantile_rounds,
    sums,
)
from analytics.statistics.quantiles import Pivots
from deployments.local import one_process
from protocol import statistics_messages
from protocol.errors import ConsiliumError
from protocol.exchange import Address
from protocol.messages import COORDINATOR, canonical, peek_envelope
from protocol.shares import matching
from tests.federation.test_bad_faith import CheatingTransport, Swap, flip
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks

PROVIDERS = (2, 3, 4)
ORDERS: dict[str, dict[str, Any]] = {
    "var": {"key": "x", "group_by": ["g"]},
    "median": {"key": "x"},
    "describe": {"key": "x", "columns": ["x"], "quartiles": True},
    "custom": {"key": "id", "expression": "df1.x * df2.x + df3.x"},
    "is_investor_accredited": {
        "key": "id",
        "extra": {user: {"value_column": "x"} for user in PROVIDERS},
    },
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (2, 3, 4, 5))
    made.allow(row_level=["id", "x"], exact_quantiles=True)
    for user in PROVIDERS:
        rows = range(user, user + 20)
        made.write(
            user,
            "rows.csv",
            pd.DataFrame(
                {"id": rows, "x": [r * r for r in rows], "g": [r % 2 for r in rows]}
            ),
        )
    with no_waiting_for_disks():
        yield made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def ended(
    hospitals: Hospitals, method: str, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> ConsiliumError:
    open_party = one_process.open_party
    monkeypatch.setattr(
        one_process,
        "open_party",
        lambda site, number, t, **more: open_party(
            site, number, t.seen_by(site.user_id), **more
        ),
    )
    data = dict.fromkeys(PROVIDERS, "rows.csv")
    return hospitals.refused(
        method,
        data,
        receivers=[3, 5],
        transport=CheatingTransport(swap),
        **ORDERS[method],
    )


def on(
    topic: str,
    change: Callable[[bytes], bytes],
    *,
    reader: int | None = None,
    sender: int | None = None,
    round: int = 0,
) -> Swap:
    """Changes what one hospital, or every one, reads of a topic; the coordinator itself
    reads what was sent.
    """

    def swap(address: Address, who: int, asks: int, body: bytes) -> bytes:
        is_meant = (address.topic, address.round) == (topic, round) and asks != 0
        return (
            change(body)
            if is_meant and reader in (None, asks) and sender in (None, who)
            else body
        )

    return swap


def with_one_more(total: bytes) -> bytes:
    """One added to the first of a total's numbers, the count of a group."""
    width = int.from_bytes(total[2:4], "big")
    end = 8 + (width + 64) // 8
    number = (int.from_bytes(total[8:end], "big") + 1) % (1 << (width + 64))
    return total[:8] + number.to_bytes(end - 8, "big") + total[end:]


def another_person(bitmap: bytes) -> bytes:
    """As many common tags, one of them another."""
    common = matching.decode_bitmap(bitmap, n_tags=int.from_bytes(bitmap[:8], "big"))
    common[[np.argmax(common), np.argmin(common)]] = [False, True]
    return matching.encode_bitmap(common)


def one_fewer(bitmap: bytes) -> bytes:
    common = matching.decode_bitmap(bitmap, n_tags=int.from_bytes(bitmap[:8], "big"))
    common[np.argmax(common)] = False
    return matching.encode_bitmap(common)


def another_question(document: bytes) -> bytes:
    found = json.loads(document)
    found["request"]["result_receivers"] = [3, 4]
    return json.dumps(
        found, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def flip_last(body: bytes) -> bytes:
    return flip(0, body)


ATTACKS: dict[str, tuple[str, Swap, str]] = {
    "one more in a total": ("var", on("total", with_one_more), "sum_mismatch"),
    "one more in a total of counts": (
        "median",
        on("total", with_one_more, round=2),
        "sum_mismatch",
    ),
    "one more in a total of the counts of quartiles": (
        "describe",
        on("total", with_one_more, round=3),
        "sum_mismatch",
    ),
    "a total cut short": ("var", on("total", lambda body: body[:-1]), "payload"),
    "another bit of a total": ("var", on("total", flip_last), "sum_mismatch"),
    "another person in the place of one": (
        "custom",
        on("common", another_person, reader=3),
        "keys_differ",
    ),
    "one person fewer at a provider": (
        "custom",
        on("common", one_fewer, reader=3),
        "keys_differ",
    ),
    "a bitmap of other tags": (
        "custom",
        on("common", lambda body: matching.encode_bitmap(np.ones(3, bool))),
        "bad_message",
    ),
    "a false triple": ("custom", on("dealt", flip_last, round=1), "false_triple"),
    "a false bit triple": (
        "is_investor_accredited",
        on("dealt", flip_last, round=1),
        "false_triple",
    ),
    "another seed for one provider": (
        "custom",
        on("dealt", flip_last, reader=2),
        "false_triple",
    ),
    "a share of the result with another bit": (
        "custom",
        on("share", flip_last),
        "bad_signature",
    ),
    "keys of the result with another bit": (
        "custom",
        on("keys", flip_last),
        "bad_signature",
    ),
    "an opening with another bit": (
        "custom",
        on("opened", flip_last, reader=4, sender=2),
        "bad_signature",
    ),
    "a statement of groups with another bit": (
        "var",
        on("statement", flip_last, sender=4),
        "bad_signature",
    ),
    "pivots with another bit": (
        "median",
        on("pivots", flip_last, round=3),
        "bad_signature",
    ),
    "another question to one hospital": (
        "var",
        on("document", another_question, reader=4),
        "order_altered",
    ),
    "another question to who only receives": (
        "var",
        on("document", another_question, reader=5),
        "order_altered",
    ),
    "another data path": ("var", on("sql", flip_last, reader=3), "cannot_unseal"),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_a_cheating_coordinator(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    method, swap, code = ATTACKS[what]
    assert ended(hospitals, method, swap, monkeypatch).code == code


def test_one_provider_s_part_as_the_total_is_not_opened(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver holds all masks that are sealed to receivers, and would learn that
    provider's own sum.
    """
    kept: dict[str, bytes] = {}

    def alone(address: Address, sender: int, reader: int, body: bytes) -> bytes:
        if address.topic == "addend" and sender == 4:
            kept["part"] = peek_envelope(body, kind="addend", sender=4)
        return (
            kept["part"]
            if address.topic == "total" and sender == COORDINATOR and reader
            else body
        )

    assert ended(hospitals, "var", alone, monkeypatch).code == "sum_mismatch"


def test_a_receiver_that_asks_more_finely_than_it_may(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver that names the pivots names others; the other one sees that they do
    not follow.
    """
    encode = quantile_rounds._encode
    monkeypatch.setattr(
        quantile_rounds, "_encode", lambda pivots: encode([one[::2] for one in pivots])
    )
    assert (
        ended(
            hospitals, "median", lambda address, sender, reader, body: body, monkeypatch
        ).code
        == "bad_message"
    )


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which provider counts rows below how many pivots, from now on."""
    found: list[tuple[int, int]] = []
    count_below = quantile_rounds._count_below

    def counting(party: Any, dataset: Any, pivots: Any) -> list[int]:
        found.append((party.me, sum(map(len, pivots.values()))))
        return count_below(party, dataset, pivots)

    monkeypatch.setattr(quantile_rounds, "_count_below", counting)
    return found


def naming(
    monkeypatch: pytest.MonkeyPatch,
    who: int,
    change: Callable[[int, list[Pivots]], list[Pivots]],
    *,
    whole: bool = False,
) -> None:
    """What one hospital names in the place of a round's pivots; it is content with what
    it has named itself.
    """
    send, agree = quantile_rounds.send, quantile_rounds._agree_on_pivots
    named: dict[tuple[int, int], list[Pivots]] = {}

    def name(party: Any, kind: str, make: Any, **rest: Any) -> None:
        if kind == "pivots" and party.me == who:
            pivots = change(rest["round"], quantile_rounds._decode(make(), [whole]))
            named[party.order_id, rest["round"]] = pivots
            send(party, kind, lambda: quantile_rounds._encode(pivots), **rest)
        else:
            send(party, kind, make, **rest)

    def be_content(party: Any, searches: Any, round_: int) -> list[Pivots]:
        if party.me != who:
            return agree(party, searches, round_)
        with contextlib.suppress(ConsiliumError):
            agree(party, searches, round_)
        return named[party.order_id, round_]

    monkeypatch.setattr(quantile_rounds, "send", name)
    monkeypatch.setattr(quantile_rounds, "_agree_on_pivots", be_content)


GREEDY: dict[str, tuple[int, Callable[[int, list[Pivots]], list[Pivots]]]] = {
    "20,000 pivots at once": (
        1,
        lambda round_, pivots: [np.linspace(-1e3, 1e3, 20_000)],
    ),
    "one pivot more": (
        1,
        lambda round_, pivots: [np.sort(np.append(one, 25.5)) for one in pivots],
    ),
    "as many other pivots": (
        2,
        lambda round_, pivots: [one + 1e-3 * np.abs(one) for one in pivots],
    ),
    "a further round": (
        3,
        lambda round_, pivots: [np.array([25.5])] if round_ > 2 else pivots,
    ),
}


@pytest.mark.parametrize("what", GREEDY)
@pytest.mark.parametrize("receiver", [3, 5])
def test_the_only_receiver_names_other_pivots_than_follow(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str, receiver: int
) -> None:
    """A provider or not: providers search themselves, and refuse the round before one
    of them counts a row.
    """
    hospitals.allow()
    round_, change = GREEDY[what]
    naming(monkeypatch, receiver, change)
    rows = counted(monkeypatch)
    try:
        error = hospitals.refused(
            "median",
            dict.fromkeys(PROVIDERS, "rows.csv"),
            receivers=[receiver],
            key="x",
        )
    finally:
        hospitals.allow(row_level=["id", "x"], exact_quantiles=True)
    assert error.code == "bad_message"
    honest = [n_pivots for user, n_pivots in rows if user != receiver]
    assert honest == [63] * len(honest)
    assert len(honest) <= (round_ - 1) * len(set(PROVIDERS) - {receiver})


OF_WHOLES: dict[str, tuple[int, Callable[[int, list[Pivots]], list[Pivots]]]] = {
    "20,000 pivots at once": (
        1,
        lambda round_, pivots: [np.arange(-10_000, 10_000).astype(object)],
    ),
    "one pivot more": (
        1,
        lambda round_, pivots: [np.append(one, one[-1] + 1) for one in pivots],
    ),
    "as many other pivots": (2, lambda round_, pivots: [one + 1 for one in pivots]),
    "doubles": (1, lambda round_, pivots: [one.astype(np.float64) for one in pivots]),
    "a further round": (
        12,
        lambda round_, pivots: (
            [np.array([25], dtype=object)] if round_ > 11 else pivots
        ),
    ),
}


@pytest.mark.parametrize("what", OF_WHOLES)
def test_other_pivots_than_follow_among_whole_numbers(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The search that tells single values: no provider counts a row for a pivot that is
    not its own.
    """
    round_, change = OF_WHOLES[what]
    naming(monkeypatch, 3, change, whole=True)
    rows = counted(monkeypatch)
    error = hospitals.refused(
        "median", dict.fromkeys(PROVIDERS, "rows.csv"), receivers=[3], key="x"
    )
    assert error.code == "bad_message"
    honest = [n_pivots for user, n_pivots in rows if user != 3]
    assert all(n_pivots <= 63 for n_pivots in honest)
    assert len(honest) <= (round_ - 1) * 2


def stated(
    monkeypatch: pytest.MonkeyPatch, changes: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """What providers state from now on, filled as they do; some of them state something
    else.
    """
    found: dict[int, dict[str, Any]] = {}
    send = groups.send

    def state(party: Any, kind: str, make: Any, **rest: Any) -> None:
        found[party.me] = json.loads(make()) | changes.get(party.me, {})
        kept = {
            name: value for name, value in found[party.me].items() if value is not None
        }
        send(party, kind, lambda: json.dumps(kept).encode(), **rest)

    monkeypatch.setattr(groups, "send", state)
    return found


@pytest.mark.parametrize("lie", [{"whole": True}, {}])
def test_a_false_word_on_whole_numbers_tells_no_more_of_the_others(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]
) -> None:
    """Hospital 3 has doubles and says so; whatever hospital 4 says of its halves, the
    search is among doubles.
    """
    places = range(10**17, 10**17 + 21 * 16, 16)
    hospitals.write(2, "long.csv", pd.DataFrame({"x": places}))
    hospitals.write(
        3, "long.parquet", pd.DataFrame({"x": [float(place) for place in places]})
    )
    hospitals.write(
        4, "long.csv", pd.DataFrame({"x": [f"{place}.5" for place in places]})
    )
    said = stated(monkeypatch, {4: lie})
    answer = hospitals.ask(
        "median", {2: "long.csv", 3: "long.parquet", 4: "long.csv"}, receivers=[5]
    )
    assert {user: one.get("whole", False) for user, one in said.items()} == {
        2: True,
        3: False,
        4: lie.get("whole", False),
    }
    assert answer.text == f"median\n{float(places[10])!r}\n"


def test_a_statement_of_a_version_that_does_not_know_the_word(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one without it; then the search is among doubles at all hospitals, as that
    version's is.
    """
    for user in PROVIDERS:
        hospitals.write(
            user,
            "ids.csv",
            pd.DataFrame({"x": [10**17 + 16 * row + 1 for row in range(21)]}),
        )
    data = dict.fromkeys(PROVIDERS, "ids.csv")
    assert (
        hospitals.ask("median", data, receivers=[5]).text
        == "median\n100000000000000161\n"
    )
    said = stated(monkeypatch, {4: {"whole": None}})
    assert (
        hospitals.ask("median", data, receivers=[5]).text
        == "median\n1.0000000000000016e+17\n"
    )
    assert said[2]["whole"]


def test_whether_numbers_are_whole_is_stated_where_single_ones_may_be_told(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bit may hang on one row; a policy that keeps single values back lets it not
    out.
    """
    said = stated(monkeypatch, {})
    data = dict.fromkeys(PROVIDERS, "rows.csv")
    allowed: dict[str, dict[str, Any]] = {
        "median": {"extremes": True},
        "max": {},
        "avg": {"exact_quantiles": True},
    }
    try:
        for method, rules in allowed.items():
            hospitals.allow((2,), max_share=1, **rules)
            hospitals.ask(method, data, receivers=[5])
            assert "whole" not in said[2]
            assert said[3].get("whole", False) == (method != "avg")
    finally:
        hospitals.allow(row_level=["id", "x"], exact_quantiles=True)


@pytest.mark.parametrize("method", ["var", "custom"])
def test_a_provider_that_says_a_last_result_stands_where_there_is_none(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Only a schedule has a last result, and this order is of none."""
    kind, module = {"var": ("statement", groups), "custom": ("types", joined)}[method]
    send = module.send

    def repeat(party: Any, what: str, make: Any, **rest: Any) -> None:
        is_meant = what == kind and party.me == 4
        said = (
            (lambda: make().replace(b'"repeats":false', b'"repeats":true'))
            if is_meant
            else make
        )
        send(party, what, said, **rest)

    monkeypatch.setattr(module, "send", repeat)
    assert (
        ended(
            hospitals, method, lambda address, sender, reader, body: body, monkeypatch
        ).code
        == "bad_message"
    )


OTHER_KEYS: dict[str, Callable[[list[str]], list[str]]] = {
    "two of them exchanged": lambda keys: [keys[1], keys[0], *keys[2:]],
    "one of them twice": lambda keys: [keys[1], *keys[1:]],
    "another person": lambda keys: ["1000", *keys[1:]],
    "no text": lambda keys: ["\ud800", *keys[1:]],
}


@pytest.mark.parametrize("what", OTHER_KEYS)
def test_the_first_provider_names_other_people_in_the_result(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The values would stand beside the names of others; all providers have said which
    people are common.
    """
    send = joined.send

    def renamed(body: bytes) -> bytes:
        return json.dumps({"keys": OTHER_KEYS[what](json.loads(body)["keys"])}).encode()

    def rename(party: Any, kind: str, make: Any, **rest: Any) -> None:
        send(party, kind, (lambda: renamed(make())) if kind == "keys" else make, **rest)

    monkeypatch.setattr(joined, "send", rename)
    assert (
        ended(
            hospitals, "custom", lambda address, sender, reader, body: body, monkeypatch
        ).code
        == "keys_differ"
    )


def test_providers_that_announce_other_types_than_they_hold(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer digits than the column has: nothing is cut."""
    types = joined_rows.type_of
    monkeypatch.setattr(
        joined_rows, "type_of", lambda data, column, digits: types(data, column, (2, 0))
    )
    assert (
        ended(
            hospitals, "custom", lambda address, sender, reader, body: body, monkeypatch
        ).code
        == "digits"
    )


@pytest.mark.parametrize(
    "columns",
    [
        {"df3.x": (0, 0, 8, False), "df1.x": (0, 0, 2, False)},
        {"df3.x": (0, 0, 9999, False)},
        {},
    ],
)
def test_a_provider_that_announces_types_of_another_s_columns_or_none_that_is_one(
    hospitals: Hospitals,
    monkeypatch: pytest.MonkeyPatch,
    columns: dict[str, Any],
) -> None:
    """By its name: the other provider would be told that its own column does not fit."""
    send = joined.send

    def announce(party: Any, kind: str, make: Any, **rest: Any) -> None:
        if kind == "types" and party.me == 4:
            types = statistics_messages.Types(repeats=False, columns=columns)
            send(party, kind, lambda: types.model_dump_json().encode(), **rest)
        else:
            send(party, kind, make, **rest)

    monkeypatch.setattr(joined, "send", announce)
    error = ended(
        hospitals, "custom", lambda address, sender, reader, body: body, monkeypatch
    )
    assert error.code == "bad_message"
    assert error.detail["hospitals"] == [4]


# --- names that no rows have ------------------------------------------------------------


def quick_of(cases: Mapping[str, Any], *, n_quick: int) -> list[Any]:
    """Their names, of which the first few are in the short layer."""
    names = list(cases)
    later = [pytest.param(name, marks=pytest.mark.thorough) for name in names[n_quick:]]
    return [*names[:n_quick], *later]


BINS = {"key": "x", "bins": [50, 200]}
EVENTS = {**BINS, "event_name": "g"}

MADE_UP: dict[str, tuple[str, dict[str, Any], list[str | None]]] = {
    "a bin without a number": ("histogram", BINS, ["x"]),
    "a bin beyond the last": ("histogram", BINS, ["0003"]),
    "a bin before the first": ("histogram", BINS, ["-001"]),
    "a bin by another name": ("histogram", BINS, ["1"]),
    "no bin": ("histogram", BINS, [None]),
    "a bin of a curve": ("kaplan_meier", EVENTS, ["1", "x"]),
    "another event of a curve": (
        "kaplan_meier",
        EVENTS,
        ["2", "0001"],
    ),
    "an event without a value": (
        "kaplan_meier",
        EVENTS,
        [None, "0001"],
    ),
    "another event of a test": (
        "logrank",
        {"key": "x", "event_name": "g", "group_by": ["arm"]},
        ["a", "2"],
    ),
    "no group of a test": ("ttest", {"key": "x", "group_by": ["g"]}, [None]),
    "no value in a table of a test": (
        "chi2",
        {"key": "x", "columns": ["g", "arm"]},
        [None, "a"],
    ),
    "no level of a category's mean": (
        "avg",
        {"key": "arm", "categorical": {"arm": {}}},
        [None],
    ),
}
"""By what a hospital has made up, a question and the name of a group of it."""


def stating(
    monkeypatch: pytest.MonkeyPatch,
    who: int,
    entry: list[Any],
    *,
    module: Any = groups,
    place: int = 0,
) -> None:
    """One hospital states a group more; in `describe` of the question at this place."""
    send = module.send

    def state(party: Any, kind: str, make: Any, **rest: Any) -> None:
        if party.me != who or kind != "statement":
            send(party, kind, make, **rest)
            return
        statement = json.loads(make())
        text = (
            statement["parts"][place] if "parts" in statement else statement["groups"]
        )
        stated = [*json.loads(text)["groups"], entry]
        text = canonical({"groups": sorted(stated, key=canonical)})
        if "parts" in statement:
            statement["parts"][place] = text
        else:
            statement["groups"] = text
        send(party, kind, lambda: json.dumps(statement).encode(), **rest)

    monkeypatch.setattr(module, "send", state)


@pytest.fixture
def with_arms(hospitals: Hospitals) -> Hospitals:
    hospitals.allow(
        row_level=["id", "x"], exact_quantiles=True, max_share=1, min_rows=2
    )
    for user in PROVIDERS:
        place = np.arange(80)
        frame = pd.DataFrame({"id": place, "x": 1 + place * (place + user) % 301})
        frame["g"] = place % 2
        frame["arm"] = np.where(place // 2 % 2, "a", "b")
        hospitals.write(user, "arms.csv", frame)
    return hospitals


@pytest.mark.parametrize("what", quick_of(MADE_UP, n_quick=2))
def test_a_name_that_no_rows_have_ends_the_question(
    with_arms: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It was a row of the answer that nobody has, or ended in a computation."""
    method, fields, label = MADE_UP[what]
    stating(monkeypatch, 4, [label, None])
    data = dict.fromkeys(PROVIDERS, "arms.csv")
    error = with_arms.refused(method, data, receivers=[3, 5], **fields)
    assert error.code == "bad_message"


@pytest.mark.thorough
def test_a_made_up_bin_of_pooled_cells_ends_the_question(
    with_arms: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_arms.allow(cells="pooled", min_providers=2)
    stating(monkeypatch, 4, [["x"], None])
    data = dict.fromkeys(PROVIDERS, "arms.csv")
    error = with_arms.refused("histogram", data, receivers=[3, 5], **BINS)
    assert error.code == "bad_message"


@pytest.mark.thorough
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_made_up_name_of_a_description_ends_the_question(
    with_arms: Hospitals, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Of the levels, of who lacks one, and of the bins of a column."""
    number, category = (
        {"columns": ["x"], "histograms": {"x": [50, 200]}},
        {"columns": ["arm"]},
    )
    fields, question, entry = [
        (category, 1, [[None], None]),
        (category, 2, [["x"], None]),
        (number, 1, [["x"], None]),
    ][place]
    stating(monkeypatch, 4, entry, module=described, place=question)
    data = dict.fromkeys(PROVIDERS, "arms.csv")
    error = with_arms.refused("describe", data, receivers=[3, 5], key="x", **fields)
    assert error.code == "bad_message"


@pytest.mark.thorough
def test_a_threshold_of_rows_that_is_no_whole_number_ends_the_question(
    with_arms: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest of them stands beside all bins of few rows."""
    stating(monkeypatch, 4, ["0" * 32, ["min_rows", "5/2"]])
    data = dict.fromkeys(PROVIDERS, "arms.csv")
    error = with_arms.refused("histogram", data, receivers=[3, 5], **BINS)
    assert error.code == "bad_message"


@pytest.mark.thorough
def test_thresholds_that_no_policy_can_have_end_the_question(
    with_arms: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pooled cells they stand in the coordinator's list, in eight bytes."""
    with_arms.allow(cells="pooled", min_providers=2)
    stated(monkeypatch, {4: {"min_rows": 2**70}})
    data = dict.fromkeys(PROVIDERS, "arms.csv")
    error = with_arms.refused("histogram", data, receivers=[3, 5], **BINS)
    assert error.code == "bad_message"


# --- quartiles of describe --------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["one pivot more", "as many other pivots"])
def test_of_quartiles_the_only_receiver_names_other_pivots_than_follow(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """As of a single quantile: the sum of moments goes before."""
    hospitals.allow()
    round_, change = GREEDY[what]
    naming(
        monkeypatch,
        3,
        lambda found, pivots: change(found, pivots) if found == round_ + 1 else pivots,
    )
    rows = counted(monkeypatch)
    data = dict.fromkeys(PROVIDERS, "rows.csv")
    error = hospitals.refused("describe", data, receivers=[3], **ORDERS["describe"])
    assert error.code == "bad_message"
    honest = [user for user, _ in rows if user != 3]
    assert len(honest) == (round_ - 1) * 2


# --- sums that no rows have ---------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("times", [-1, 0, 10**6])
def test_a_made_up_number_of_rows_is_no_search(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    own_n_rows = quantile_rounds._own_n_rows
    monkeypatch.setattr(
        quantile_rounds,
        "_own_n_rows",
        lambda questions: [times * n for n in own_n_rows(questions)],
    )
    data = dict.fromkeys(PROVIDERS, "rows.csv")
    assert hospitals.refused("median", data, key="x").code == "bad_message"


MADE_UP_SUMS: dict[
    str, tuple[str, dict[str, Any], Callable[[list[int]], list[int]]]
] = {
    "fewer rows than none": (
        "kaplan_meier",
        EVENTS,
        lambda numbers: [-9 * n for n in numbers],
    ),
    "more rows than there are": (
        "count",
        {"key": "x"},
        lambda numbers: [1000 * n for n in numbers],
    ),
}
"""By what a hospital has made up, a question and what it adds in the place of its own."""


@pytest.mark.parametrize("what", quick_of(MADE_UP_SUMS, n_quick=1))
def test_sums_that_no_rows_have_end_the_question(
    with_arms: Hospitals, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """They ended in the middle of a computation, or as an answer with such a count."""
    method, fields, change = MADE_UP_SUMS[what]
    seal = sums.Sums._seal

    def made_up(self: Any, values: Any, *rest: Any) -> bytes:
        return seal(
            self, change(list(values)) if self._party.me == 4 else values, *rest
        )

    monkeypatch.setattr(sums.Sums, "_seal", made_up)
    data = dict.fromkeys(PROVIDERS, "arms.csv")
    error = with_arms.refused(method, data, receivers=[3, 5], **fields)
    assert error.code == "bad_message"


@pytest.mark.thorough
@pytest.mark.parametrize(("method", "size"), [("ttest", 1e100), ("describe", 1e160)])
def test_numbers_whose_squares_no_double_holds_have_a_note(
    with_arms: Hospitals, method: str, size: float
) -> None:
    """Of true rows: the quantity that needs them is not told, and all else is."""
    for user in PROVIDERS:
        place = np.arange(80)
        frame = pd.DataFrame({"x": (1 + place % 7) * size, "g": place % 2})
        with_arms.write(user, "large.csv", frame)
    data = dict.fromkeys(PROVIDERS, "large.csv")
    fields = {"columns": ["x"]} if method == "describe" else {}
    answer = with_arms.ask(method, data, key="x", group_by=["g"], **fields)
    assert any("too large for a double" in note for note in answer.summary["notes"])
