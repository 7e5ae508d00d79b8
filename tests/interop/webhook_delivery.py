"""Run inside a network namespace: one event, from a change, to the service's own receiver.

    python webhook_delivery.py RECEIVER DIRECTORY

The receiver always listens on port 80, and knows one secret. What it logs is printed.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path

from warren.coordinator.delta import Delta
from warren.coordinator.members import create_user
from warren.coordinator.records import WebhookRecord
from warren.coordinator.registry import Registry
from warren.coordinator.settings import Settings
from warren.coordinator.store import Store
from warren.coordinator.webhooks.sender import Sender
from warren.edge.clock import SystemClock
from warren.nat.turn.reach import Reach

SECRET = "tskey-webhook-xxxxx"


async def deliver(receiver: str, directory: Path) -> None:
    process = await asyncio.create_subprocess_exec(receiver, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    await listening(80)
    clock, reach = SystemClock(), Reach(allow=[ip_network("127.0.0.1/32")])
    settings = Settings(url="https://vpn.example")
    for secret in (SECRET, "another"):
        store = Store.open(f"sqlite:///{directory / secret}.db")
        store.write_now(Delta(webhooks=(webhook(secret, clock.wall()),)))
        registry = Registry(store, store.load(), clock)
        sender = Sender(registry, settings, reach, clock)
        await registry.commit(lambda now: (create_user(now, "bob", "", clock.wall()), None))
        running = asyncio.get_running_loop().create_task(sender.run())
        while registry.snapshot.deliveries:
            await asyncio.sleep(0.02)
        print((await process.stderr.readline()).decode(), end="", flush=True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        store.close()
    process.terminate()
    await process.wait()


def webhook(secret: str, wall: datetime) -> WebhookRecord:
    return WebhookRecord(
        id="w",
        url="http://127.0.0.1/webhook",
        provider="",
        subscriptions=("userCreated",),
        secret=secret,
        creator="ann",
        created=wall,
        modified=wall,
    )


async def listening(port: int) -> None:
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)


async def main(receiver: str, directory: Path) -> None:
    async with asyncio.timeout(20):
        await deliver(receiver, directory)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
