"""The agent's command line: `./run agent COMMAND --site FOLDER`; without a command it starts the agent.

What a command answers goes to stdout, everything else to stderr. Exit codes: 0; 1 when a check or the ledger's chain
is wrong; 2 for an error, in one line; 78 where the agent cannot start before a person has put something right.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from agents.check import OK, WRONG, Finding, check_locally, check_policy, check_site
from agents.order.approval import ApprovalQuestion, Approvals, person
from agents.order.party import open_party
from agents.site.ledger import Ledger
from agents.site.settings import Settings, load_settings
from agents.site.vault import Vault
from agents.statistics.results import Result, list_results, read_result
from agents.training.export import FORMATS, export_model
from agents.training.inference import predict
from protocol.errors import BadRequest, Conflict, ConsiliumError
from protocol.exchange import MemoryTransport
from tasks.exit_codes import ExitCode

log = logging.getLogger("consilium.agent")

# A command gets the arguments as they were read, and gives its exit code.
Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; never raises, never prints a traceback."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConsiliumError as error:
        _say(str(error))
        # What a person has to fix at this site; anything else may be over at the next start.
        is_of_the_site = isinstance(error, BadRequest | Conflict)
        return int(options.failed) if is_of_the_site else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`
        # Python flushes stdout at its end, which would fail a second time.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except Exception as caught:  # noqa: BLE001 (its text may hold a row's values, so only its kind and place are shown)
        cause: BaseException = caught
        while isinstance(cause, BaseExceptionGroup):  # what a task group makes of its first task's error
            cause = cause.exceptions[0]
        kind = type(cause).__name__
        place = traceback.extract_tb(cause.__traceback__)[-1]
        _say(f"An unplanned error ({kind}) in {Path(place.filename).name}, line {place.lineno}.")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run agent", description=__doc__, allow_abbrev=False)
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
    """Before or after the command: a default would let the one that is not given hide the other."""
    parser.add_argument(
        "--site", type=Path, default=argparse.SUPPRESS, help="the site's folder, with settings.toml"
    )


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("check", "ledger", "results", "approvals"):
        command.add_argument("--json", action="store_true", help="JSON instead of lines")
    if name == "check":
        words = "check this policy file alone, without a site"
        command.add_argument("--policy", type=Path, metavar="FILE", help=words)
    if name == "ledger":
        command.add_argument("--order", type=int, help="this order or model only")
    if name in ("export", "infer"):
        command.add_argument("--model", type=int, required=True, help="the model's id")
    if name == "export":
        command.add_argument("--format", choices=FORMATS, default="json")
    if name == "infer":
        command.add_argument("--sql", required=True, help="one SELECT; - reads it from stdin")
        command.add_argument("--csv", action="store_true", help="CSV instead of a JSON list")
    if name == "show":
        command.add_argument("--port", type=int, default=0, help="of 127.0.0.1; without it any that is free")
    if name in ("approve", "refuse"):
        command.add_argument("order_id", type=int, metavar="ORDER_ID", help="as `approvals` lists it")
        reason = "for the record"
        if name == "refuse":
            reason = "one line; the order's parties and the coordinator read it"
        command.add_argument("--reason", default="", help=reason)
    if name == "results":
        words = "all of them, or the result of one order"
        command.add_argument("action", choices=["list", "show"], help=words)
        words = "which order's, with show"
        command.add_argument("order_id", type=int, nargs="?", metavar="ORDER_ID", help=words)


def _with_settings(command: Callable[[argparse.Namespace, Settings], int]) -> Command:
    def run(options: argparse.Namespace) -> int:
        settings = load_settings(_site(options))
        return command(options, settings)

    return run


def _site(options: argparse.Namespace) -> Path:
    if "site" not in options:
        raise BadRequest(
            "No site is given.", remedy="Add --site with the folder of settings.toml.", code="site"
        )
    return Path(options.site)


def start(_options: argparse.Namespace, settings: Settings) -> int:
    """Runs the agent; Prefect reads its environment once, when it is first imported.

    The self-test runs beside it, so that a slow database delays nothing; a fault of the site ends no agent.
    """
    # Before anything imports Prefect.
    os.environ.update(settings.environment())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("consilium").setLevel(logging.INFO)
    self_test = threading.Thread(target=_log_findings, args=(settings,), daemon=True)
    self_test.start()
    from flows import hospital_runs
    from tasks.hospital.worker import main as work

    work(settings, hospital_runs)
    return 0


def _log_findings(settings: Settings) -> None:
    for finding in check_locally(settings):
        if finding.state != OK:
            log.warning("%s", _printable(_finding_line(finding)))


def run_check(options: argparse.Namespace) -> int:
    """Prints every finding; 1 if anything is wrong."""
    findings = _findings(options)
    if options.json:
        _print_json([finding.to_json() for finding in findings])
    else:
        _print_lines(_finding_line(finding) for finding in findings)
    is_wrong = any(finding.state == WRONG for finding in findings)
    return 1 if is_wrong else 0


def _findings(options: argparse.Namespace) -> list[Finding]:
    if options.policy is None:
        return check_site(_site(options))
    if "site" in options:
        raise BadRequest(
            "Both a site and a policy are given.",
            remedy="Give --site for a whole installation, or --policy for one file.",
            code="site",
        )
    return check_policy(options.policy)


def _finding_line(finding: Finding) -> str:
    word = finding.state.upper() if finding.state == WRONG else finding.state
    return f"{word:5}  {finding.check:11}  {finding.sentence} {finding.remedy}".rstrip()


def show_keys(_options: argparse.Namespace, settings: Settings) -> int:
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


def show_ledger(options: argparse.Namespace, settings: Settings) -> int:
    """Prints the entries, then whether the chain is whole; 1 if it is broken. As JSON, the last goes to stderr."""
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
    show_verdict(f"The chain is BROKEN at {where}: that line or the one before was altered.")
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
        parts.append(f"fold {entry['fold']} round {entry['round']} to {entry['recipient']}")
    if "n_bytes" in entry:
        parts.append(f"{entry['n_bytes']} bytes")
    sentence = str(entry.get("sentence", ""))
    if sentence:
        parts.append(sentence)
    return "  ".join(parts)


def list_models(_options: argparse.Namespace, settings: Settings) -> int:
    """Prints a line for each model: its id first."""
    vault = Vault(settings.vault)
    for model_id in vault.models():
        model = vault.model(model_id)
        _print_line(f"{model_id}  {model['model_type']}  {len(model['attributes'])} attributes")
    return 0


def export(options: argparse.Namespace, settings: Settings) -> int:
    """Prints a model; the ledger says so first."""
    model = Vault(settings.vault).model(options.model)
    exported = export_model(model, options.format)
    ledger = Ledger(settings.ledger)
    # First: what cannot be written down is not printed.
    ledger.write("exported", model_id=options.model, format=options.format)
    _print_json(exported)
    return 0


def infer(options: argparse.Namespace, settings: Settings) -> int:
    """Prints predictions for this hospital's own rows; the ledger says so first, and says what was refused."""
    sql = sys.stdin.read() if options.sql == "-" else options.sql
    ledger = Ledger(settings.ledger)
    try:
        entries = _predictions(settings, options.model, sql)
    except ConsiliumError as error:
        ledger.write("refused", model_id=options.model, rule=error.code, sentence=error.sentence)
        raise
    ledger.write("inferred", model_id=options.model, n_rows=len(entries))
    if options.csv:
        _print_csv(entries)
    else:
        _print_json(entries)
    return 0


def _predictions(settings: Settings, model_id: int, sql: str) -> list[dict[str, Any]]:
    no_order = -os.getpid()  # orders count from 1, and two commands at once must not share a folder
    party = open_party(settings, no_order, MemoryTransport())
    try:
        return predict(party, model_id, sql)
    finally:
        party.store.destroy()


def show_results(options: argparse.Namespace, settings: Settings) -> int:
    """Lists what this hospital received of joint statistics, or prints one result; its notes go to stderr."""
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
            entry = {"order_id": result.order_id, "path": str(result.path), "notes": result.notes}
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
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        _say(f"{name}: {shown}")


def list_approvals(options: argparse.Namespace, settings: Settings) -> int:
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


def decide(options: argparse.Namespace, settings: Settings) -> int:
    """Approves or refuses an order that waits; says so when it is in ledger and vault."""
    made = Approvals(settings).decide(
        options.order_id,
        approve=options.approve,
        reason=options.reason.strip(),
        person=person(),
    )
    _print_line(f"Order {made.order_id} is {made.decision} by {made.person} at {made.at}.")
    return 0


def show(options: argparse.Namespace, settings: Settings) -> int:
    """Serves the hospital's own page until Ctrl-C; the link that opens it is printed once."""
    from agents.page.server import serve

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def tell(link: str) -> None:
        _say("Open this link in a browser on this machine. It works once; Ctrl-C ends the page.")
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
        "say what is wrong with this installation, or with a policy, and how to fix it",
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
    "show": _Entry(
        _with_settings(show),
        "a page of all this on this machine, for the hospital's own people",
    ),
    "infer": _Entry(
        _with_settings(infer),
        "apply a model to rows of this hospital, without the coordinator",
    ),
}


# Printing. Ledger and errors hold text of other hospitals, which must not reach a terminal as control characters.


def _print_csv(entries: list[dict[str, Any]]) -> None:
    classes = list(entries[0].get("probabilities", {}))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["id", "label", *[f"probability_{name}" for name in classes]])
    for entry in entries:
        probabilities = [entry["probabilities"][name] for name in classes]
        writer.writerow([entry["id"], entry["label"], *probabilities])


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
