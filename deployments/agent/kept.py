"""What this hospital has kept: keys, ledger, models, reports and results."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training.report_text import (
    report_of,
    written,
    written_evaluation,
)
from deployments.agent.printing import (
    print_json,
    print_line,
    print_lines,
    say,
)
from protocol.errors import BadRequest

if TYPE_CHECKING:
    from agents.statistics.results import Result


def show_keys(_options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints who this hospital is; the first call makes its keys."""
    fingerprint = Vault(settings.vault).identity().public.fingerprint
    quoted_name = json.dumps(settings.name, ensure_ascii=False)
    print_lines(
        [
            f"user_id      {settings.user_id}",
            f"name         {settings.name}",
            f"fingerprint  {fingerprint}",
            "",
            "# For each partner's settings.toml, once it has compared the fingerprint with you by telephone:",
            "[[partners]]",
            f"user_id = {settings.user_id}",
            f"name = {quoted_name}",
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
    show_verdict = say if options.json else print_line
    for ledger_entry in ledger.entries():
        if _is_about(ledger_entry, options.order):
            print_line(show_entry(ledger_entry))

    broken = ledger.first_broken_line()
    if broken is None:
        # The head is shown to be kept elsewhere: whoever may write the file can write a
        # whole new chain, which has another one.
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
    subject = str(entry.get("kind") or entry.get("rule") or entry.get("format") or "")
    columns = [f"{moment:29}", f"{event:10}", f"{number!s:>6}", f"{subject:16}"]

    if event == "decided":
        columns.append(f"{entry['decision']} by {entry['person']}")
    elif "recipient" in entry:
        columns.append(
            f"fold {entry['fold']} round {entry['round']} to {entry['recipient']}"
        )
    if "n_bytes" in entry:
        columns.append(f"{entry['n_bytes']} bytes")
    if event == "opens":
        opened = "; ".join(str(total) for total in entry.get("totals", []))
        receivers = ", ".join(str(receiver) for receiver in entry.get("receivers", []))
        columns.append(f"{opened}, to {receivers}")
    sentence = str(entry.get("sentence", ""))
    if sentence:
        columns.append(sentence)
    return "  ".join(columns)


def list_models(_options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints a line for each model: its id first."""
    vault = Vault(settings.vault)
    for model_id in vault.models():
        model = vault.model(model_id)
        print_line(
            f"{model_id}  {model['model_type']}  {len(model['attributes'])} attributes"
            f"{_ending_of(model)}"
        )
        for sentence in model.get("warnings", []):
            print_line(f"    Warning: {sentence}")
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
    from agents.training.export import export_model

    # Made before the ledger is written: what cannot be made was not exported.
    model = Vault(settings.vault).model(options.model)
    exported = export_model(model, options.format)
    ledger = Ledger(settings.ledger)
    # First: what cannot be written down is not printed.
    ledger.write("exported", model_id=options.model, format=options.format)
    print_json(exported)
    return 0


def print_report(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints a model's report, or an evaluation's; the ledger says so first. A report's
    notes go to stderr: csv and LaTeX have no place for them.
    """
    vault = Vault(settings.vault)
    ledger = Ledger(settings.ledger)
    if options.evaluation is not None:
        return _print_evaluation(options, vault, ledger)
    report = report_of(vault.model(options.model))
    # First: what cannot be written down is not printed.
    ledger.write("exported", model_id=options.model, format=f"report {options.format}")
    # Not by print_line: it would show the line ends within as \u000a.
    print(written(report, options.format), end="")
    if options.format != "json":
        for note in report.get("notes", []):
            say(note)
    return 0


def _print_evaluation(options: argparse.Namespace, vault: Vault, ledger: Ledger) -> int:
    evaluation = vault.evaluation(options.evaluation)
    ledger.write(
        "exported",
        model_id=evaluation["model_id"],
        evaluation_id=options.evaluation,
        format=f"report {options.format}",
    )
    print(written_evaluation(evaluation, options.format), end="")
    return 0


def show_results(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Lists what this hospital received of joint statistics, or prints one result; its
    notes go to stderr.
    """
    from agents.statistics.results import list_results, read_result

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


def _list_results(results: list[Result], *, as_json: bool) -> None:
    if as_json:
        result_entries = []
        for result in results:
            result_entry = {
                "order_id": result.order_id,
                "path": str(result.path),
                "notes": result.notes,
            }
            result_entries.append(result_entry)
        print_json(result_entries)
        return
    for result in results:
        method = result.notes.get("method", "")
        print_line(f"{result.order_id}  {method:22}  {result.path}")


def _show_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        result_entry = {
            "order_id": result.order_id,
            "path": str(result.path),
            "type": result.type,
            "rows": result.rows(),
            "notes": result.notes,
        }
        print_json(result_entry)
        return
    result_text = result.path.read_text("utf-8")
    # split, not splitlines: that ends a line at other characters, too, which the name
    # of a group may have.
    print_lines(result_text.rstrip("\n").split("\n"))
    for name, value in result.notes.items():
        printed = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
        say(f"{name}: {printed}")
