"""JSON with comments and trailing commas (HuJSON), read with the place of every value.

Comments are kept with their offsets, so that an edit can replace the bytes of one value and
leave the rest of a person's file as it was.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from warren.policy.malformed import MalformedPolicy, Place

MAX_BYTES = 1 << 20
MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\r\n]+")
_LINE_COMMENT = re.compile(r"//[^\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_STRING_OF_ANY = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"true|false|null")
_WORDS = {"true": True, "false": False, "null": None}
_MAX_DIGITS = 400


@dataclass(slots=True)
class Item:
    """A value: a scalar, a list of items, or members by name; `start` and `end` are offsets."""

    value: Any
    start: int
    end: int
    names: dict[str, int] = field(default_factory=dict)

    def plain(self) -> Any:
        """Return the value as ordinary Python data."""
        if isinstance(self.value, dict):
            return {name: item.plain() for name, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


@dataclass(slots=True)
class Text:
    """A parsed file: its root, its comments (offset, text), and where its lines begin."""

    root: Item
    source: str
    comments: list[tuple[int, str]]
    lines: list[int]

    def place(self, offset: int) -> Place:
        """Return the line and column of an offset."""
        line = bisect_right(self.lines, offset)
        return Place(line, offset - self.lines[line - 1] + 1)

    def replaced(self, item: Item, new: str) -> str:
        """Return the source with one value's text replaced and everything else as it was."""
        return self.source[: item.start] + new + self.source[item.end :]


def parse_hujson_untrusted(source: str, what: str = "policy") -> Text:
    """Parse a file of at most `MAX_BYTES`. Raises MalformedPolicy with line and column.

    what: the file holds, for messages.
    """
    lines = [0, *(found.end() for found in re.finditer("\n", source))]
    parser = _Parser(source, lines, what)
    if len(source.encode(errors="surrogatepass")) > MAX_BYTES:
        raise MalformedPolicy(f"the {what} is larger than {MAX_BYTES} bytes")
    root = parser.document()
    return Text(root, source, parser.comments, lines)


class _Parser:
    def __init__(self, source: str, lines: list[int], what: str) -> None:
        self.what = what
        self.source = source
        self.lines = lines
        self.at = 0
        self.comments: list[tuple[int, str]] = []

    def fail(self, message: str, at: int | None = None) -> MalformedPolicy:
        offset = self.at if at is None else at
        line = bisect_right(self.lines, offset)
        return MalformedPolicy(message, Place(line, offset - self.lines[line - 1] + 1))

    def document(self) -> Item:
        if self.source.startswith("\ufeff"):
            raise self.fail(f"the {self.what} begins with a byte order mark; save it without one")
        self.skip()
        root = self.item(0)
        self.skip()
        if self.at != len(self.source):
            raise self.fail(f"nothing may follow the {self.what}")
        return root

    def skip(self) -> None:
        """Pass space and comments."""
        while True:
            if found := _SPACE.match(self.source, self.at):
                self.at = found.end()
            elif found := _LINE_COMMENT.match(self.source, self.at):
                self.comments.append((self.at, found.group()))
                self.at = found.end()
            elif self.source.startswith("/*", self.at):
                end = self.source.find("*/", self.at + 2)
                if end < 0:
                    raise self.fail("the comment does not end")
                self.comments.append((self.at, self.source[self.at : end + 2]))
                self.at = end + 2
            else:
                return

    def item(self, depth: int) -> Item:
        if depth > MAX_DEPTH:
            raise self.fail(f"nested more than {MAX_DEPTH} deep")
        start, head = self.at, self.source[self.at : self.at + 1]
        if head == "{":
            return self.members(depth)
        if head == "[":
            return self.elements(depth)
        if head == '"':
            return Item(self.string(), start, self.at)
        if found := _WORD.match(self.source, start):
            self.at = found.end()
            return Item(_WORDS[found.group()], start, self.at)
        if found := _NUMBER.match(self.source, start):
            self.at = found.end()
            if self.at - start > _MAX_DIGITS:
                raise self.fail("a number with too many digits", start)
            return Item(json.loads(found.group()), start, self.at)
        raise self.fail("expected a value" if head else f"the {self.what} ends too early")

    def string(self) -> str:
        found = _STRING.match(self.source, self.at)
        if found is None:
            raise self.broken_string()
        try:
            text = json.loads(found.group())
            text.encode()
        except ValueError:
            raise self.fail("a string with a bad escape") from None
        self.at = found.end()
        return str(text)

    def broken_string(self) -> MalformedPolicy:
        """Say where a string goes wrong: at a control character, or where it begins."""
        whole = _STRING_OF_ANY.match(self.source, self.at)
        control = _CONTROL.search(self.source, self.at, whole.end()) if whole else None
        if control is None or control.group() in "\r\n":
            return self.fail("the string does not end on its line")
        code = f"\\u{ord(control.group()):04x}"
        return self.fail(f"a string holds a control character; write it as {code}", control.start())

    def elements(self, depth: int) -> Item:
        start = self.at
        self.at += 1
        found: list[Item] = []
        while not self.closes("]", bool(found)):
            found.append(self.item(depth + 1))
        return Item(found, start, self.at)

    def members(self, depth: int) -> Item:
        start = self.at
        self.at += 1
        found: dict[str, Item] = {}
        names: dict[str, int] = {}
        while not self.closes("}", bool(found)):
            place = self.at
            if self.source[place : place + 1] != '"':
                raise self.fail("expected a name in double quotes")
            name = self.string()
            if name in found:
                raise self.fail(f'"{name}" is given twice', place)
            self.skip()
            if self.source[self.at : self.at + 1] != ":":
                raise self.fail(f'expected ":" after "{name}"')
            self.at += 1
            self.skip()
            found[name], names[name] = self.item(depth + 1), place
        return Item(found, start, self.at, names)

    def closes(self, mark: str, after_value: bool) -> bool:
        """Pass a comma, and say whether the bracket closes here."""
        self.skip()
        comma = after_value and self.source[self.at : self.at + 1] == ","
        if comma:
            self.at += 1
            self.skip()
        if self.source[self.at : self.at + 1] == mark:
            self.at += 1
            return True
        if after_value and not comma:
            raise self.fail(f'expected "," or "{mark}"')
        return False
