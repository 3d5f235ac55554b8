"""What one hospital allows, by its policy: the checks of an order before a row is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from protocol.errors import Refused, Rule
from protocol.policy.keys import COHORT
from protocol.policy.open_rows import NamedCohort, OpenRows, TableRules
from protocol.policy.policy_file import PolicyFile
from protocol.policy.told import PolicyTold
from protocol.readers import reader_fingerprint
from protocol.training_request import Scoring
from protocol.versions import Window

SCORING: tuple[str, ...] = get_args(Scoring)
"""From the least to the most that the coordinator may learn of single gradients."""


class Policy(PolicyFile):
    """What one hospital allows.

    Its methods are pure; each check returns silently or raises `Refused` with the rule
    as code.
    """

    @property
    def pools_cells(self) -> bool:
        """Whether its thresholds may be on the sum of all hospitals."""
        return self.statistics is not None and self.statistics.cells == "pooled"

    def shared_column(self, column: str) -> str | None:
        """By which name it is remembered with the columns that tell the same; None
        where it tells what no other does.
        """
        groups = () if self.statistics is None else self.statistics.same_values
        for group in groups:
            lower_names = [name.lower() for name in group]
            if column.lower() in lower_names:
                return " = ".join(sorted(lower_names))
        return None

    def speaks(self, release: Window) -> Window:
        """The protocol numbers that this hospital takes of those that its agent's
        release speaks: here this policy makes it stricter.
        """
        return release.not_below(self.orders.oldest_protocol)

    def told(self) -> PolicyTold:
        """What the coordinator may show to others: rules that a refusal would name
        (decision 50).
        """
        sections = self.model_dump(include={"orders", "inference", "statistics"})
        cohort = self.cohort
        sections["orders"] |= {
            "min_rows": cohort.min_rows,
            "regroup": cohort.regroup,
            "max_rounds": cohort.max_rounds,
            "budget_days": cohort.budget_days,
        }
        sections["cohorts"] = [
            {"name": cohort_name, "description": cohort.description}
            for cohort_name, cohort in self.cohorts.items()
            if cohort.told
        ]
        return PolicyTold.model_validate(sections)

    def order_rules(
        self,
        *,
        initiator: int,
        own_user_id: int,
        method: str,
        model_type: str,
        n_hospitals: int,
        receivers: Iterable[int] = (),
        scoring: str = "none",
        regroups: bool = False,
        derives: bool = False,
        opens_risk_sets: bool = False,
        tells_own_sums: bool = False,
    ) -> list[Rule]:
        """What decides whether this hospital takes part in an order, before a row is
        read; each raises Refused whose code is its name.

        `n_hospitals` counts all hospitals of the order, this one and the initiator's
        included; `receivers` are the user ids that would receive aggregate and model
        (this hospital's own is always fine); `regroups` is as in
        `TrainingRequest.regroups`, `derives` whether columns are computed,
        `opens_risk_sets` whether a Cox order has a joint baseline, `tells_own_sums`
        whether hospitals' own sums are told.
        """
        is_foreign = initiator != own_user_id
        return [
            *self.initiator_rules(initiator, own_user_id=own_user_id),
            Rule("methods", lambda: self.check_method(method)),
            Rule("model_types", lambda: self.check_model_type(model_type)),
            Rule("min_hospitals", lambda: self.check_hospitals(n_hospitals)),
            Rule(
                "receivers",
                lambda: self.check_receivers(receivers, own_user_id=own_user_id),
            ),
            Rule("scoring", lambda: self.check_scoring(scoring)),
            Rule("regroup", lambda: self.check_regroup(regroups)),
            Rule("derive", lambda: self.check_derive(derives and is_foreign)),
            Rule("risk_sets", lambda: self.check_risk_sets(opens_risk_sets)),
            Rule("hospital_sums", lambda: self.check_own_sums(tells_own_sums)),
        ]

    def check_risk_sets(self, opens_risk_sets: bool) -> None:
        """Refuse a Cox order with a joint baseline unless `cohort.risk_sets` (code
        risk_sets). The hospital's own orders too: the others open its people's sums.
        """
        if opens_risk_sets and not self.cohort.risk_sets:
            raise Refused(
                "A joint baseline opens sums over who is at risk at each edge: by their differences the order's"
                " hospitals can read covariates of people who leave in between, and this hospital does not allow that.",
                remedy="Order baseline hospital, which opens nothing of the kind, or ask the hospital to set"
                " risk_sets = true under [cohort] in its policy.toml.",
                code="risk_sets",
            )

    def check_own_sums(self, tells_own_sums: bool) -> None:
        """Refuse an order that tells what this hospital's rows alone give (code
        hospital_sums), its own users' too: others read it.
        """
        if tells_own_sums and not self.orders.hospital_sums:
            raise Refused(
                "This site_effect tells the order's hospitals this hospital's own sums of each column and of the"
                " label: from the sums over all they would follow anyway.",
                remedy="Leave site_effect out, order pooling meta, or ask the hospital to set hospital_sums = true"
                " under [orders] in its policy.toml.",
                code="hospital_sums",
            )

    def check_derive(self, derives: bool) -> None:
        """Refuse another hospital's order that computes columns unless `orders.derive`
        (code derive).
        """
        if derives and not self.orders.derive:
            raise Refused(
                "This hospital lets no other hospital's order compute columns from its own (derive).",
                remedy="Use columns of its tables or views, or ask the hospital to set derive = true under [orders] in"
                " its policy.toml.",
                code="derive",
            )

    def initiator_rules(self, initiator: int, *, own_user_id: int) -> list[Rule]:
        """Whether this user may order here, and whether the agent signs its own user's
        orders; as `order_rules`.
        """
        is_own = initiator == own_user_id
        return [
            Rule("initiators", lambda: self.check_initiator(initiator)),
            Rule("sign", lambda: self.check_sign(is_own)),
        ]

    def check_initiator(self, initiator: int) -> None:
        """Refuse who may not order here (code initiators)."""
        _check_listed(
            initiator, self.orders.initiators, rule="initiators", what="initiator: user"
        )

    def check_sign(self, is_own: bool) -> None:
        """Refuse an order of the hospital's own user that its agent may not sign (code
        sign).
        """
        if is_own and not self.orders.sign:
            raise Refused(
                "This hospital's agent does not sign orders of its own user.",
                remedy="Set sign = true under [orders] in its policy.toml.",
                code="sign",
            )

    def check_method(self, method: str) -> None:
        """Refuse an encryption method that is not listed (code methods)."""
        _check_listed(
            method, self.orders.methods, rule="methods", what="encryption method"
        )

    def check_model_type(self, model_type: str) -> None:
        """Refuse a model type that is not listed (code model_types)."""
        _check_listed(
            model_type, self.orders.model_types, rule="model_types", what="model type"
        )

    def check_hospitals(self, n_hospitals: int) -> None:
        """Refuse a sum over fewer hospitals than `min_hospitals`; to be asked again
        after every exclusion.
        """
        if n_hospitals < self.orders.min_hospitals:
            raise Refused(
                f"A sum over {n_hospitals} hospital(s) is below this one's minimum of {self.orders.min_hospitals}.",
                remedy="Add hospitals to party_id, or raise at_least where the order has one, or ask the hospital to"
                " lower min_hospitals under [orders] in its policy.toml.",
                code="min_hospitals",
                threshold=self.orders.min_hospitals,
            )

    def check_regroup(self, regroups: bool) -> None:
        """Refuse an order that opens sums over some of its hospitals only, or of squares
        of each hospital's own, unless `cohort.regroup` (code regroup, decision 104).

        Each hospital asks that of itself: who would be left alone says whether it may.
        """
        if regroups and not self.cohort.regroup:
            raise Refused(
                "This order opens sums over some of its hospitals, or of squares of each hospital's own, and several"
                " of them tell what this one alone has.",
                remedy="Order aggregation mean, no cluster, with method None also scoring round, or ask the hospital to"
                " set regroup = true under [cohort] in its policy.toml.",
                code="regroup",
            )

    def check_receivers(self, receivers: Iterable[int], *, own_user_id: int) -> None:
        """Refuse who may not receive an answer to which this hospital contributes (code
        receivers).
        """
        for user_id in receivers:
            if user_id != own_user_id:
                _check_listed(
                    user_id,
                    self.orders.receivers,
                    rule="receivers",
                    what="receiver: user",
                )

    def check_scoring(self, scoring: str) -> None:
        """Refuse more scoring than `orders.scoring` allows (none < round < full; code
        scoring).
        """
        allowed = SCORING[: SCORING.index(self.orders.scoring) + 1]
        if scoring not in allowed:
            raise Refused(
                f"This hospital allows scoring {self.orders.scoring!r} at the most.",
                remedy="Order without scoring, or ask the hospital to raise scoring under [orders] in its policy.toml.",
                code="scoring",
                threshold=self.orders.scoring,
            )

    def check_inference(self) -> None:
        """Refuse inference unless `inference.allowed` (code inference)."""
        if not self.inference.allowed:
            raise Refused(
                "This hospital's policy does not allow inference.",
                remedy="Set allowed = true under [inference] in its policy.toml.",
                code="inference",
            )

    def check_return_predictions(self) -> None:
        """Refuse to hand predictions to the API unless `inference.return_predictions`
        (code return_predictions).
        """
        if not self.inference.return_predictions:
            raise Refused(
                "This hospital's predictions do not pass through the coordinator's memory.",
                remedy="Ask with reader, the key of a person whom its policy lists, to which they are sealed; or use"
                " `./run agent infer` at the hospital, or set return_predictions = true under [inference] in its"
                " policy.toml.",
                code="return_predictions",
            )

    def check_inference_rows(self) -> None:
        """Refuse values that come with a request unless `inference.rows` (code rows)."""
        if not self.inference.rows:
            raise Refused(
                "This hospital applies models to rows of its own tables only.",
                remedy="Ask by data_sql, or ask the hospital to set rows = true under [inference] in its policy.toml.",
                code="rows",
            )

    def check_reader(self, key: str) -> None:
        """Refuse to seal an answer to a reader's key (hex) whose fingerprint is not
        listed under `[readers]` (code reader).

        Who listed somebody else's key at the coordinator, or changes the one in an
        order, gets nothing: only this list counts.
        """
        fingerprint = reader_fingerprint(bytes.fromhex(key))
        if fingerprint not in self.readers.values():
            raise Refused(
                f"This hospital lists no reader with the fingerprint {fingerprint}.",
                remedy="Compare it with the person by telephone; if it is theirs, add it here with"
                f" `./run agent readers add NAME {fingerprint} --site FOLDER`, after `readers remove NAME` where the"
                " key was renewed. If it is not, somebody has changed the order.",
                code="reader",
            )

    def reader_words(self, key: str) -> str:
        """A reader for people: the name that is listed here, and the fingerprint."""
        fingerprint = reader_fingerprint(bytes.fromhex(key))
        for reader_name, listed in self.readers.items():
            if listed == fingerprint:
                return f"{reader_name}, {fingerprint}"
        return fingerprint

    def rows(self, name: str) -> OpenRows:
        """The rules of a table or a cohort, as a checked query names it. Raises as
        `table` and `cohort_of`.
        """
        if name.lower().startswith(COHORT):
            return self.cohort_of(name[len(COHORT) :])
        return self.table(name)

    def cohort_of(self, name: str) -> NamedCohort:
        """The rules of the cohort `name`; Refused (code tables) if not listed."""
        cohort = self.cohorts.get(name)
        if cohort is None:
            raise Refused(
                f"This hospital has no cohort {name} that orders may name.",
                remedy="Name a cohort of its policy, or ask the hospital to add it under [cohorts] in its policy.toml.",
                code="tables",
            )
        return cohort

    def table(self, name: str) -> TableRules:
        """The rules of the table `name`, compared without regard to case; Refused (code
        tables) if not listed.
        """
        by_lower_name = {key.lower(): rules for key, rules in self.tables.items()}
        table_rules = by_lower_name.get(name.lower())
        if table_rules is None:
            raise Refused(
                f"The table {name} is not open to orders at this hospital.",
                remedy="Name a table of its policy with its schema, or ask the hospital to add it under [tables] in its"
                " policy.toml.",
                code="tables",
            )
        return table_rules


def _check_listed(
    value: object, allowed: tuple[object, ...], *, rule: str, what: str
) -> None:
    if value not in allowed:
        accepted = ", ".join(map(str, allowed)) or "none"
        raise Refused(
            f"This hospital does not accept the {what} {value}; it accepts {accepted}.",
            remedy=f"Change the order, or ask the hospital to add it to {rule} under [orders] in its policy.toml.",
            code=rule,
        )
