"""Statistics over the rows of all providers, one below the other.

Local sums are added sealed, and finished by the receivers.

A provider states its groups, then adds vectors of exact integers, a few for each group
that all may know of. The receivers open the sums and finish them in rational
arithmetic. Quantiles take several such rounds: the first receiver names pivots, and the
providers count their rows below them. There every provider opens the sums too and
searches by itself, so that none counts a row but for the pivots that follow from the
rounds before.

Read `groups.py` next for what is stated, `sums.py` for how integers are added,
`quantile_rounds.py` for quantiles.

Decision 41.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from agents.gate import disclosure, totals, totals_in_words, withheld_groups
from agents.gate.asked_sets import NO_CHANGE, EarlierCells
from agents.gate.pooled_cells import left_out, own_cells
from agents.gate.withheld_groups import Label, Withheld
from agents.order.party import note_opened
from agents.rows.column_text import is_whole
from agents.rows.dataset import Dataset
from agents.statistics import (
    audited,
    described,
    described_rows,
    earlier_sketches,
    log_rank,
    tested,
)
from agents.statistics.answer import (
    Answer,
    Answered,
    RowCounts,
    flow_of,
    repeat_answered,
)
from agents.statistics.finished import finished_answer
from agents.statistics.groups import Agreed, agree_on_groups, pools_cells
from agents.statistics.labels import n_label_columns
from agents.statistics.levels import agree_on_levels, own_levels
from agents.statistics.opened_sets import (
    WHOLE,
    is_near_sketch,
    key_of,
    near_sketched_groups,
    reserve_sets,
)
from agents.statistics.party import (
    AgreedStatistics,
    AskedStatistics,
    VerifiedStatistics,
    policy_rules,
)
from agents.statistics.quantile_rounds import rank, shows_values
from agents.statistics.readings import Change, Reading, keep_reading, open_data
from agents.statistics.sums import (
    COUNT_BITS,
    WIDTHS,
    Sums,
    check_counts,
    end_sums,
    numbers_of,
    shown_tallies,
)
from agents.statistics.tallies import (
    Tally,
    check_filled,
    check_masks,
    n_filled,
    own_tallies,
)
from protocol.errors import Refused, check_rules
from protocol.statistics_request import RANKED, StatisticsRequest

Refuse = Callable[[Refused], None]

# A provider's part, read once


def read_rows(party: VerifiedStatistics) -> Reading:
    """Reads this provider's rows through the gate, and makes its integers of them.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows and sums stay here; others learn the row count, after the gate has
    passed.
    """
    return keep_reading(party, lambda: read_anew(party))


def _raise(error: Refused) -> None:
    raise error


def read_anew(party: AskedStatistics, *, refuse: Refuse = _raise) -> Reading:
    """The same, and nothing is kept but what is reserved in `party.memory`.

    Of a question with categories the levels alone are counted: which groups they make,
    all hospitals agree on.

    refuse: is given what withholds an answer that has no groups. Who only explains goes
    on, to the rules behind it.
    """
    if party.request.rows.categorical:
        return own_levels(party)
    return _read(party, {}, refuse)


def _of_party(party: AgreedStatistics, reading: Reading | None) -> Reading | None:
    """The reading of an order that has started without some of its hospitals: its totals
    are of fewer, and go to fewer. Made of the same rows, which the order keeps; the
    policy's rules first, as of any order over these hospitals.
    """
    if not party.absent:
        return reading
    check_rules(policy_rules(party, party.request))
    if reading is None:
        return None
    return keep_reading(party, lambda: read_anew(party), name="party_reading")


def _with_levels(party: AgreedStatistics, reading: Reading | None) -> Reading | None:
    """The reading once the levels of categories are known, which make its groups."""
    if not party.request.rows.categorical:
        return reading
    levels = agree_on_levels(party, reading)
    if reading is None:
        return None
    return keep_reading(party, lambda: _read(party, levels, _raise), name="coded")


def _read(
    party: AskedStatistics,
    levels: Mapping[str, tuple[str, ...]],
    refuse: Refuse,
) -> Reading:
    request = party.request
    if request.describes:
        return described_rows.read(party, levels)
    # A quantile's rows are read in every round, those of categories before these.
    again = request.method in RANKED or bool(levels)
    with open_data(party, again=again, levels=levels) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        # What cannot be used is found before anything is held against earlier answers.
        event_times = log_rank.own_part(
            dataset,
            request,
            party.me,
            min_rows=party.rules.min_rows,
        )
        near: set[Label] = set()
        if earlier_sketches.keeps_sketches(party):
            if is_near_sketch(party, dataset):
                return Reading(n_rows=dataset.n_rows, repeats=True)
            near = near_sketched_groups(party, dataset)
        tallies = own_tallies(dataset, request, party.me)
        check_filled(n_filled(tallies, request), party.rules)
        check_masks(party, dataset)
        # What other rules refuse is nothing to hold against earlier answers.
        withheld = _withhold(party, tallies, set(), refuse)
        reserved = reserve_sets(party, dataset, tallies, withheld)
        if reserved is None:
            return Reading(n_rows=dataset.n_rows, repeats=True)
        min_changed = audited.least_rows(party, dataset)
        are_whole = False
        if shows_values(request, party.rules):
            are_whole = is_whole(dataset, request.provider(party.me).key_column)

    not_told = reserved.withheld | reserved.near
    near_alone = near | {label for label in tallies if key_of(label) in not_told}
    withheld = _withhold(party, tallies, near_alone, refuse)
    reading = _reading(dataset, request, tallies, withheld, are_whole=are_whole)
    reading = reading.model_copy(update={"levels": levels, "log_rank": event_times})
    if not pools_cells(request, party.rules):
        return reading
    reading = _with_own_cells(party, reading, tallies, near)
    return _with_changes(party, reading, reserved.earlier, min_changed=min_changed)


def _with_changes(
    party: AskedStatistics,
    reading: Reading,
    earlier: EarlierCells,
    *,
    min_changed: int,
) -> Reading:
    """And who has come and gone since earlier answers about such cells."""
    request = party.request
    n_columns = n_label_columns(request)
    stated: set[tuple[int, int]] = set()
    changes: dict[int, dict[str, Change]] = {}
    for order_id, names in earlier.names.items():
        # Of a label of other columns there is no cell here.
        if not any(_is_label(name, n_columns) for name in names):
            continue
        for receiver in earlier.receivers[order_id]:
            who = left_out(receiver, request.providers)
            stated.add((order_id, who))
        of_order = {}
        for name, change in earlier.changes[order_id].items():
            if change != NO_CHANGE and _is_label(name, n_columns):
                of_order[name] = (*change.come, *change.gone, change.is_few)
        changes[order_id] = of_order
    update = {
        "earlier": sorted(stated),
        "changes": changes,
        "min_changed": min_changed,
    }
    return reading.model_copy(update=update)


def _is_label(name: str, n_columns: int) -> bool:
    """Whether a total is named as a cell is (`key_of`), by so many values."""
    try:
        label = json.loads(name)
    except ValueError:
        return False
    return isinstance(label, list) and len(label) == n_columns


def _with_own_cells(
    party: AskedStatistics,
    reading: Reading,
    tallies: Mapping[Label, Tally],
    near: set[Label],
) -> Reading:
    """And what this hospital says of its cells where thresholds are on the sum."""
    facts = {}
    square_shares = {}
    for label, tally in tallies.items():
        facts[label] = replace(tally.facts, is_near=label in near)
        if tally.largest_square_share is not None:
            square_shares[label] = tally.largest_square_share
    stated_cells = own_cells(facts, party.rules, square_shares=square_shares)
    withheld = {}
    for label, why in stated_cells.named.items():
        if why is not None:
            withheld[key_of(label)] = (why.rule, why.threshold)
    vetoed = [key_of(label) for label in stated_cells.vetoed]
    return reading.model_copy(update={"withheld_of_pooled": withheld, "vetoed": vetoed})


def _withhold(
    party: AskedStatistics,
    tallies: Mapping[Label, Tally],
    near: set[Label],
    refuse: Refuse,
) -> dict[Label, Withheld]:
    """Which groups this hospital's rules withhold.

    `near` are the groups whose rows nearly equal those of an earlier answer.
    """
    facts = {}
    for label, tally in tallies.items():
        facts[label] = replace(tally.facts, is_near=label in near)
    withheld = withheld_groups.withhold(facts, party.rules)
    # Without group columns the one group has no value to name it.
    if () in withheld:
        refuse(_refused(withheld[()]))
    return withheld


def _reading(
    dataset: Dataset,
    request: StatisticsRequest,
    tallies: Mapping[Label, Tally],
    withheld: Mapping[Label, Withheld],
    *,
    are_whole: bool,
) -> Reading:
    n_rows_of = {}
    numbers = {}
    for label, tally in tallies.items():
        label_text = key_of(label)
        n_rows_of[label_text] = tally.facts.n_rows
        numbers[label_text] = tally.numbers
    rules = {}
    for label, why in withheld.items():
        rules[key_of(label)] = (why.rule, why.threshold)
    n_without = dataset.n_rows - sum(n_rows_of.values())
    filled = n_filled(tallies, request)
    return Reading(
        n_rows=dataset.n_rows,
        n_selected=dataset.n_rows + dataset.n_left_out,
        n_left_out=dataset.n_left_out,
        n_null=dataset.n_left_out + n_without - filled,
        n_filled=filled,
        whole=are_whole,
        n_rows_of=n_rows_of,
        tallies=numbers,
        withheld=rules,
    )


def _refused(why: Withheld) -> Refused:
    """An answer without groups is refused by the hospital whose rule withholds it."""
    return Refused(
        f"This hospital's part of the answer is withheld: {why.reason}",
        remedy="Ask for more rows, or ask the hospital to change the rule under [statistics] in its policy.toml.",
        code=why.rule,
        threshold=why.threshold,
    )


# Sums


def answer(party: AgreedStatistics, reading: Reading | None) -> Answered:
    """States the groups, adds this provider's part, and finishes at a receiver."""
    reading = _with_levels(party, _of_party(party, reading))
    reading = _with_hospitals_checked(party, reading)
    if party.request.describes:
        return described.answer(party, reading)
    agreed = agree_on_groups(party, reading)
    tested.check_groups(party.request, agreed)
    # From the sums on, a receiver can open them.
    if agreed.repeats or not (agreed.shown or agreed.opened):
        audited.drop_totals(party)
    else:
        shown_names = {key_of(label) for label in agreed.shown}
        audited.commit_totals(party, shown=shown_names | WHOLE)
    if agreed.repeats:
        end_sums(party, round=0)
        return repeat_answered(party, agreed.repeats)
    opened = list(agreed.opened)
    if agreed.shown:
        opened += _note_opened(party, agreed)
    sums = Sums(party, party.request.openers)
    if party.request.method in RANKED:
        joint_answer = rank(party, reading, agreed, sums)
    else:
        joint_answer = _add(party, reading, agreed, sums)
    if joint_answer is not None:
        joint_answer.opened = opened
    answered = Answered(joint_answer)
    if agreed.is_pooled:
        # One hospital's numbers would tell its small cells by subtraction.
        answered.joint_rows = agreed.joint_rows
        answered.rows = None
    elif reading is not None:
        answered.rows = _own_rows(reading, agreed) if agreed.tells_rows else None
        n_used = reading.n_selected - reading.n_null
        answered.flow = flow_of(party.request, reading, answered.rows, used=n_used)
    return answered


def _with_hospitals_checked(
    party: AgreedStatistics,
    reading: Reading | None,
) -> Reading | None:
    """The reading, of which nothing is used where the last result stands again."""
    if reading is None or reading.repeats:
        return reading
    if audited.check_hospitals(party):
        return reading
    return Reading(n_rows=reading.n_rows, repeats=True)


def _own_rows(reading: Reading, agreed: Agreed) -> RowCounts:
    """What this provider says of its rows, where all of them do."""
    n_with_value = sum(reading.n_rows_of.values())
    n_used = 0
    for label in agreed.shown:
        # A group that all may know of need not exist at this provider.
        n_used += reading.n_rows_of.get(key_of(label), 0)
    return RowCounts(n_used + reading.n_filled, n_with_value - n_used, reading.n_null)


def _note_opened(party: AgreedStatistics, agreed: Agreed) -> list[str]:
    """What the answer opens, in words; in a provider's ledger before any of it leaves."""
    request = party.request
    opened = totals.opened_totals(request, None)
    n_rows = sum(party.n_rows[provider] for provider in request.providers)
    n_hospitals = len(request.providers)
    sentences = totals_in_words.words_of(opened, n_rows=n_rows, n_hospitals=n_hospitals)
    if agreed.is_pooled and request.method not in RANKED:
        sentences.append(totals_in_words.missing_in_words(n_hospitals))
    if party.is_provider:
        note_opened(party, sentences, receivers=totals.receivers_of(request))
    return sentences


def _add(
    party: AgreedStatistics,
    reading: Reading | None,
    agreed: Agreed,
    sums: Sums,
) -> Answer | None:
    """One sum of the integers of all shown groups; the answer at a receiver."""
    request = party.request
    n_event_sums = log_rank.n_sums(request, agreed)
    joint_numbers: list[int] = []
    n_rounds = 0
    if agreed.shown:
        n_summed = numbers_of(request) * len(agreed.shown) + n_event_sums
        if agreed.is_pooled:
            n_summed += 1
        if request.is_share:
            n_summed += 1
        width = WIDTHS.get(request.counted_as, COUNT_BITS)
        if n_event_sums:
            width = log_rank.width(request)
        own_numbers = functools.partial(_own_numbers, request, reading, agreed)
        joint_numbers = sums.add(own_numbers, count=n_summed, width=width, round=0)
        n_rounds = 1
    end_sums(party, round=n_rounds)
    if not party.is_receiver:
        return None
    return _opened_answer(party, agreed, joint_numbers)


def _own_numbers(
    request: StatisticsRequest,
    reading: Reading | None,
    agreed: Agreed,
) -> list[int]:
    """This provider's integers of all shown groups, and behind them what else the
    question adds; `_opened_answer` takes them apart again.
    """
    assert reading is not None
    numbers = shown_tallies(request, reading, agreed)
    if agreed.is_pooled:
        # How many of its rows have no value.
        numbers.append(reading.n_null)
    if request.is_share:
        # How many of its rows have a value: of all levels, withheld ones too.
        n_with_value = sum(reading.n_rows_of.values())
        numbers.append(n_with_value)
    if log_rank.n_sums(request, agreed):
        numbers += log_rank.joint_sums(reading, agreed)
    return numbers


def _opened_answer(
    party: AgreedStatistics,
    agreed: Agreed,
    joint_numbers: list[int],
) -> Answer:
    """The answer that the joint integers make; without shown groups there are none."""
    request = party.request
    n_numbers = numbers_of(request)
    event_sums: list[int] = []
    n_event_sums = log_rank.n_sums(request, agreed)
    if n_event_sums and joint_numbers:
        event_sums = joint_numbers[-n_event_sums:]
        joint_numbers = joint_numbers[:-n_event_sums]
    if agreed.is_pooled and joint_numbers:
        *joint_numbers, n_null = joint_numbers
        n_used = sum(joint_numbers[::n_numbers])
        joint_rows = _joint_rows(party, agreed, n_used, n_null)
        agreed.joint_rows.update(joint_rows)
    n_all = 0
    if request.is_share and joint_numbers:
        *joint_numbers, n_all = joint_numbers
    # The integers of all groups come as one list, a group after the other.
    by_group = []
    for begin in range(0, len(joint_numbers), n_numbers):
        end = begin + n_numbers
        by_group.append(joint_numbers[begin:end])
    n_rows = [numbers[0] for numbers in by_group]
    check_counts(party, n_rows)
    return finished_answer(
        request,
        agreed,
        by_group,
        n_all=n_all,
        event_sums=event_sums,
    )


def _joint_rows(
    party: AgreedStatistics,
    agreed: Agreed,
    n_used: int,
    n_null: int,
) -> dict[str, int]:
    """Of all hospitals together, the rows in shown cells, in others, and in none; none
    of the three where one would tell of few.
    """
    n_rows = sum(party.n_rows[provider] for provider in party.request.providers)
    counts = {"used": n_used, "withheld": n_rows - n_used - n_null, "null": n_null}
    if any(0 < row_count < agreed.min_rows for row_count in counts.values()):
        return {}
    return counts
