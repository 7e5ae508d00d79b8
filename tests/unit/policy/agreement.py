"""How many recorded verdicts we agree with: `python tests/unit/policy/agreement.py [-v]`."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from warren.policy.verdict import verdict_untrusted

VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "policy-verdicts.jsonl.gz"
ASPECTS = ("packet_filter_rules", "ssh_policy", "self", "peers")
# Set by the age of the service that was recorded, not by the policy.
_NOT_POLICY = {"default-auto-update"}


def verdicts() -> list[dict[str, Any]]:
    with gzip.open(VECTORS, "rt") as lines:
        found = [json.loads(line) for line in lines]
    return [verdict for verdict in found if verdict["http_code"] != 500]


def _form(aspect: str, value: Any) -> Any:
    if aspect == "self":
        caps = {k: v for k, v in value["CapMap"].items() if k not in _NOT_POLICY}
        return value | {"CapMap": caps}
    return value


def disagreements(wanted: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """Return (aspect, node, wanted, got) of everything that differs."""
    keys = ("policy", "topology", "tailnet_settings", "dns_settings", "id")
    got = verdict_untrusted({key: wanted[key] for key in keys})
    found = [
        (key, "", wanted[key], got[key])
        for key in ("http_code", "http_message")
        if wanted[key] != got[key]
    ]
    if wanted["http_code"] != 200 or got["http_code"] != 200:
        return found
    for name, node in wanted["nodes"].items():
        for aspect in ASPECTS:
            one, other = _form(aspect, node[aspect]), _form(aspect, got["nodes"][name][aspect])
            if one != other:
                found.append((aspect, name, one, other))
    return found


def main() -> None:
    total: Counter[str] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts():
        category = verdict["category"]
        total[category] += 1
        found = disagreements(verdict)
        for aspect in {aspect for aspect, *_ in found}:
            wrong[category, aspect] += 1
        wrong[category, "whole"] += bool(found)
        for aspect, node, one, other in found[:1] if "-v" in sys.argv else ():
            print(verdict["id"], aspect, node, f"\n  want {one}\n  got  {other}")
    for category, count in total.items():
        parts = [
            f"{aspect} {count - wrong[category, aspect]}"
            for aspect in ("http_code", "http_message", *ASPECTS, "whole")
        ]
        print(f"{category:12} {count:4}  " + "  ".join(parts))
    whole = sum(total.values())
    print("whole", whole - sum(n for (_, aspect), n in wrong.items() if aspect == "whole"), whole)


if __name__ == "__main__":
    main()
