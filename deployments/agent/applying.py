"""A model applied to rows of this hospital, once or again and again, without the
coordinator.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from deployments.agent.printing import (
    print_csv,
    print_json,
    say,
)
from protocol.errors import BadRequest, ConsiliumError

if TYPE_CHECKING:
    from agents.order.party import Party
    from agents.rows.predictions import Target


def infer(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Predictions for this hospital's own rows: printed, or written where `--into` says,
    once or at the times of `--cron`.
    """
    from agents.rows.predictions import target_of

    sql = sys.stdin.read() if options.sql == "-" else options.sql
    # Before rows are read: with --cron a wrong target would else be found at night.
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
    for due in due_times(options.cron, options.timezone):
        say(f"The next predictions are made at {due.isoformat()}.")
        _wait_until(due)
        try:
            _infer_once(options, settings, sql, target)
        except ConsiliumError as error:
            # What is wrong tonight may be right tomorrow.
            say(str(error))
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
    from agents.rows.predictions import write_predictions

    ledger = Ledger(settings.ledger)
    try:
        predictions = _predictions(settings, options.model, sql)
    except ConsiliumError as error:
        ledger.write(
            "refused", model_id=options.model, rule=error.code, sentence=error.sentence
        )
        raise
    into = {} if target is None else {"into": options.into}
    ledger.write("inferred", model_id=options.model, n_rows=len(predictions), **into)
    if target is not None:
        write_predictions(predictions, target, model_id=options.model)
        say(f"Wrote {len(predictions)} predictions into {options.into}.")
    elif options.csv:
        print_csv(predictions)
    else:
        print_json(predictions)


def due_times(cron: str, zone: str) -> Iterator[datetime]:
    """From now on. BadRequest for times or a zone that are none."""
    from cronsim import CronSim, CronSimError

    try:
        # With a zone CronSim follows summer time. ZoneInfo raises ValueError for a name
        # that leads out of its folder, such as ../x.
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
    from agents.training.inference import predict

    with _party_without_order(settings) as party:
        return predict(party, model_id, sql)


@contextmanager
def _party_without_order(settings: SiteSettings) -> Iterator[Party]:
    """This hospital, where it acts for itself alone."""
    from agents.order.party import open_party
    from protocol.memory_transport import MemoryTransport

    # Orders count from 1, and two commands at once must not share a folder.
    no_order = -os.getpid()
    party = open_party(settings, no_order, MemoryTransport())
    try:
        yield party
    # Also after a refusal: nothing that was read stays behind under this number.
    finally:
        party.store.destroy()
