"""What is due when, against the plainest way to keep it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warren.node.agenda import Agenda

ITEMS = st.sampled_from("abcd")
TIMES = st.integers(0, 20).map(float)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), ITEMS, st.none() | TIMES), st.tuples(st.just("take"), TIMES)
    )
)


@given(STEPS)
def test_it_is_a_dictionary_of_times(steps: list[tuple[str, ...]]) -> None:
    agenda: Agenda[str] = Agenda()
    plain: dict[str, float] = {}
    for step in steps:
        if step[0] == "set":
            _, item, when = step
            agenda.set(item, when)  # type: ignore[arg-type]
            plain.pop(item, None)
            if when is not None:
                plain[item] = when  # type: ignore[assignment]
        else:
            now = float(step[1])
            late = {item for item, when in plain.items() if when <= now}
            taken = agenda.take(now)
            assert set(taken) == late and len(taken) == len(late)
            assert [plain[item] for item in taken] == sorted(plain[item] for item in taken)
            plain = {item: when for item, when in plain.items() if item not in late}
        assert agenda.next() == min(plain.values(), default=None)


def test_setting_the_same_time_again_and_again_takes_no_room() -> None:
    agenda: Agenda[str] = Agenda()
    for _ in range(1000):
        agenda.set("a", 5.0)
    assert len(agenda._heap) == 1
