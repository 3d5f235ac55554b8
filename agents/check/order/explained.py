"""Rules as findings: each passes, refuses with its reason, or is decided by the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from agents.check.findings import JOINT, OK, WARN, WRONG, Finding
from agents.gate import regrouping
from agents.gate.kept_sets import COORDINATOR, Terms
from agents.gate.memory import Memory
from agents.order.party import UNSENT, Hospital
from agents.site.coordinator_told import kept_in
from protocol.errors import ConsiliumError, Rule
from protocol.start_window import Windowed
from protocol.versions import FEATURES, SPOKEN, Window

NOT_YET = "Not known before the others have answered:"

_PASSED = {
    "initiators": "Who asks may order here.",
    "sign": "Its agent signs the orders of its own users that have to be signed.",
    "methods": "The policy has the method.",
    "model_types": "The policy has the model type.",
    "min_hospitals": "Enough hospitals are in each sum.",
    "min_providers": "Enough hospitals bring rows.",
    "receivers": "All who would receive may.",
    "scoring": "The policy allows the scoring.",
    "regroup": "No round is over some of the hospitals only, or the policy allows it.",
    "risk_sets": "No sums over who is at risk are opened, or the policy allows it.",
    "clusters": "Clusters are enough, none of one row, and by the column of before.",
    "few_event_times": "Events are enough, at enough times, in each stratum and among those who came late.",
    "mini_batches": "Rows are not walked in mini-batches, or the policy allows it.",
    "derive": "No column is computed by another hospital's order, or the policy allows it.",
    "row_level": "No value for each person is told of columns that the policy closes.",
    "disclose": "Values go the way that the policy allows.",
    "compare": "The model that it is compared with is here, of the same kind.",
    "reader": "The policy lists the reader to whom the answer is sealed.",
    "row_expressions": "Joined rows are weighed in no way that the policy does not allow.",
    "column_names": "Its column has the name of the answer, or the policy says that it is the same.",
    "own_totals": "No total is this hospital's alone against its policy.",
    "data_path": "The policy opens the file or table.",
    "sql": "Its SQL may run.",
    "pin_missing": "All hospitals of the order are pinned.",
    "min_rows": "Every set of its rows is large enough.",
    "min_varying": "In each column enough rows vary, or none.",
    "max_parameter_share": "The model is not too large for its rows.",
    "max_share": "No two rows make up most of a column, or of a combination of columns.",
    "earlier_cohort": "With what was told before, no few people are told.",
    "earlier_hospitals": "With what was told before, no few hospitals are left alone.",
    "max_rounds": "Every receiver has rounds enough left.",
    "inference": "The policy allows inference.",
    "return_predictions": "The policy lets predictions be returned.",
    "rows": "The policy lets models be applied to values of a request.",
    "expressions": "Its SQL selects plain columns.",
    "no_model": "The model is here.",
}


def passed(rule: str) -> Finding:
    return Finding(rule, OK, _PASSED.get(rule, "It passes."))


def jointly(rule: str, undecided: str) -> Finding:
    """What only all hospitals together can decide. undecided: goes on after a colon."""
    return Finding(rule, JOINT, f"{NOT_YET} {undecided}")


def start(request: Windowed) -> Iterator[Finding]:
    """Who takes part, where an order starts with who is there."""
    if request.start_within_seconds is None:
        return
    yield jointly(
        "start_within_seconds",
        "who takes part. The order starts with the hospitals that have accepted after"
        f" {request.start_within_seconds:g} seconds, if they are {request.at_least} or more; all rules are asked of"
        " these then. Where it starts without this one, nothing of it is kept here.",
    )


def asked(rules: Iterable[Rule]) -> list[Finding]:
    """One finding for each rule that passes, and one for each reason that refuses.

    Of several rules of one name, as of several sets of rows, one line.
    """
    by_name: dict[str, list[Finding]] = {}
    for rule in rules:
        rule_findings = by_name.setdefault(rule.name, [])
        for finding in refusals_of(rule.check):
            if finding not in rule_findings:
                rule_findings.append(finding)
    findings = []
    for rule_name, rule_findings in by_name.items():
        findings += rule_findings or [passed(rule_name)]
    return findings


def refusals_of(work: Callable[[], object]) -> list[Finding]:
    """Every reason for which something is refused; nothing where it is not."""
    try:
        work()
    except ConsiliumError as error:
        return refusals(error)
    return []


def refusals(error: ConsiliumError) -> list[Finding]:
    """An error as findings, one for each of its reasons."""
    reasons = error.detail.get("reasons")
    if reasons is None:
        return [Finding(error.code, WRONG, error.sentence, error.remedy)]
    findings = []
    for reason in reasons:
        finding = Finding(reason["code"], WRONG, reason["sentence"], reason["remedy"])
        findings.append(finding)
    return findings


def refuses(findings: Iterable[Finding]) -> bool:
    return any(finding.state == WRONG for finding in findings)


# What every kind of order is asked


def protocol(hospital: Hospital, features: Collection[str]) -> Finding:
    """In which number the order would be written, of those that this agent takes: all
    its hospitals have to speak it, and the coordinator, whose last word is known.
    """
    own_window = hospital.policy.speaks(SPOKEN)
    coordinator = kept_in(hospital.settings.state)
    needed_protocol = max(
        [own_window.oldest, *(FEATURES[feature] for feature in features)]
    )
    largest = (
        own_window.newest
        if coordinator is None
        else min(own_window.newest, coordinator.speaks.newest)
    )
    own_sentence = f"This agent takes {own_window}."
    if largest < needed_protocol:
        sentence = f"The order needs protocol {needed_protocol}, and the coordinator spoke {largest}. {own_sentence}"
        remedy = (
            "The operator upgrades the coordinator; until then it refuses the order."
        )
        return Finding("protocol", WARN, sentence, remedy)
    if largest == needed_protocol:
        return Finding(
            "protocol",
            OK,
            f"It is written in protocol {needed_protocol}. {own_sentence}",
        )
    window = Window(needed_protocol, largest)
    undecided = f"its protocol, {window}: the largest that all its hospitals and the coordinator speak. {own_sentence}"
    return jointly("protocol", undecided)


def pins(hospital: Hospital, hospitals: Collection[int]) -> list[Finding]:
    """Whether this hospital could verify who all the others are."""
    unpinned = sorted(set(hospitals) - set(hospital.settings.partners) - {hospital.me})
    if not unpinned:
        return [passed("pin_missing")]
    findings = []
    for user_id in unpinned:
        finding = Finding(
            "pin_missing",
            WRONG,
            f"Hospital {user_id} is not pinned here.",
            "Ask it by telephone for its fingerprint (`./run agent keys`) and add it to settings.toml under"
            " [[partners]].",
        )
        findings.append(finding)
    return findings


def approval(hospital: Hospital) -> Iterator[Finding]:
    if hospital.policy.orders.approval == "manual":
        sentence = "A person here decides (approval), before rows are read."
        yield Finding("approval", JOINT, sentence)


def left_alone(
    hospital: Hospital,
    memory: Memory,
    *,
    hospitals: Collection[int],
    least_hospitals: int,
    regroup: bool,
    section: str,
) -> list[Finding]:
    """Whether the reserved totals, with earlier ones, would leave few hospitals alone.

    The others' words can only be guessed: it passes for certain if it does when no other
    lets itself be told and as many are asked for as there are, and is refused for certain
    if it is when all others let themselves be told.
    """
    me = hospital.me
    own_willing = frozenset({me}) if regroup else frozenset[int]()
    strictest = Terms(max(least_hospitals, len(hospitals)), own_willing)
    mildest = Terms(least_hospitals, own_willing | (frozenset(hospitals) - {me}))

    def agree(terms: Terms) -> list[Finding]:
        return refusals_of(
            lambda: regrouping.agree(
                memory,
                order_id=UNSENT,
                terms=terms,
                section=section,
                has_ended=hospital.vault.has_ended,
            )
        )

    if not agree(strictest):
        return [passed("earlier_hospitals")]
    refused = agree(mildest)
    if refused:
        return refused
    return [
        jointly(
            "earlier_hospitals",
            "with what was told before, the answer would leave a few hospitals alone, and passes only where these"
            f" have set regroup under {section}.",
        )
    ]


def opens(sentences: Iterable[str], receivers: Iterable[str]) -> Iterator[Finding]:
    """The totals that the answer opens of this hospital's rows, and who opens them."""
    for sentence in sentences:
        yield Finding("opens", OK, f"{sentence[0].upper()}{sentence[1:]}.")
    openers = []
    for receiver in receivers:
        openers.append(receiver if receiver == COORDINATOR else f"hospital {receiver}")
    if openers:
        yield Finding("opens", OK, f"These are opened by {', '.join(openers)}.")


def verdict(findings: Iterable[Finding]) -> Finding:
    """The last line: accept or refuse, as far as this hospital can say."""
    all_findings = list(findings)
    rules = dict.fromkeys(
        finding.check for finding in all_findings if finding.state == WRONG
    )
    if rules:
        return Finding(
            "verdict",
            WRONG,
            f"This hospital would refuse the order: {', '.join(rules)}.",
            "Change what the lines above name, and check again.",
        )
    sentence = "This hospital would accept the order."
    if any(finding.state == JOINT for finding in all_findings):
        sentence = "This hospital would accept the order; lines marked joint are decided later."
    return Finding("verdict", OK, sentence)
