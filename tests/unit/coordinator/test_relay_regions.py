"""Relay regions of files and URLs beside our own: told to machines, followed, refused, kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from coordinator_server import Running

from warren.coordinator import region_keeper
from warren.coordinator.config import BadConfig, Config, derp_map_places
from warren.coordinator.daemon import check as check_server
from warren.coordinator.region_sources import RegionSources
from warren.coordinator.regions import OWN, RegionProblem, combine
from warren.netmap.derpmap import DERPMap, DERPRegion


def content(*numbers: int, host: str = "a.example", **members: Any) -> str:
    regions = {str(number): {"Nodes": [{"HostName": host}]} for number in numbers}
    return json.dumps({"Regions": regions} | members)


def own() -> DERPMap:
    return DERPMap(regions={900: DERPRegion(region_id=900)}, omit_default_regions=True)


@contextlib.asynccontextmanager
async def web(*answers: bytes) -> AsyncIterator[str]:
    """A web server that gives each answer once, the last one for ever; its URL."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/derpmap"


def page(text: str, status: str = "200 OK") -> bytes:
    body = text.encode()
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def read(*files: Path) -> list[tuple[str, DERPMap]]:
    sources = RegionSources([str(file) for file in files], Path("/nowhere"))
    sources.load()
    return sources.maps()


def test_files_go_over_ours_in_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.toml"
    first.write_text(content(901, 902) + " // with a comment")
    second.write_text(
        '[regions.902]\nregionCode = "new"\n[[regions.902.nodes]]\nhostName = "b.example"\n'
    )
    found = combine(own(), read(first, second))
    assert found.sources == {900: OWN, 901: str(first), 902: str(second)}
    region = (found.derp_map.regions or {})[902]
    assert region is not None
    assert region.region_code == "new"


def test_ours_is_taken_away_only_on_purpose(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text(content(900))
    with pytest.raises(RegionProblem, match="region 900 is this server's own"):
        combine(own(), read(file))
    file.write_text(content(900, OmitDefaultRegions=True))
    assert combine(own(), read(file)).sources == {900: str(file)}
    file.write_text('{"Regions": {"900": null}}')
    assert combine(own(), read(file)).derp_map.regions == {}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot read"),
        (b"\xff", "this is not UTF-8 text"),
        (b"", "line 1, column 1: the DERP map ends too early"),
        (b'{"Regions": {"901":\n {"Nodes": 7}}}', "line 2, column 12: "),
        (b" " * (2 << 20), "larger than"),
    ],
)
def test_a_bad_file_is_one_sentence_with_its_name(
    tmp_path: Path, data: bytes | None, said: str
) -> None:
    file = tmp_path / "map.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(RegionProblem, match=said) as caught:
        read(file)
    assert str(file) in str(caught.value)
    config = Config(url="http://x", http="127.0.0.1:1", derp_map=str(file))
    with pytest.raises(RegionProblem, match=said):
        check_server(config, tmp_path / "state")


@pytest.mark.parametrize("text", ["ftp://x/map", "https:///map", "a.json,a.json"])
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(BadConfig, match="derp-map"):
        derp_map_places(Config(derp_map=text))


async def test_a_url_that_fails_leaves_its_copy_in_force(tmp_path: Path) -> None:
    newer = content(901, Something="new")  # of others: what nobody here knows is passed over
    async with web(page(newer), page("{"), page("x", "404 Not Found")) as url:
        sources = RegionSources([url], tmp_path / "keep")
        sources.load()
        assert sources.maps() == []
        assert await sources.fetch()
        assert sources.problems == {}
        for said in ("line 1, column 2", "status 404"):
            assert not await sources.fetch()
            assert said in sources.problems[url]
        assert [list(found.regions or {}) for _, found in sources.maps()] == [[901]]
        with pytest.raises(RegionProblem, match="status 404"):
            await sources.check()
    after = RegionSources([url], tmp_path / "keep")
    after.load()
    assert after.maps() == sources.maps(), "the copy serves a server that starts without it"


async def test_a_url_that_answers_without_end(tmp_path: Path) -> None:
    async with web(page(" " * (2 << 20))) as url:
        sources = RegionSources([url], tmp_path / "keep")
        await sources.fetch()
        assert "it answers with more than" in sources.problems[url]


async def test_machines_hear_of_a_file_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By looking, by SIGHUP, from a URL; a bad file changes nothing and is told."""
    monkeypatch.setattr(region_keeper, "LOOK_S", 0.05)
    file = tmp_path / "map.json"
    file.write_text(content(901))
    async with web(page(content(950)), page(content(951))) as url:
        running = Running(tmp_path / "state", derp_map=f"{file}, {url}")
        running.state.mkdir()
        await running.start()
        machine = await running.join_machine("a", await running.key())

        def told() -> list[int]:
            return sorted(machine.view.derp_map.regions or {})

        await machine.until(lambda _: told() == [900, 901, 950])
        file.write_text(content(901, 902))
        await machine.until(lambda _: told() == [900, 901, 902, 950])
        shown = await running.admin(lambda client: client.regions())
        assert shown.sources == {900: OWN, 901: str(file), 902: str(file), 950: url}
        assert shown.problems == []
        for bad, said in (("{", "line 1, column 2"), (content(900), "this server's own")):
            file.write_text(bad)
            async with asyncio.timeout(5):
                while not any(said in problem for problem in shown.problems):
                    await asyncio.sleep(0.02)
                    shown = await running.admin(lambda client: client.regions())
            assert all(problem.startswith(str(file)) for problem in shown.problems)
            assert told() == [900, 901, 902, 950]
        file.write_text(content())
        await machine.until(lambda _: told() == [900, 950])
        signal.raise_signal(signal.SIGHUP)  # fetches, too
        await machine.until(lambda _: told() == [900, 951])
        policy = '{"derpMap": {"OmitDefaultRegions": true}}'
        made = await running.admin(lambda client: client.set_policy(policy, "ann", None))
        assert "there is no relay" in made.warnings[0]
        await machine.until(lambda _: told() == [])
        await machine.close()
        await running.stop()
