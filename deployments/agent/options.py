"""What each command of the agent may be given."""

from __future__ import annotations

import argparse
from pathlib import Path

from agents.training.report_text import (
    EXPORT_FORMATS,
    REPORT_FORMATS,
)
from protocol.errors import BadRequest


def add_site(parser: argparse.ArgumentParser) -> None:
    """Before or after the command: a default would let the one that is not given hide
    the other.
    """
    parser.add_argument(
        "--site",
        type=Path,
        default=argparse.SUPPRESS,
        help="the site's folder, with settings.toml",
    )


def add_options(command: argparse.ArgumentParser, name: str) -> None:
    """What the command of this name may be given."""
    if name in ("check", "ledger", "results", "approvals", "cohorts"):
        command.add_argument(
            "--json", action="store_true", help="JSON instead of lines"
        )
    match name:
        case "init":
            _add_init(command)
        case "upgrade":
            _add_upgrade(command)
        case "check":
            _add_check(command)
        case "ledger":
            command.add_argument("--order", type=int, help="this order or model only")
        case "export":
            _add_model(command)
            command.add_argument("--format", choices=EXPORT_FORMATS, default="json")
        case "report":
            _add_report(command)
        case "infer":
            _add_infer(command)
        case "show":
            help_text = "of 127.0.0.1; without it any that is free"
            command.add_argument("--port", type=int, default=0, help=help_text)
        case "approve":
            _add_decision(command, "for the record")
        case "refuse":
            # A refusal's reason leaves the hospital; an approval's stays in its ledger.
            _add_decision(
                command, "one line; the order's parties and the coordinator read it"
            )
        case "cohorts":
            _add_cohorts(command)
        case "readers":
            _add_readers(command)
        case "results":
            _add_results(command)


def _add_init(command: argparse.ArgumentParser) -> None:
    help_text = "the NAME.enrol.toml of the operator"
    command.add_argument(
        "--enrol", type=Path, required=True, metavar="FILE", help=help_text
    )
    help_text = "the folder for vault, ledger, data and results (/var/lib/consilium)"
    command.add_argument(
        "--state", type=Path, default=Path("/var/lib/consilium"), help=help_text
    )
    help_text = "write a unit of systemd for this site there"
    command.add_argument("--unit", type=Path, metavar="FILE", help=help_text)
    help_text = "write a quadlet of Podman for this site there"
    command.add_argument("--quadlet", type=Path, metavar="FILE", help=help_text)


def _add_upgrade(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group(required=True)
    help_text = (
        "the bundle of the version that is to run; needs --site, which is checked"
    )
    which.add_argument("--bundle", type=Path, metavar="FILE", help=help_text)
    help_text = "let the version run that ran before"
    which.add_argument("--back", action="store_true", help=help_text)
    help_text = "the file of allowed signers (that of the installation)"
    command.add_argument("--signers", type=Path, metavar="FILE", help=help_text)
    help_text = "with --bundle: it may be older than what runs"
    command.add_argument("--older", action="store_true", help=help_text)


def _add_cohorts(command: argparse.ArgumentParser) -> None:
    help_text = (
        "what has left, and the cohorts of the policy; take out some of what has left; whether rows would pass the"
        " gate; the policy's cohorts alone; make their rows; print a definition's digest"
    )
    actions = ["list", "forget", "check", "named", "refresh", "digest"]
    command.add_argument(
        "action", choices=actions, nargs="?", default="list", help=help_text
    )
    help_text = (
        "with refresh one cohort, else all of them; with digest the definition's file"
    )
    command.add_argument("name", nargs="?", metavar="NAME", help=help_text)
    help_text = "a hospital's number or coordinator; with check once for each"
    command.add_argument("--receiver", action="append", default=[], help=help_text)
    help_text = "a table or file as list names it, with forget"
    command.add_argument("--population", help=help_text)
    help_text = "with forget: do not ask"
    command.add_argument("--yes", action="store_true", help=help_text)
    help_text = "with check: one SELECT of the unique id and the columns of an order; - reads it from stdin"
    command.add_argument("--sql", help=help_text)


def _add_check(command: argparse.ArgumentParser) -> None:
    help_text = "check this policy file alone, without a site"
    command.add_argument("--policy", type=Path, metavar="FILE", help=help_text)
    help_text = "say what the gate would answer to this order, the JSON body of a request; nothing is reserved"
    command.add_argument("--order", type=Path, metavar="FILE", help=help_text)
    help_text = "with --order: the hospital whose user would send it, where the body does not say"
    command.add_argument("--user", type=int, help=help_text)


def _add_report(command: argparse.ArgumentParser) -> None:
    of_what = command.add_mutually_exclusive_group(required=True)
    of_what.add_argument("--model", type=int, help="the number of its order")
    help_text = "the number of an order of POST /model/evaluate"
    of_what.add_argument("--evaluation", type=int, help=help_text)
    command.add_argument("--format", choices=REPORT_FORMATS, default="json")


def _add_infer(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    help_text = "one SELECT; - reads it from stdin"
    command.add_argument("--sql", required=True, help=help_text)
    help_text = "CSV instead of a JSON list"
    command.add_argument("--csv", action="store_true", help=help_text)
    help_text = "write them there: schema.table of predictions_url, or a path that ends in .csv or .json"
    command.add_argument("--into", metavar="TARGET", help=help_text)
    help_text = 'with --into: again and again, at these times, as "0 6 * * *"'
    command.add_argument("--cron", metavar="TIMES", help=help_text)
    help_text = "whose time --cron is in, as Asia/Shanghai"
    command.add_argument("--timezone", default="UTC", help=help_text)


def _add_readers(command: argparse.ArgumentParser) -> None:
    help_text = "who is listed; list a person; take one off"
    actions = ["list", "add", "remove"]
    command.add_argument("action", choices=actions, help=help_text)
    command.add_argument("name", nargs="?", metavar="NAME")
    help_text = "that the person's client shows, compared by telephone"
    command.add_argument(
        "fingerprint", nargs="?", metavar="FINGERPRINT", help=help_text
    )


def _add_results(command: argparse.ArgumentParser) -> None:
    help_text = "all of them, or the result of one order"
    command.add_argument("action", choices=["list", "show"], help=help_text)
    help_text = "which order's, with show"
    command.add_argument(
        "order_id", type=int, nargs="?", metavar="ORDER_ID", help=help_text
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=int, required=True, help="the model's id")


def _add_decision(command: argparse.ArgumentParser, reason: str) -> None:
    command.add_argument(
        "order_id", type=int, metavar="ORDER_ID", help="as `approvals` lists it"
    )
    command.add_argument("--reason", default="", help=reason)


def site_of(options: argparse.Namespace) -> Path:
    if "site" not in options:
        raise BadRequest(
            "No site is given.",
            remedy="Add --site with the folder of settings.toml.",
            code="site",
        )
    return Path(options.site)
