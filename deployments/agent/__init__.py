"""The agent's command line: `./run agent COMMAND --site FOLDER`; without a command it
starts the agent.

What a command answers goes to stdout, everything else to stderr. Exit codes: 0; 1 when
a check or the ledger's chain is wrong, when rows would be refused, or when a question
is not answered with yes; 2 for an error, in one line; 78 where the agent cannot start
before a person has put something right.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from agents.check.findings import OK, WRONG, Finding
from agents.check.order.checking import check_order
from agents.check.site import check_locally, check_policy, check_site
from agents.gate.memory import COORDINATOR, Listed, Memory
from agents.order.approval import ApprovalQuestion, Approvals, person
from agents.order.party import Party, hospital_to_read, open_party
from agents.rows.predictions import Target, target_of, write_predictions
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from agents.statistics.results import Result, list_results, read_result
from agents.training.export import FORMATS, export_model
from agents.training.inference import predict
from agents.training.report_text import (
    REPORT_FORMATS,
    report_of,
    written,
    written_evaluation,
)
from agents.training.rows_check import check_rows
from protocol.errors import BadRequest, Conflict, ConsiliumError, NotFound, Refused
from protocol.memory_transport import MemoryTransport
from tasks.exit_codes import ExitCode

log = logging.getLogger("consilium.agent")

_LEAST_WIDTH = 11
"""Of the column with what a finding is about."""

NEVER_READ = (
    # Of somebody's own work with Prefect: its client would send them to the coordinator.
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    # Prefect's client alone would trust it.
    "PREFECT_API_SSL_CERT_FILE",
)
"""Of the environment, nothing that says whom this agent trusts or who it is."""

# A command gets the arguments as they were read, and gives its exit code.
Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; never raises, never prints a
    traceback.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConsiliumError as error:
        _say(str(error))
        # What a person has to fix at this site; anything else may be over at the next
        # start.
        is_of_the_site = isinstance(error, BadRequest | Conflict)
        return int(options.failed) if is_of_the_site else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`
        # Python flushes stdout at its end, which would fail a second time.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except Exception as caught:  # noqa: BLE001
        cause: BaseException = caught
        while isinstance(
            cause, BaseExceptionGroup
        ):  # what a task group makes of its first task's error
            cause = cause.exceptions[0]
        kind = type(cause).__name__
        place = traceback.extract_tb(cause.__traceback__)[-1]
        _say(
            f"An unplanned error ({kind}) in {Path(place.filename).name}, line {place.lineno}."
        )
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run agent", description=__doc__, allow_abbrev=False
    )
    _add_site(parser)
    parser.set_defaults(run=_with_settings(start), failed=ExitCode.NOT_READY)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, entry in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=entry.words,
            description=entry.words,
            allow_abbrev=False,
        )
        _add_site(command)
        _add_options(command, name)
        command.set_defaults(
            run=entry.run,
            failed=ExitCode.NOT_READY if name == "start" else 2,
            approve=name == "approve",
        )
    return parser


def _add_site(parser: argparse.ArgumentParser) -> None:
    """Before or after the command: a default would let the one that is not given hide
    the other.
    """
    parser.add_argument(
        "--site",
        type=Path,
        default=argparse.SUPPRESS,
        help="the site's folder, with settings.toml",
    )


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("check", "ledger", "results", "approvals", "cohorts"):
        command.add_argument(
            "--json", action="store_true", help="JSON instead of lines"
        )
    match name:
        case "check":
            words = "check this policy file alone, without a site"
            command.add_argument("--policy", type=Path, metavar="FILE", help=words)
            words = "say what the gate would answer to this order, the JSON body of a request; nothing is reserved"
            command.add_argument("--order", type=Path, metavar="FILE", help=words)
            words = "with --order: the hospital whose user would send it, where the body does not say"
            command.add_argument("--user", type=int, help=words)
        case "ledger":
            command.add_argument("--order", type=int, help="this order or model only")
        case "export":
            _add_model(command)
            command.add_argument("--format", choices=FORMATS, default="json")
        case "report":
            of_what = command.add_mutually_exclusive_group(required=True)
            of_what.add_argument("--model", type=int, help="the number of its order")
            words = "the number of an order of POST /model/evaluate"
            of_what.add_argument("--evaluation", type=int, help=words)
            command.add_argument("--format", choices=REPORT_FORMATS, default="json")
        case "infer":
            _add_model(command)
            words = "one SELECT; - reads it from stdin"
            command.add_argument("--sql", required=True, help=words)
            words = "CSV instead of a JSON list"
            command.add_argument("--csv", action="store_true", help=words)
            words = "write them there: schema.table of predictions_url, or a path that ends in .csv or .json"
            command.add_argument("--into", metavar="TARGET", help=words)
            words = 'with --into: again and again, at these times, as "0 6 * * *"'
            command.add_argument("--cron", metavar="TIMES", help=words)
            words = "whose time --cron is in, as Asia/Shanghai"
            command.add_argument("--timezone", default="UTC", help=words)
        case "show":
            words = "of 127.0.0.1; without it any that is free"
            command.add_argument("--port", type=int, default=0, help=words)
        case "approve":
            _add_decision(command, "for the record")
        case "refuse":
            # A refusal's reason leaves the hospital; an approval's stays in its ledger.
            _add_decision(
                command, "one line; the order's parties and the coordinator read it"
            )
        case "cohorts":
            _add_cohorts(command)
        case "results":
            words = "all of them, or the result of one order"
            command.add_argument("action", choices=["list", "show"], help=words)
            words = "which order's, with show"
            command.add_argument(
                "order_id", type=int, nargs="?", metavar="ORDER_ID", help=words
            )


def _add_cohorts(command: argparse.ArgumentParser) -> None:
    words = "what has left; take some of it out; whether rows would pass the gate"
    actions = ["list", "forget", "check"]
    command.add_argument(
        "action", choices=actions, nargs="?", default="list", help=words
    )
    words = "a hospital's number or coordinator; with check once for each"
    command.add_argument("--receiver", action="append", default=[], help=words)
    words = "a table or file as list names it, with forget"
    command.add_argument("--population", help=words)
    words = "with forget: do not ask"
    command.add_argument("--yes", action="store_true", help=words)
    words = "with check: one SELECT of the unique id and the columns of an order; - reads it from stdin"
    command.add_argument("--sql", help=words)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=int, required=True, help="the model's id")


def _add_decision(command: argparse.ArgumentParser, reason: str) -> None:
    command.add_argument(
        "order_id", type=int, metavar="ORDER_ID", help="as `approvals` lists it"
    )
    command.add_argument("--reason", default="", help=reason)


def _with_settings(
    command: Callable[[argparse.Namespace, SiteSettings], int],
) -> Command:
    def run(options: argparse.Namespace) -> int:
        settings = load_settings(_site(options))
        return command(options, settings)

    return run


def _site(options: argparse.Namespace) -> Path:
    if "site" not in options:
        raise BadRequest(
            "No site is given.",
            remedy="Add --site with the folder of settings.toml.",
            code="site",
        )
    return Path(options.site)


def start(_options: argparse.Namespace, settings: SiteSettings) -> int:
    """Runs the agent; Prefect reads its environment once, when it is first imported.

    The self-test runs beside it, so that a slow database delays nothing; a fault of the
    site ends no agent.
    """
    # Before anything imports Prefect.
    take_environment(settings)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("consilium").setLevel(logging.INFO)
    self_test = threading.Thread(target=_log_findings, args=(settings,), daemon=True)
    self_test.start()
    from flows import hospital_runs
    from tasks.hospital.worker import main as work

    work(settings, hospital_runs)
    return 0


def take_environment(settings: SiteSettings) -> None:
    """What Prefect's client reads, in this process and those that it starts.

    It would follow variables that no other client of the agent reads: settings.toml
    says which proxy is taken, for all of them.
    """
    for name in [*os.environ]:
        is_proxy = name.lower().endswith("_proxy")
        if is_proxy or name in NEVER_READ:
            del os.environ[name]
    os.environ.update(settings.environment())


def _log_findings(settings: SiteSettings) -> None:
    for finding in check_locally(settings):
        if finding.state != OK:
            (line,) = _finding_lines([finding])
            log.warning("%s", _printable(line))


def run_check(options: argparse.Namespace) -> int:
    """Prints every finding; 1 if anything is wrong."""
    findings = _findings(options)
    if options.json:
        _print_json([finding.to_json() for finding in findings])
    else:
        _print_lines(_finding_lines(findings))
    is_wrong = any(finding.state == WRONG for finding in findings)
    return 1 if is_wrong else 0


def _findings(options: argparse.Namespace) -> list[Finding]:
    if options.policy is not None:
        if "site" in options or options.order is not None:
            beside = "a site" if "site" in options else "an order"
            raise BadRequest(
                f"Both {beside} and a policy are given.",
                remedy="Give --site for a whole installation, --site and --order for an order, or --policy for one"
                " file.",
                code="site",
            )
        return check_policy(options.policy)
    if options.user is not None and options.order is None:
        raise BadRequest(
            "--user says who would send an order, and no order is given.",
            remedy="Add --order with the file of its body.",
            code="order_file",
        )
    if options.order is not None:
        return check_order(_site(options), options.order, user=options.user)
    return check_site(_site(options))


def _finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    found = list(findings)
    width = max([_LEAST_WIDTH, *[len(finding.check) for finding in found]])
    for finding in found:
        word = finding.state.upper() if finding.state == WRONG else finding.state
        text = f"{finding.sentence} {finding.remedy}".rstrip()
        yield f"{word:5}  {finding.check:{width}}  {text}"


def show_keys(_options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints who this hospital is; the first call makes its keys."""
    fingerprint = Vault(settings.vault).identity().public.fingerprint
    name = json.dumps(settings.name, ensure_ascii=False)
    _print_lines(
        [
            f"user_id      {settings.user_id}",
            f"name         {settings.name}",
            f"fingerprint  {fingerprint}",
            "",
            "# For each partner's settings.toml, once it has compared the fingerprint with you by telephone:",
            "[[partners]]",
            f"user_id = {settings.user_id}",
            f"name = {name}",
            f'fingerprint = "{fingerprint}"',
        ]
    )
    return 0


def show_ledger(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints the entries, then whether the chain is whole; 1 if it is broken. As JSON,
    the last goes to stderr.
    """
    ledger = Ledger(settings.ledger)
    show_entry = json.dumps if options.json else _entry_line
    show_verdict = _say if options.json else _print_line
    for entry in ledger.entries():
        if _is_about(entry, options.order):
            _print_line(show_entry(entry))

    broken = ledger.first_broken_line()
    if broken is None:
        show_verdict(f"The chain is whole; its head is {ledger.head()}.")
        return 0
    where = f"line {broken} of {ledger.path}"
    show_verdict(
        f"The chain is BROKEN at {where}: that line or the one before was altered."
    )
    return 1


def _is_about(entry: dict[str, Any], number: int | None) -> bool:
    if number is None:
        return True
    return number in (entry.get("order_id"), entry.get("model_id"))


def _entry_line(entry: dict[str, Any]) -> str:
    """Four columns, and what else an event of its kind says."""
    moment = entry.get("at", "")
    event = entry["event"]
    number = entry.get("order_id", entry.get("model_id", ""))
    what = str(entry.get("kind") or entry.get("rule") or entry.get("format") or "")
    parts = [f"{moment:29}", f"{event:10}", f"{number!s:>6}", f"{what:16}"]

    if event == "decided":
        parts.append(f"{entry['decision']} by {entry['person']}")
    elif "recipient" in entry:
        parts.append(
            f"fold {entry['fold']} round {entry['round']} to {entry['recipient']}"
        )
    if "n_bytes" in entry:
        parts.append(f"{entry['n_bytes']} bytes")
    if event == "opens":
        opened = "; ".join(str(total) for total in entry.get("totals", []))
        receivers = ", ".join(str(user) for user in entry.get("receivers", []))
        parts.append(f"{opened}, to {receivers}")
    sentence = str(entry.get("sentence", ""))
    if sentence:
        parts.append(sentence)
    return "  ".join(parts)


def list_models(_options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints a line for each model: its id first."""
    vault = Vault(settings.vault)
    for model_id in vault.models():
        model = vault.model(model_id)
        _print_line(
            f"{model_id}  {model['model_type']}  {len(model['attributes'])} attributes"
            f"{_ending_of(model)}"
        )
        for sentence in model.get("warnings", []):
            _print_line(f"    Warning: {sentence}")
    return 0


def _ending_of(model: dict[str, Any]) -> str:
    """Nothing of a model of an earlier version, which did not keep it."""
    if "stopped_by" not in model:
        return ""
    n_rounds = model["n_rounds"]
    if model["converged"]:
        return f"  converged after {n_rounds} rounds"
    return f"  ended by max_iter after {n_rounds} rounds"


def export(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints a model; the ledger says so first."""
    model = Vault(settings.vault).model(options.model)
    exported = export_model(model, options.format)
    ledger = Ledger(settings.ledger)
    # First: what cannot be written down is not printed.
    ledger.write("exported", model_id=options.model, format=options.format)
    _print_json(exported)
    return 0


def print_report(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints a model's report, or an evaluation's; the ledger says so first."""
    vault = Vault(settings.vault)
    ledger = Ledger(settings.ledger)
    if options.evaluation is not None:
        return _print_evaluation(options, vault, ledger)
    report = report_of(vault.model(options.model))
    # First: what cannot be written down is not printed.
    ledger.write("exported", model_id=options.model, format=f"report {options.format}")
    print(written(report, options.format), end="")
    return 0


def _print_evaluation(options: argparse.Namespace, vault: Vault, ledger: Ledger) -> int:
    kept = vault.evaluation(options.evaluation)
    ledger.write(
        "exported",
        model_id=kept["model_id"],
        evaluation_id=options.evaluation,
        format=f"report {options.format}",
    )
    print(written_evaluation(kept, options.format), end="")
    return 0


def infer(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Predictions for this hospital's own rows: printed, or written where `--into` says,
    once or at the times of `--cron`.
    """
    sql = sys.stdin.read() if options.sql == "-" else options.sql
    target = None
    if options.into is not None:
        target = target_of(options.into, predictions_url=settings.predictions_url)
    if options.cron is None:
        _infer_once(options, settings, sql, target)
        return 0
    if target is None:
        raise BadRequest(
            "--cron is given without --into.",
            remedy="Say where the predictions go.",
            code="cron",
        )
    for due in _due_times(options.cron, options.timezone):
        _say(f"The next predictions are made at {due.isoformat()}.")
        _wait_until(due)
        try:
            _infer_once(options, settings, sql, target)
        except ConsiliumError as error:
            # What is wrong tonight may be right tomorrow.
            _say(str(error))
    return 0


def _infer_once(
    options: argparse.Namespace,
    settings: SiteSettings,
    sql: str,
    target: Target | None,
) -> None:
    """The ledger says so before anything is printed or written, and says what was
    refused.
    """
    ledger = Ledger(settings.ledger)
    try:
        entries = _predictions(settings, options.model, sql)
    except ConsiliumError as error:
        ledger.write(
            "refused", model_id=options.model, rule=error.code, sentence=error.sentence
        )
        raise
    into = {} if target is None else {"into": options.into}
    ledger.write("inferred", model_id=options.model, n_rows=len(entries), **into)
    if target is not None:
        write_predictions(entries, target, model_id=options.model)
        _say(f"Wrote {len(entries)} predictions into {options.into}.")
    elif options.csv:
        _print_csv(entries)
    else:
        _print_json(entries)


def _due_times(cron: str, zone: str) -> Iterator[datetime]:
    """From now on. BadRequest for times or a zone that are none."""
    try:
        now = datetime.now(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        raise BadRequest(
            "--timezone is no name of the IANA list.",
            remedy="Write a place, as Asia/Shanghai or Europe/Berlin, or UTC.",
            code="timezone",
        ) from None
    try:
        return iter(CronSim(cron, now))
    except CronSimError:
        raise BadRequest(
            "--cron is not readable.",
            remedy='Write five fields (minute, hour, day, month, weekday), as "0 6 * * 1-5".',
            code="cron",
        ) from None


def _wait_until(due: datetime) -> None:
    """In short steps: the clock of a machine may be set, or stand still while it
    sleeps.
    """
    while True:
        n_seconds = (due - datetime.now(UTC)).total_seconds()
        if n_seconds <= 0:
            return
        threading.Event().wait(min(n_seconds, 30.0))


def _predictions(
    settings: SiteSettings, model_id: int, sql: str
) -> list[dict[str, Any]]:
    with _party_without_order(settings) as party:
        return predict(party, model_id, sql)


@contextmanager
def _party_without_order(settings: SiteSettings) -> Iterator[Party]:
    """This hospital, where it acts for itself alone."""
    # Orders count from 1, and two commands at once must not share a folder.
    no_order = -os.getpid()
    party = open_party(settings, no_order, MemoryTransport())
    try:
        yield party
    finally:
        party.store.destroy()


def show_results(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Lists what this hospital received of joint statistics, or prints one result; its
    notes go to stderr.
    """
    is_one = options.action == "show"
    has_number = options.order_id is not None
    if is_one != has_number:
        raise BadRequest(
            "An order's number belongs to show, and to show only.",
            remedy="Write `results list`, or `results show ORDER_ID`.",
            code="order_id",
        )
    if is_one:
        result = read_result(settings.results_folder, options.order_id)
        _show_result(result, as_json=options.json)
    else:
        _list_results(list_results(settings.results_folder), as_json=options.json)
    return 0


def _list_results(found: list[Result], *, as_json: bool) -> None:
    if as_json:
        entries = []
        for result in found:
            entry = {
                "order_id": result.order_id,
                "path": str(result.path),
                "notes": result.notes,
            }
            entries.append(entry)
        _print_json(entries)
        return
    for result in found:
        method = result.notes.get("method", "")
        _print_line(f"{result.order_id}  {method:22}  {result.path}")


def _show_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        whole = {
            "order_id": result.order_id,
            "path": str(result.path),
            "type": result.type,
            "rows": result.rows(),
            "notes": result.notes,
        }
        _print_json(whole)
        return
    text = result.path.read_text("utf-8")
    _print_lines(text.rstrip("\n").split("\n"))
    for name, value in result.notes.items():
        shown = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
        _say(f"{name}: {shown}")


def run_cohorts(options: argparse.Namespace, settings: SiteSettings) -> int:
    """What the gate remembers of earlier answers; 1 where nothing was forgotten, or
    rows would be refused.
    """
    match options.action:
        case "forget":
            return _forget_cohorts(options, settings)
        case "check":
            return _check_rows(options, settings)
    listed = Memory(Vault(settings.vault).cohorts).list_opened()
    if options.json:
        _print_json([_listed_entry(one) for one in listed])
        return 0
    _print_lines(_cohort_lines(listed))
    if not listed:
        _say("Nothing has left so far.")
    return 0


def _listed_entry(one: Listed) -> dict[str, Any]:
    return {
        "receiver": one.receiver,
        "population": one.population,
        "column": one.column,
        "name": one.name,
        "order_id": one.order_id,
        "n_rows": one.n_members,
        "at": one.at.isoformat(),
        "has_left": one.has_left,
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
    for one in listed:
        total = _Total(one.order_id, one.at, one.has_left, one.name, one.n_members)
        totals = by_receiver.setdefault((one.receiver, one.population), {})
        totals.setdefault(total, []).append(one.column)

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
    return receiver if receiver == COORDINATOR else f"hospital {receiver}"


def _forget_cohorts(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Takes out what one receiver has of one population, once a person has said yes;
    the ledger says so first.
    """
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
        if (one.receiver, one.population) == (receiver, population) and one.has_left:
            orders.add(one.order_id)
    if not orders:
        raise NotFound(
            f"{_receiver_name(receiver)} has nothing of {population}.",
            remedy="Give receiver and population as `cohorts list` names them.",
            code="cohorts",
        )
    _say(
        f"{_receiver_name(receiver)} has answers of {len(orders)} order(s) about {population}. They are not taken back:"
        " it can still compare them with each answer to come, and the gate will no longer see when that tells"
        " single patients."
    )
    if not options.yes:
        print("Forget them? Write yes: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != "yes":
            _say("Nothing was forgotten.")
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
    _print_line(f"Forgotten: {n_totals} total(s) of {len(orders)} order(s).")
    return 0


def _check_rows(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Says whether rows would pass the gate; reserves nothing."""
    known = [name for name in options.receiver if name.isdecimal()]
    known += [name for name in options.receiver if name == COORDINATOR]
    if options.sql is None or not known or len(known) < len(options.receiver):
        raise BadRequest(
            "Rows are checked by their SQL, and for the order's other hospitals.",
            remedy="Give --sql, and --receiver once for each: its number, or coordinator.",
            code="cohorts",
        )
    sql = sys.stdin.read() if options.sql == "-" else options.sql
    hospital = hospital_to_read(settings)
    try:
        n_rows = check_rows(hospital, sql, receivers=known)
    except Refused as refusal:
        _print_line(f"refused  {refusal.code}  {refusal}")
        return 1
    _print_line(f"passes   {n_rows} rows")
    return 0


def list_approvals(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints every order that waits for a person here, with all that it says."""
    waiting = Approvals(settings).waiting()
    if options.json:
        _print_json([asdict(question) for question in waiting])
    else:
        for question in waiting:
            _print_lines([*_question_lines(question), ""])
        how = " Decide by `approve ORDER_ID` or `refuse ORDER_ID`." if waiting else ""
        _say(f"{len(waiting)} waiting.{how}")
    return 0


def _question_lines(question: ApprovalQuestion) -> Iterator[str]:
    yield f"order {question.order_id}, since {question.asked_at}"
    for name, text in question.lines():
        yield f"  {name:24}  {text}"


def decide(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Approves or refuses an order that waits; says so when it is in ledger and vault."""
    made = Approvals(settings).decide(
        options.order_id,
        approve=options.approve,
        reason=options.reason.strip(),
        person=person(),
    )
    _print_line(
        f"Order {made.order_id} is {made.decision} by {made.person} at {made.at}."
    )
    return 0


def show(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Serves the hospital's own page until Ctrl-C; the link that opens it is printed
    once.
    """
    from agents.page.server import serve

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def tell(link: str) -> None:
        _say(
            "Open this link in a browser on this machine. It works once; Ctrl-C ends the page."
        )
        print(link, flush=True)

    serve(settings, options.port, tell)
    return 0


class _Entry(NamedTuple):
    """A command as the parser knows it."""

    run: Command
    words: str  # of its help


_COMMANDS: dict[str, _Entry] = {
    "start": _Entry(
        _with_settings(start),
        "run the agent until SIGINT or SIGTERM (the default)",
    ),
    "check": _Entry(
        run_check,
        "say what is wrong with this installation, with a policy or with an order, and how to fix it",
    ),
    "ledger": _Entry(
        _with_settings(show_ledger),
        "what was asked, refused and sent, and whether the record is whole",
    ),
    "keys": _Entry(
        _with_settings(show_keys),
        "this hospital's fingerprint, and what its partners write down",
    ),
    "models": _Entry(
        _with_settings(list_models),
        "the models that this hospital holds",
    ),
    "export": _Entry(
        _with_settings(export),
        "print a model as JSON",
    ),
    "report": _Entry(
        _with_settings(print_report),
        "print estimates and standard errors of a model that newton has trained, or how good a model is on new rows",
    ),
    "results": _Entry(
        _with_settings(show_results),
        "what this hospital received of joint statistics",
    ),
    "approvals": _Entry(
        _with_settings(list_approvals),
        "the orders that wait for a person here, and all that they say",
    ),
    "approve": _Entry(
        _with_settings(decide),
        "let an order that waits go on",
    ),
    "refuse": _Entry(
        _with_settings(decide),
        "end an order that waits, for all its hospitals",
    ),
    "cohorts": _Entry(
        _with_settings(run_cohorts),
        "whose rows are in what has left, by receiver; forget some, or check rows before an order is sent",
    ),
    "show": _Entry(
        _with_settings(show),
        "a page of all this on this machine, for the hospital's own people",
    ),
    "infer": _Entry(
        _with_settings(infer),
        "apply a model to rows of this hospital, without the coordinator",
    ),
}


# Printing. Ledger and errors hold text of other hospitals, which must not reach a
# terminal as control characters.


def _print_csv(entries: list[dict[str, Any]]) -> None:
    """Rows that the model cannot be applied to have a reason in place of a label."""
    classes: list[str] = []
    for entry in entries:
        classes = classes or list(entry.get("probabilities") or {})
    has_reasons = any("reason" in entry for entry in entries)
    head = ["id", "label", *[f"probability_{name}" for name in classes]]
    if has_reasons:
        head.append("reason")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    for entry in entries:
        found = entry.get("probabilities") or {}
        row = [entry["id"], entry["label"], *[found.get(name) for name in classes]]
        if has_reasons:
            row.append(entry.get("reason"))
        writer.writerow(row)


def _print_json(value: Any) -> None:
    """A list on one line, for programs; anything else so that people can read it too."""
    indent = None if isinstance(value, list) else 2
    print(json.dumps(value, indent=indent, allow_nan=False))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _print_line(line)


def _print_line(line: str) -> None:
    print(_printable(line))


def _say(line: str) -> None:
    print(_printable(line), file=sys.stderr)


def _printable(line: str) -> str:
    return "".join(_shown(letter) for letter in line)


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else f"\\u{ord(letter):04x}"
