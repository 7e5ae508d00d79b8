"""Blocking work beside the event loop, that must not hold up the program's end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


async def run_aside(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread of its own and return, or raise, what it does.

    Unlike asyncio's own threads this one is left behind when the loop closes, so it is only for
    work that may be cut at any point: resolving names, talking to a slow server.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def thread() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=thread, daemon=True, name="aside").start()
    return await done
