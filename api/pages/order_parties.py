"""The hospitals of an order's form: who takes part and with which rows, what each one
allows, and what it would refuse.

What would be refused follows from the rules that each agent has told
(`protocol.foreseen`); the hospital itself decides.
"""

from __future__ import annotations

from typing import Any

from nicegui import ui

from api.pages.form import Fields, box
from api.pages.frame import Safe, chip, html, note, shown
from api.pages.hospitals import cohort_lines, order_lines, told_policy
from protocol.errors import Refused
from protocol.foreseen import foreseen_refusals
from protocol.training_request import TrainingRequest

HOST_SQL = "SELECT * FROM data.breast_homo_host;"
"""In the request document, and on one machine, the table of all hospitals but 4."""


class PartyFields:
    """One hospital of the form: whether it takes part, and its SQL."""

    def __init__(
        self,
        fields: Fields,
        hospital: dict[str, Any],
        names: dict[int, str],
    ) -> None:
        self.fields = fields
        self.user: int = hospital["user_id"]
        self.name: str = hospital["name"]
        self.hospital = hospital
        self.names = names
        self.policy = told_policy(hospital["policy"])

    def build(self) -> None:
        t = self.fields.visit.t
        draft = self.fields.draft
        with box("party"):
            with box("row"):
                title = f"{self.name} ({self.user})"
                self.box = ui.checkbox(title, value=self.is_in)
                self.box.on_value_change(lambda event: self.set(event.value))
                html(self._presence())
            with box("inside") as self.inside:
                self.sql = self.fields.text(
                    ("data_info", str(self.user)),
                    t("SELECT for {name}", name=self.name),
                    is_wide=True,
                )
                self.refused = html("")
                self.refused.props('aria-live="polite"')
                html(self._allowed())
            self.follow()
            draft.watch(self.follow)

    def _presence(self) -> Safe:
        state_name = "away"
        if self.hospital["online"]:
            state_name = "online"
        return chip(self.fields.visit, state_name)

    def _allowed(self) -> Safe:
        """What it has told of its policy, but for who may order: that is seen where it
        refuses.
        """
        visit = self.fields.visit
        rules = visit.t("nothing told")
        cohorts = []
        if self.policy is not None:
            # Its first two lines say who may order and who gets results.
            _, _, *rule_lines = order_lines(
                visit,
                self.policy.orders,
                self.names,
            )
            rules = " · ".join(rule_lines)
            cohorts = cohort_lines(self.policy.cohorts)
        caption = shown(visit.t("Allows"))
        items = shown(rules)
        allowed = f'<p class="soft small">{caption}: {items}</p>'
        if cohorts:
            caption = shown(visit.t("In place of a SELECT it takes:"))
            items = shown(", ".join(cohorts))
            allowed += f'<p class="soft small">{caption} {items}</p>'
        return Safe(allowed)

    def _refusals(self, order: TrainingRequest | None) -> list[Refused]:
        if order is None or self.policy is None:
            return []
        if self.user not in order.hospitals:
            return []
        return foreseen_refusals(
            self.policy,
            order,
            own_user_id=self.user,
        )

    def foresee(self, order: TrainingRequest | None) -> bool:
        """Shows what this hospital would refuse of an order; whether there is anything."""
        visit = self.fields.visit
        refusals = self._refusals(order)
        if not refusals:
            self.refused.set_content("")
            return False
        items = ""
        for refusal in refusals:
            sentence = shown(visit.error(refusal))
            items += f"<li>{sentence}</li>"
        caption = visit.t("{name} would refuse this:", name=self.name)
        heading = shown(caption)
        refused = Safe(f"{heading}<ul>{items}</ul>")
        self.refused.set_content(note(refused, "bad"))
        return True

    @property
    def is_in(self) -> bool:
        return self.is_initiator or self.is_other_party

    @property
    def is_initiator(self) -> bool:
        initiator = self.fields.draft.body.get("user_id")
        return bool(self.user == initiator)

    @property
    def is_other_party(self) -> bool:
        return self.user in self.fields.draft.members("party_id")

    def follow(self) -> None:
        """Shows the draft. The initiator takes part in any case."""
        self.box.value = self.is_in
        self.inside.set_visibility(self.is_in)
        self.box.set_enabled(not self.is_initiator)

    def set(self, is_in: bool) -> None:
        draft = self.fields.draft
        # What the draft has just shown is no change of the visitor's.
        if draft.is_telling:
            return
        party_ids = []
        for party_id in draft.members("party_id"):
            if party_id != self.user:
                party_ids.append(party_id)
        if is_in:
            party_ids.append(self.user)
        # People may have written something else among them, which has no order.
        if all(isinstance(party_id, int) for party_id in party_ids):
            party_ids.sort()
        sql = draft.parts("data_info")
        user_key = str(self.user)
        if is_in:
            sql.setdefault(user_key, HOST_SQL)
        else:
            sql.pop(user_key, None)
        draft.body["party_id"] = party_ids
        draft.body["data_info"] = sql
        draft.tell()
