"""What relays and coordinators say to each other about a client, as one fuzz target."""

from __future__ import annotations

from contextlib import suppress

from warren.coordinator.admission import MalformedQuestion, parse_question_untrusted
from warren.relay.admission import MalformedAnswer, parse_answer_untrusted


def entry(data: bytes) -> None:
    """Read it as a question and as an answer."""
    with suppress(MalformedQuestion):
        parse_question_untrusted(data)
    with suppress(MalformedAnswer):
        parse_answer_untrusted(data)


def messages() -> list[bytes]:
    """Both, as they travel."""
    key = "nodekey:" + "5f" * 32
    question = f'{{"NodePublic":"{key}","Source":"192.0.2.7"}}'
    return [question.encode(), b'{"Allow":true}']
