"""XML from a router, read without trust: no document types, no entities, little of everything."""

from __future__ import annotations

from collections.abc import Iterator
from xml.parsers import expat

MAX_BYTES = 128 * 1024
MAX_ELEMENTS = 4000
MAX_DEPTH = 32


class MalformedXml(ValueError):
    """Bytes are no XML, or XML of a kind that no honest router sends."""


class Element:
    """An element. `name` is without its namespace, `text` what stands directly in it, stripped."""

    __slots__ = ("children", "name", "pieces")

    def __init__(self, name: str) -> None:
        self.name = name
        self.children: list[Element] = []
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text directly inside."""
        return "".join(self.pieces).strip()

    def child(self, name: str) -> str:
        """Return the text of the first child of this name, or an empty one."""
        return next((c.text for c in self.children if c.name == name), "")

    def every(self, name: str) -> Iterator[Element]:
        """Yield this element and those inside it, at any depth, that have this name."""
        waiting = [self]
        while waiting:
            element = waiting.pop()
            if element.name == name:
                yield element
            waiting.extend(reversed(element.children))


def parse_xml_untrusted(data: bytes) -> Element:
    """Read a whole document. Raises MalformedXml.

    A document type is refused where it begins, so that no entity is ever declared: neither a
    bomb nor a file of this machine can come out of one.
    """
    if len(data) > MAX_BYTES:
        raise MalformedXml(f"{len(data)} bytes of XML are too many")
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.take
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    try:
        # Routers end documents with zeros and other dirt that strict readers stumble over.
        parser.Parse(data.strip(b"\x00 \t\r\n"), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        # ValueError: an unknown or a many-byte encoding; LookupError: one that has no codec.
        raise error if isinstance(error, MalformedXml) else MalformedXml(str(error)) from error
    if builder.root is None:
        raise MalformedXml("the document is empty")
    return builder.root


class _Builder:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, name: str, attributes: object) -> None:
        element = Element(name.rpartition(" ")[2])
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise MalformedXml("too many elements, or too deep")
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, name: str) -> None:
        self._open.pop()

    def take(self, text: str) -> None:
        if self._open:
            self._open[-1].pieces.append(text)


def _refuse(*arguments: object) -> int:
    raise MalformedXml("a document type is refused")
