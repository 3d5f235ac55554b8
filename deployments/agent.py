"""The agent's command line: `./run agent COMMAND --site FOLDER`; without a command it starts the agent.

What a command answers goes to stdout, everything else to stderr. Exit codes: 0; 1 when a check or the ledger's chain
is wrong; 2 for an error, told in one line; 78 where the agent cannot start before a person has put something right.
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
from typing import Any

from agents.check import OK, WRONG, Finding, check_locally, check_site
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


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; never raises, never prints a traceback."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConsiliumError as error:
        _say(str(error))
        return options.failed if isinstance(error, BadRequest | Conflict) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as caught:  # noqa: BLE001 (its text may hold a row's values, so only its kind and place are told)
        cause: BaseException = caught
        while isinstance(cause, BaseExceptionGroup):  # what a task group makes of its first task's error
            cause = cause.exceptions[0]
        place = traceback.extract_tb(cause.__traceback__)[-1]
        _say(
            f"An unplanned error ({type(cause).__name__}) in {Path(place.filename).name}, line {place.lineno}."
        )
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run agent", description=__doc__, allow_abbrev=False)
    _add_site(parser)
    parser.set_defaults(run=_with_settings(start), failed=ExitCode.NOT_READY)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (run, words) in _COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        _add_site(command)
        command.set_defaults(run=run, failed=ExitCode.NOT_READY if name == "start" else 2)
        command.set_defaults(approve=name == "approve")
        _add_options(command, name)
    return parser


def _add_site(parser: argparse.ArgumentParser) -> None:
    """Before or after the command: a default would let the one that is not given hide the other."""
    parser.add_argument(
        "--site", type=Path, default=argparse.SUPPRESS, help="the site's folder, with settings.toml"
    )


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("check", "ledger", "results", "approvals"):
        command.add_argument("--json", action="store_true", help="JSON instead of lines")
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
        reason = (
            "one line; the order's parties and the coordinator read it"
            if name == "refuse"
            else "for the record"
        )
        command.add_argument("--reason", default="", help=reason)
    if name == "results":
        command.add_argument(
            "action", choices=["list", "show"], help="all of them, or the result of one order"
        )
        command.add_argument(
            "order_id", type=int, nargs="?", metavar="ORDER_ID", help="which order's, with show"
        )


def _with_settings(
    command: Callable[[argparse.Namespace, Settings], int],
) -> Callable[[argparse.Namespace], int]:
    return lambda options: command(options, load_settings(_site(options)))


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
    os.environ.update(settings.environment())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("consilium").setLevel(logging.INFO)
    threading.Thread(target=_log_findings, args=(settings,), daemon=True).start()
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
    findings = check_site(_site(options))
    if options.json:
        _print_json([finding.to_json() for finding in findings])
    else:
        _print_lines(_finding_line(finding) for finding in findings)
    return int(any(finding.state == WRONG for finding in findings))


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
    entries = [entry for entry in ledger.entries() if _is_about(entry, options.order)]
    _print_lines([json.dumps(entry) for entry in entries] if options.json else map(_entry_line, entries))
    broken = ledger.first_broken_line()
    verdict = f"The chain is whole; its head is {ledger.head()}."
    if broken is not None:
        verdict = (
            f"The chain is BROKEN at line {broken} of {ledger.path}: that line or the one before was altered."
        )
    (_say if options.json else _print_line)(verdict)
    return int(broken is not None)


def _is_about(entry: dict[str, Any], number: int | None) -> bool:
    return number is None or number in (entry.get("order_id"), entry.get("model_id"))


def _entry_line(entry: dict[str, Any]) -> str:
    what = str(entry.get("kind") or entry.get("rule") or entry.get("format") or "")
    place = (
        f"fold {entry['fold']} round {entry['round']} to {entry['recipient']}" if "recipient" in entry else ""
    )
    number = entry.get("order_id", entry.get("model_id", ""))
    size = f"{entry['n_bytes']} bytes" if "n_bytes" in entry else ""
    if entry["event"] == "decided":
        place = f"{entry['decision']} by {entry['person']}"
    columns = [f"{entry.get('at', ''):29}", f"{entry['event']:10}", f"{number!s:>6}", f"{what:16}"]
    return "  ".join([*columns, *filter(None, (place, size, str(entry.get("sentence", ""))))])


def list_models(_options: argparse.Namespace, settings: Settings) -> int:
    """Prints a line for each model: its id first."""
    vault = Vault(settings.vault)
    for model_id in vault.models():
        model = vault.model(model_id)
        _print_line(f"{model_id}  {model['model_type']}  {len(model['attributes'])} attributes")
    return 0


def export(options: argparse.Namespace, settings: Settings) -> int:
    """Prints a model; the ledger says so first."""
    exported = export_model(Vault(settings.vault).model(options.model), options.format)
    Ledger(settings.ledger).write("exported", model_id=options.model, format=options.format)
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
    if (options.action == "show") != (options.order_id is not None):
        raise BadRequest(
            "An order's number belongs to show, and to show only.",
            remedy="Write `results list`, or `results show ORDER_ID`.",
            code="order_id",
        )
    if options.action == "list":
        _list_results(list_results(settings.results_folder), as_json=options.json)
    else:
        _show_result(read_result(settings.results_folder, options.order_id), as_json=options.json)
    return 0


def _list_results(found: list[Result], *, as_json: bool) -> None:
    if as_json:
        _print_json(
            [
                {"order_id": result.order_id, "path": str(result.path), "notes": result.notes}
                for result in found
            ]
        )
    else:
        _print_lines(f"{r.order_id}  {r.notes.get('method', ''):22}  {r.path}" for r in found)


def _show_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        said = {"order_id": result.order_id, "path": str(result.path), "type": result.type}
        _print_json({**said, "rows": result.rows(), "notes": result.notes})
        return
    _print_lines(result.path.read_text("utf-8").rstrip("\n").split("\n"))
    for name, value in result.notes.items():
        _say(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def list_approvals(options: argparse.Namespace, settings: Settings) -> int:
    """Prints every order that waits for a person here, with all that it says."""
    waiting = Approvals(settings).waiting()
    if options.json:
        _print_json([asdict(question) for question in waiting])
    else:
        _print_lines(line for question in waiting for line in (*_question_lines(question), ""))
        _say(
            f"{len(waiting)} waiting."
            + (" Decide by `approve ORDER_ID` or `refuse ORDER_ID`." if waiting else "")
        )
    return 0


def _question_lines(question: ApprovalQuestion) -> Iterator[str]:
    yield f"order {question.order_id}, since {question.asked_at}"
    for name, text in question.lines():
        yield f"  {name:24}  {text}"


def decide(options: argparse.Namespace, settings: Settings) -> int:
    """Approves or refuses an order that waits; says so when it is in ledger and vault."""
    made = Approvals(settings).decide(
        options.order_id, approve=options.approve, reason=options.reason.strip(), person=person()
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


_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "start": (_with_settings(start), "run the agent until SIGINT or SIGTERM (the default)"),
    "check": (run_check, "say what is wrong with this installation and how to fix it"),
    "ledger": (
        _with_settings(show_ledger),
        "what was asked, refused and sent, and whether the record is whole",
    ),
    "keys": (_with_settings(show_keys), "this hospital's fingerprint, and what its partners write down"),
    "models": (_with_settings(list_models), "the models that this hospital holds"),
    "export": (_with_settings(export), "print a model as JSON"),
    "results": (_with_settings(show_results), "what this hospital received of joint statistics"),
    "approvals": (
        _with_settings(list_approvals),
        "the orders that wait for a person here, and all that they say",
    ),
    "approve": (_with_settings(decide), "let an order that waits go on"),
    "refuse": (_with_settings(decide), "end an order that waits, for all its hospitals"),
    "show": (_with_settings(show), "a page of all this on this machine, for the hospital's own people"),
    "infer": (_with_settings(infer), "apply a model to rows of this hospital, without the coordinator"),
}


# Printing. Ledger and errors hold text of other hospitals, which must not reach a terminal as control characters.


def _print_csv(entries: list[dict[str, Any]]) -> None:
    names = list(entries[0].get("probabilities", {}))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["id", "label", *(f"probability_{name}" for name in names)])
    for entry in entries:
        writer.writerow([entry["id"], entry["label"], *(entry["probabilities"][name] for name in names)])


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=None if isinstance(value, list) else 2, allow_nan=False))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _print_line(line)


def _print_line(line: str) -> None:
    print(_printable(line))


def _say(line: str) -> None:
    print(_printable(line), file=sys.stderr)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
