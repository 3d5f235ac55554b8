"""What is wrong with an installation, a policy or an order, in lines or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from agents.check.findings import WRONG, Finding
from deployments.agent.options import site_of
from deployments.agent.printing import (
    print_json,
    print_lines,
)
from protocol.errors import BadRequest

_LEAST_WIDTH = 11
"""Of the column with what a finding is about."""


def run_check(options: argparse.Namespace) -> int:
    """Prints every finding; 1 if anything is wrong."""
    findings = _findings(options)
    if options.json:
        print_json([finding.to_json() for finding in findings])
    else:
        print_lines(finding_lines(findings))
    is_wrong = any(finding.state == WRONG for finding in findings)
    return 1 if is_wrong else 0


def _findings(options: argparse.Namespace) -> list[Finding]:
    from agents.check.order.checking import check_order
    from agents.check.site import check_policy, check_site

    if options.policy is not None:
        if "site" in options or options.order is not None:
            beside = "a site" if "site" in options else "an order"
            raise BadRequest(
                f"Both {beside} and a policy are given.",
                remedy="Give --site for a whole installation, --site and --order for an order, or --policy for one"
                " file.",
                code="site",
            )
        return check_policy(options.policy)
    if options.user is not None and options.order is None:
        raise BadRequest(
            "--user says who would send an order, and no order is given.",
            remedy="Add --order with the file of its body.",
            code="order_file",
        )
    if options.order is not None:
        return check_order(site_of(options), options.order, user=options.user)
    return check_site(site_of(options))


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    # The width needs all of them, and an iterator would be used up by it.
    all_findings = list(findings)
    width = max([_LEAST_WIDTH, *[len(finding.check) for finding in all_findings]])
    for finding in all_findings:
        word = finding.state.upper() if finding.state == WRONG else finding.state
        finding_text = f"{finding.sentence} {finding.remedy}".rstrip()
        yield f"{word:5}  {finding.check:{width}}  {finding_text}"
