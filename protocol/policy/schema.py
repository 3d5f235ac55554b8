"""The JSON schema of policy.toml, which editors check a file by while it is written."""

from __future__ import annotations

import json

from protocol.policy.policy import Policy


def policy_schema() -> str:
    """The JSON schema of `policy.toml`, for editors: the text of
    deployments/sites/policy.schema.json.

    It knows keys, types and ranges. What holds between two keys, only reading the
    policy finds.
    """
    schema = Policy.model_json_schema()
    # TOML has no null.
    schema["properties"]["statistics"] = {"$ref": "#/$defs/StatisticsRules"}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "policy.toml",
        "anyOf": [{"required": ["tables"]}, {"required": ["cohorts"]}],
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
