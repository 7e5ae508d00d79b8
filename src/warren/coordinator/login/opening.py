"""The providers of a configuration, ready to be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from warren.coordinator.login.claims import ProviderProblem
from warren.coordinator.login.providers import ProviderConfig, client_secret
from warren.edge.clock import Clock, SystemClock
from warren.edge.entropy import Entropy, system_entropy

if TYPE_CHECKING:
    from warren.coordinator.login.oidc import Provider


def open_providers(
    configs: Sequence[ProviderConfig], url: str, clock: Clock, entropy: Entropy
) -> Mapping[str, Provider]:
    """Return them by name. Their libraries are imported only where there are some.

    url: the server's own. Raises ValueError for a secret that cannot be read.
    """
    if not configs:
        return {}
    from warren.coordinator.login.oidc import Provider

    return {
        one.name: Provider(
            one, client_secret(one), f"{url}/login/{one.name}/callback", clock, entropy
        )
        for one in configs
    }


def check_providers(configs: Sequence[ProviderConfig], url: str) -> None:
    """Ask each for its description and keys. Blocks. Raises ProviderProblem, of the first."""
    found = open_providers(configs, url, SystemClock(), system_entropy)

    async def ask() -> list[ProviderProblem | None]:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(_problem_of(provider)) for provider in found.values()]
        return [task.result() for task in asked]

    for problem in asyncio.run(ask()) if found else ():
        if problem is not None:
            raise problem


async def _problem_of(provider: Provider) -> ProviderProblem | None:
    try:
        await provider.discover()
    except ProviderProblem as problem:
        return problem
    return None
