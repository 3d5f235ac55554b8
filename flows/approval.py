"""The order of events at a hospital where a person decides, before the order takes places there."""

from __future__ import annotations

from tasks import hospital
from tasks.hospital import Party


def approve_locally(party: Party) -> None:
    """Verify, ask a person where one is needed, and tell the coordinator that nobody has to decide any longer.

    No row is read. A refusal ends the order for all.
    """
    hospital.verify_order(party)
    hospital.await_approval(party)
    hospital.tell_decided(party)
