"""What tools of others may ask for and this server does not have: said in words, not hidden.

Lists are empty, what a name would name is not found, and making one is refused with 501.
"""

from __future__ import annotations

from typing import Any

from warren.coordinator.api.operation import Call, NotOffered, Operation, node_of
from warren.coordinator.refusal import NotFound

_LOGS = "read /tailnet/-/logging/configuration instead, or subscribe to webhooks"


async def posture_integrations(call: Call) -> dict[str, list[Any]]:
    """List services that would report on machines: none."""
    return {"integrations": []}


async def add_posture_integration(call: Call) -> object:
    """Refused: attributes are set by a program of yours."""
    raise NotOffered(
        "this server asks no other service about machines; set posture attributes with "
        "/device/{id}/attributes"
    )


async def posture_integration(call: Call) -> object:
    """Return an integration: there is none."""
    raise NotFound(f"there is no integration {call.path['integration'][:80]!r}")


async def change_posture_integration(call: Call) -> object:
    """Change an integration: there is none."""
    return await posture_integration(call)


async def delete_posture_integration(call: Call) -> object:
    """Remove an integration: there is none."""
    return await posture_integration(call)


async def device_invites(call: Call) -> list[Any]:
    """List invitations to share a machine: none."""
    node_of(call.snapshot, call.path["device"])
    return []


async def add_device_invite(call: Call) -> object:
    """Refused: machines are in one network."""
    node_of(call.snapshot, call.path["device"])
    raise NotOffered("this server shares no machines with other networks; invite their people here")


async def device_invite(call: Call) -> object:
    """Return an invitation to share a machine: there is none."""
    raise NotFound(f"there is no invitation {call.path['invite'][:80]!r}")


async def delete_device_invite(call: Call) -> object:
    """Remove an invitation to share a machine: there is none."""
    return await device_invite(call)


async def services(call: Call) -> dict[str, list[Any]]:
    """List services with addresses of their own: none."""
    return {"vipServices": []}


async def service(call: Call) -> object:
    """Return a service: there is none."""
    raise NotFound(f"there is no service {call.path['service'][:80]!r}")


async def delete_service(call: Call) -> object:
    """Remove a service: there is none."""
    raise NotFound(f"there is no service {call.path['service'][:80]!r}")


async def set_service(call: Call) -> object:
    """Refused: only machines have addresses."""
    raise NotOffered("this server gives addresses to machines only")


async def stream(call: Call) -> object:
    """Return where a log is sent: nowhere."""
    raise NotFound(f"this server sends its logs nowhere; {_LOGS}")


async def set_stream(call: Call) -> object:
    """Refused: logs are read here, not sent away."""
    raise NotOffered(f"this server sends its logs nowhere; {_LOGS}")


async def delete_stream(call: Call) -> object:
    """Stop sending a log: none is sent."""
    raise NotFound(f"this server sends its logs nowhere; {_LOGS}")


async def network_log(call: Call) -> object:
    """Refused: nobody here hears of a machine's connections."""
    raise NotOffered("this server is not told what machines send to each other, and logs none")


async def external_id(call: Call) -> object:
    """Refused: logs go to no bucket."""
    raise NotOffered(f"this server sends its logs nowhere; {_LOGS}")


_T = "/tailnet/{tailnet}"
_SETTINGS, _LOGGING = "feature_settings", "logs:configuration"
OPERATIONS = (
    Operation("GET", f"{_T}/posture/integrations", f"{_SETTINGS}:read",
              "List posture integrations (none)", posture_integrations, gives=dict),
    Operation("POST", f"{_T}/posture/integrations", _SETTINGS,
              "Not offered: posture integrations", add_posture_integration),
    *(
        Operation(method, f"{_T}/posture/integrations/{{integration}}", scope,
                  f"{word} a posture integration (there is none)", work)
        for method, scope, word, work in (
            ("GET", f"{_SETTINGS}:read", "Return", posture_integration),
            ("PATCH", _SETTINGS, "Change", change_posture_integration),
            ("DELETE", _SETTINGS, "Remove", delete_posture_integration),
        )
    ),
    Operation("GET", "/device/{device}/device-invites", "devices:core:read",
              "List invitations to share a machine (none)", device_invites, gives=list),
    Operation("POST", "/device/{device}/device-invites", "devices:core",
              "Not offered: sharing machines", add_device_invite),
    Operation("GET", "/device-invites/{invite}", "devices:core:read",
              "Return an invitation to share a machine (there is none)", device_invite),
    Operation("DELETE", "/device-invites/{invite}", "devices:core",
              "Remove an invitation to share a machine (there is none)", delete_device_invite),
    Operation("GET", f"{_T}/vip-services", f"{_SETTINGS}:read",
              "List services (none)", services, gives=dict),
    Operation("GET", f"{_T}/vip-services/{{service}}", f"{_SETTINGS}:read",
              "Return a service (there is none)", service),
    Operation("DELETE", f"{_T}/vip-services/{{service}}", _SETTINGS,
              "Remove a service (there is none)", delete_service),
    Operation("PUT", f"{_T}/vip-services/{{service}}", _SETTINGS,
              "Not offered: services", set_service),
    Operation("GET", f"{_T}/logging/{{log}}/stream", f"{_LOGGING}:read",
              "Return where a log is sent (nowhere)", stream),
    Operation("PUT", f"{_T}/logging/{{log}}/stream", _LOGGING,
              "Not offered: log streaming", set_stream),
    Operation("DELETE", f"{_T}/logging/{{log}}/stream", _LOGGING,
              "Stop sending a log (none is)", delete_stream),
    Operation("GET", f"{_T}/logging/network", f"{_LOGGING}:read",
              "Not offered: flow logs", network_log),
    Operation("POST", f"{_T}/aws-external-id", _LOGGING,
              "Not offered: logs to a bucket", external_id),
)  # fmt: skip
