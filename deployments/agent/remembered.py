"""Whose rows are in what has left, and the cohorts that orders may name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.agent.printing import (
    print_json,
    print_line,
    print_lines,
    say,
)
from protocol.errors import BadRequest, NotFound, Refused

if TYPE_CHECKING:
    from agents.gate.kept_sets import Listed


def run_cohorts(options: argparse.Namespace, settings: SiteSettings) -> int:
    """What the gate remembers of earlier answers; 1 where nothing was forgotten, or
    rows would be refused.
    """
    from agents.gate.memory import Memory
    from agents.site.policy import load_policy
    from deployments.agent import named_cohorts

    match options.action:
        case "forget":
            return _forget_cohorts(options, settings)
        case "check":
            return _check_rows(options, settings)
        case "named":
            _list_named(named_cohorts.named_entries(settings), as_json=options.json)
            return 0
        case "refresh":
            print_lines(named_cohorts.refresh(settings, options.name))
            return 0
        case "digest":
            print_line(named_cohorts.digest_line(settings, options.name))
            return 0
    listed = Memory(Vault(settings.vault).cohorts).list_opened()
    if options.json:
        print_json([_listed_entry(entry) for entry in listed])
        return 0
    if load_policy(settings.policy).cohorts:
        _list_named(named_cohorts.named_entries(settings), as_json=False)
        print_line("")
    print_lines(_cohort_lines(listed))
    if not listed:
        say("Nothing has left so far.")
    return 0


def _list_named(entries: list[dict[str, Any]], *, as_json: bool) -> None:
    from deployments.agent import named_cohorts

    if as_json:
        print_json(entries)
    else:
        print_lines(named_cohorts.named_lines(entries))


def _listed_entry(entry: Listed) -> dict[str, Any]:
    return {
        "receiver": entry.receiver,
        "population": entry.population,
        "column": entry.column,
        "name": entry.name,
        "order_id": entry.order_id,
        "n_rows": entry.n_members,
        "at": entry.at.isoformat(),
        "has_left": entry.has_left,
    }


class _Total(NamedTuple):
    """A line of the list: a total, under whatever columns it is remembered."""

    order_id: int
    at: datetime
    has_left: bool
    name: str
    n_rows: int


def _cohort_lines(listed: Iterable[Listed]) -> Iterator[str]:
    """By receiver and population a line for each total, the earliest first."""
    by_receiver: dict[tuple[str, str], dict[_Total, list[str]]] = {}
    for entry in listed:
        total = _Total(
            entry.order_id, entry.at, entry.has_left, entry.name, entry.n_members
        )
        totals = by_receiver.setdefault((entry.receiver, entry.population), {})
        totals.setdefault(total, []).append(entry.column)

    for (receiver, population), totals in by_receiver.items():
        yield f"{_receiver_name(receiver)}, {population}"
        width = max(len(total.name) for total in totals)
        yield (
            f"  {'order':>6}  {'when (UTC)':16}  {'':8}  {'rows':>8}  {'total':{width}}  columns"
        )
        in_order = sorted(totals, key=lambda total: (total.at, total[0], total.name))
        for total in in_order:
            state = "left" if total.has_left else "reserved"
            columns = ", ".join(totals[total])
            yield (
                f"  {total.order_id:>6}  {total.at:%Y-%m-%d %H:%M}  {state:8}  {total.n_rows:>8}"
                f"  {total.name:{width}}  {columns}"
            )
        yield ""


def _receiver_name(receiver: str) -> str:
    from agents.gate.kept_sets import COORDINATOR

    return receiver if receiver == COORDINATOR else f"hospital {receiver}"


def _forget_cohorts(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Takes out what one receiver has of one population, once a person has said yes;
    the ledger says so first.
    """
    from agents.gate.memory import Memory
    from agents.order.approval import person

    if len(options.receiver) != 1 or options.population is None:
        raise BadRequest(
            "It is not clear what is to be forgotten.",
            remedy="Give one --receiver and one --population, as `cohorts list` names them.",
            code="cohorts",
        )
    (receiver,), population = options.receiver, options.population
    memory = Memory(Vault(settings.vault).cohorts)
    orders = set()
    for one in memory.list_opened():
        # What is only reserved is of an order under way: the gate still has to see it.
        if (one.receiver, one.population) == (receiver, population) and one.has_left:
            orders.add(one.order_id)
    if not orders:
        raise NotFound(
            f"{_receiver_name(receiver)} has nothing of {population}.",
            remedy="Give receiver and population as `cohorts list` names them.",
            code="cohorts",
        )
    say(
        f"{_receiver_name(receiver)} has answers of {len(orders)} order(s) about {population}. They are not taken back:"
        " it can still compare them with each answer to come, and the gate will no longer see when that tells"
        " single patients."
    )
    if not options.yes:
        print("Forget them? Write yes: ", end="", file=sys.stderr, flush=True)
        # The whole word: Enter, or the end of a pipe, forgets nothing.
        if sys.stdin.readline().strip() != "yes":
            say("Nothing was forgotten.")
            return 1
    Ledger(settings.ledger).write(
        "forgotten",
        receiver=receiver,
        population=population,
        n_orders=len(orders),
        person=person(),
        sentence=f"Answers of {len(orders)} order(s) about {population} to {_receiver_name(receiver)} are forgotten.",
    )
    n_totals = memory.forget(receiver, population)
    print_line(f"Forgotten: {n_totals} total(s) of {len(orders)} order(s).")
    return 0


def _check_rows(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Says whether rows would pass the gate; reserves nothing."""
    from agents.gate.kept_sets import COORDINATOR
    from agents.order.party import hospital_to_read
    from agents.training.rows_check import check_rows

    receivers = [receiver for receiver in options.receiver if receiver.isdecimal()]
    receivers += [receiver for receiver in options.receiver if receiver == COORDINATOR]
    if options.sql is None or not receivers or len(receivers) < len(options.receiver):
        raise BadRequest(
            "Rows are checked by their SQL, and for the order's other hospitals.",
            remedy="Give --sql, and --receiver once for each: its number, or coordinator.",
            code="cohorts",
        )
    sql = sys.stdin.read() if options.sql == "-" else options.sql
    hospital = hospital_to_read(settings)
    try:
        n_rows = check_rows(hospital, sql, receivers=receivers)
    except Refused as refusal:
        print_line(f"refused  {refusal.code}  {refusal}")
        return 1
    print_line(f"passes   {n_rows} rows")
    return 0
