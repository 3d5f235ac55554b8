"""The agent's command line: `./run agent COMMAND --site FOLDER`; without a command it
starts the agent.

What a command answers goes to stdout, everything else to stderr. Exit codes: 0; 1 when
a check or the ledger's chain is wrong, when rows would be refused, or when a question
is not answered with yes; 2 for an error, in one line; 78 where the agent cannot start
before a person has put something right.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agents.check.findings import WRONG
from agents.site.settings import SiteSettings, load_settings
from deployments.agent import enrolling, upgrading
from deployments.agent.applying import infer
from deployments.agent.checking import finding_lines, run_check
from deployments.agent.kept import (
    export,
    list_models,
    print_report,
    show_keys,
    show_ledger,
    show_results,
)
from deployments.agent.options import add_options, add_site, site_of
from deployments.agent.people import decide, list_approvals, run_readers
from deployments.agent.printing import print_line, print_lines, say
from deployments.agent.remembered import run_cohorts
from deployments.agent.starting import start
from protocol.errors import BadRequest, Conflict, ConsiliumError
from protocol.machine.installed import command_of
from tasks.exit_codes import ExitCode

# The commands are in the modules beside this one, by subject.
# What reads rows is imported by the command that needs it: an agent at rest has none of
# it in its memory (decision 122).

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
        say(str(error))
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
        # Kind and place, never the error's own text: it may hold a value of a row.
        error_kind = type(cause).__name__
        place = traceback.extract_tb(cause.__traceback__)[-1]
        say(
            f"An unplanned error ({error_kind}) in {Path(place.filename).name}, line {place.lineno}."
        )
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_of("agent"), description=__doc__, allow_abbrev=False
    )
    add_site(parser)
    parser.set_defaults(run=_with_settings(start), failed=ExitCode.NOT_READY)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command_name, entry in _COMMANDS.items():
        command = commands.add_parser(
            command_name,
            help=entry.words,
            description=entry.words,
            allow_abbrev=False,
        )
        add_site(command)
        add_options(command, command_name)
        command.set_defaults(
            run=entry.run,
            failed=ExitCode.NOT_READY if command_name == "start" else 2,
            approve=command_name == "approve",
        )
    return parser


def _with_settings(
    command: Callable[[argparse.Namespace, SiteSettings], int],
) -> Command:
    def run(options: argparse.Namespace) -> int:
        settings = load_settings(site_of(options))
        return command(options, settings)

    return run


def init(options: argparse.Namespace) -> int:
    """Makes a site from an enrolment file and checks it; 1 if anything is wrong then."""
    from agents.check.site import check_site

    file = enrolling.read_enrolment(options.enrol, now=enrolling.now())
    # Before the site is made: over one that is there `init` does not run again.
    for path in (options.unit, options.quadlet):
        if path is not None and path.exists():
            raise Conflict(
                f"{path} exists already.",
                remedy="Give another name, or remove it.",
                code="site_exists",
            )
    if options.quadlet is not None:
        enrolling.check_quadlet(site_of(options), options.state)
    settings = enrolling.make_site(file, site_of(options), options.state)
    if options.unit is not None:
        options.unit.write_text(enrolling.unit_text(settings))
    if options.quadlet is not None:
        options.quadlet.write_text(enrolling.quadlet_text(settings))
    show_keys(options, settings)
    print_line("")
    findings = check_site(settings.site)
    print_lines(finding_lines(findings))
    say(
        f"Made {settings.site}. Remove {file.path}; write data_url into settings.toml and your rules into policy.toml,"
        " then check again."
    )
    owner = enrolling.owner_to_give(settings) if options.unit is not None else None
    if owner is not None:
        say(owner)
    return 1 if any(finding.state == WRONG for finding in findings) else 0


def upgrade(options: argparse.Namespace) -> int:
    """Lets another version of the agent run from its next start on, and says each step."""
    prefix = Path(sys.prefix)
    # The version before has run here: no site is needed to check it.
    if options.back:
        upgrading.go_back(upgrading.home_of(prefix), print_line)
        return 0
    settings = load_settings(site_of(options))
    change = upgrading.change_of(
        prefix,
        options.bundle,
        site=settings.site,
        state=settings.state,
        signers=options.signers,
        is_older_meant=options.older,
    )
    upgrading.upgrade(change, print_line)
    return 0


def show(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Serves the hospital's own page until Ctrl-C; the link that opens it is printed
    once.
    """
    from agents.page.server import serve

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def tell(link: str) -> None:
        say(
            "Open this link in a browser on this machine. It works once; Ctrl-C ends the page."
        )
        # At once: into a pipe it would stay in the buffer while the page is served.
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
    "init": _Entry(
        init,
        "make this hospital's site from the operator's enrolment file, and check it",
    ),
    "upgrade": _Entry(
        upgrade,
        "let another version of the agent run, from its bundle or the one that ran before",
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
    "readers": _Entry(
        _with_settings(run_readers),
        "to whose own keys answers may be sealed: list, add, remove",
    ),
    "cohorts": _Entry(
        _with_settings(run_cohorts),
        "whose rows are in what has left, by receiver; forget some, or check rows before an order is sent; the cohorts"
        " that orders may name",
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
