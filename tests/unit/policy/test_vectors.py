"""The recorded verdicts of the real service, where they are."""

from __future__ import annotations

from collections import Counter
from importlib import util
from pathlib import Path

import pytest

_SPEC = util.spec_from_file_location("agreement", Path(__file__).with_name("agreement.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
agreement = util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(agreement)

# How many may differ, each for a reason that the recording itself shows:
# - ssh_policy, 10: addresses were replaced after recording (fd7a:115c:a1e0::1, ::2, …). The IPv6
#   principals stand in the order of the true ones: between recordings of the very same nodes and
#   rule that order differs, so nothing in them tells it.
# - packet_filter_rules and one of peers; http_code and http_message: an IPv6 address in the policy
#   names, since that replacement, a node that it did not name when it was recorded.
# - self and one of peers: two routers of one network, alike but for name and address. The older
#   one serves (addresses given in order of age show it), and here nothing tells the age. In 215 of
#   216 recordings the guess in `topology` is right; addresses are right in half of them.
UNKNOWABLE = {
    "http_code": 1,
    "http_message": 1,
    "packet_filter_rules": 1,
    "ssh_policy": 10,
    "self": 1,
    "peers": 2,
}


def test_we_answer_as_the_service_did() -> None:
    if not agreement.VECTORS.exists():
        pytest.skip("the vectors of policy verdicts may not be redistributed and are not here")
    wrong: Counter[str] = Counter()
    for verdict in agreement.verdicts():
        wrong.update({aspect for aspect, *_ in agreement.disagreements(verdict)})
    over = {aspect: n for aspect, n in wrong.items() if n > UNKNOWABLE[aspect]}
    assert not over
