from __future__ import annotations

import pytest

from warren.policy.hujson import MAX_BYTES, parse_hujson_untrusted
from warren.policy.malformed import MalformedPolicy

SOURCE = """{
  // people
  "groups": {"group:a": ["x@y.z",],}, /* more */
  "n": [1, -2.5e3, true, false, null, "q\\u00e9\\n"],
}
// end"""


def test_comments_and_trailing_commas_are_read_and_kept() -> None:
    text = parse_hujson_untrusted(SOURCE)
    assert text.root.plain() == {
        "groups": {"group:a": ["x@y.z"]},
        "n": [1, -2500.0, True, False, None, "qé\n"],
    }
    assert [comment for _, comment in text.comments] == ["// people", "/* more */", "// end"]
    assert text.place(text.root.value["n"].start) == (4, 8)


def test_an_edit_leaves_the_rest_of_the_file() -> None:
    text = parse_hujson_untrusted(SOURCE)
    edited = text.replaced(text.root.value["groups"], "{}")
    assert edited == SOURCE.replace('{"group:a": ["x@y.z",],}', "{}")


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("", (1, 1)),
        ("{", (1, 2)),
        ("{\n  acls: []}", (2, 3)),
        ('{"a" 1}', (1, 6)),
        ('{"a": 1 "b": 2}', (1, 9)),
        ('{"a": 1,\n "a": 2}', (2, 2)),
        ("[1,,2]", (1, 4)),
        ("[,]", (1, 2)),
        ('["open', (1, 2)),
        ('["\\ud800"]', (1, 2)),
        ('["\\x"]', (1, 2)),
        ("{} /* open", (1, 4)),
        ("{} {}", (1, 4)),
        ("[" * 100, (1, 66)),
        ("9" * 500, (1, 1)),
        ("nul", (1, 1)),
    ],
)
def test_what_is_malformed_has_a_place(source: str, place: tuple[int, int]) -> None:
    with pytest.raises(MalformedPolicy) as caught:
        parse_hujson_untrusted(source)
    assert caught.value.place == place


def test_a_policy_that_is_too_large_is_refused() -> None:
    with pytest.raises(MalformedPolicy, match="larger than"):
        parse_hujson_untrusted("[" + " " * MAX_BYTES + "]")
