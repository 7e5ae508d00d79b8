"""The API described: OpenAPI 3.1, made from the tables of operations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args, get_origin

import msgspec

from warren import __version__
from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Operation

_NAME = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{name}"
_TEXTS = {
    "tailnet": "`-`, or the network's domain.",
    "device": "A machine's number or its stable id.",
    "invite": "An invitation's id.",
    "integration": "An integration's id.",
    "key": "A key's id.",
    "user": "A person's number.",
    "contact": "`account`, `support` or `security`.",
    "log": "`configuration` or `network`.",
    "service": "A service's name.",
    "request": "A waiting machine's id.",
    "version": "A version's number.",
    "webhook": "A webhook's id.",
    "attribute": "An attribute's name, which begins with `custom:`.",
}
_PROBLEMS = {
    "400": "The request makes no sense.",
    "401": "No credential, or one that is not known.",
    "403": "The credential is not for this.",
    "404": "What the path names does not exist.",
    "409": "The request clashes with what is there.",
    "429": "Too many requests; `Retry-After` says when to come back.",
    "501": "This server does not have that.",
    "503": "The database refuses changes.",
}


def describe(operations: Iterable[Operation], server: str, domain: str) -> dict[str, Any]:
    """Return the document. server: the API's URL. domain: the network's."""
    operations = list(operations)
    types = {_element(t) for o in operations for t in (o.takes, o.gives) if _is_shape(_element(t))}
    ordered = sorted({*types, shapes.Problem, shapes.AccessToken}, key=lambda t: t.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {"/oauth/token": {"post": _token()}}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, domain
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Warren",
            "version": __version__,
            "description": "Administration of a Warren network, for tools that speak API v2.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The API key as the user name, with an empty password.",
                },
            },
        },
    }


def _operation(operation: Operation, domain: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "description": (operation.work.__doc__ or "").strip(),
        "operationId": operation.work.__module__.rpartition(".")[2] + "." + operation.work.__name__,
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": _TEXTS[name],
                "schema": {"enum": ["-", domain]}
                if name == "tailnet"
                else {"type": "string", "minLength": 1},
            }
            for name in _NAME.findall(operation.path)
        ]
        + [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
            for name in operation.query
        ],
        "responses": {str(operation.status): _success(operation.gives)} | _problems(),
    }
    if operation.scope:
        described["description"] += f"\n\nNeeds the scope `{operation.scope}`."
    if operation.takes is bytes:
        text = {"schema": {"type": "string"}}
        content: dict[str, Any] = {"application/hujson": text, "application/json": {"schema": {}}}
        described["requestBody"] = {"required": True, "content": content}
    elif operation.takes is not None:
        described["requestBody"] = {"required": True, "content": _json(operation.takes)}
    return described


def _token() -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["client_id", "client_secret"],
        "properties": {
            "client_id": {"type": "string"},
            "client_secret": {"type": "string"},
            "grant_type": {"type": "string", "const": "client_credentials"},
            "scope": {"type": "string"},
        },
    }
    return {
        "summary": "Get an access token",
        "description": "For an OAuth client, with its id and secret (RFC 6749 §4.4).",
        "operationId": "oauth.token",
        "security": [],
        "requestBody": {
            "required": True,
            "content": {"application/x-www-form-urlencoded": {"schema": form}},
        },
        "responses": {"200": _success(shapes.AccessToken)} | _problems(),
    }


def _success(gives: Any) -> dict[str, Any]:
    if gives is bytes:
        text = {"schema": {"type": "string"}}
        return {
            "description": "The policy.",
            "content": {"application/hujson": text, "application/json": {"schema": {}}},
        }
    if gives is None:
        return {
            "description": "Done.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    return {
        "description": (gives.__doc__ if _is_shape(gives) else "") or "Done.",
        "content": _json(gives),
    }


def _problems() -> dict[str, Any]:
    schema = {"schema": {"$ref": _REF.format(name="Problem")}}
    return {
        status: {"description": text, "content": {"application/problem+json": schema}}
        for status, text in _PROBLEMS.items()
    }


def _json(kind: Any) -> dict[str, Any]:
    if _is_shape(element := _element(kind)):
        schema: dict[str, Any] = {"$ref": _REF.format(name=element.__name__)}
        if element is not kind:
            schema = {"type": "array", "items": schema}
        return {"application/json": {"schema": schema}}
    return {"application/json": {"schema": msgspec.json.schema(kind)}}


def _element(kind: Any) -> Any:
    """Return what a list is made of; what is no list, itself."""
    return get_args(kind)[0] if get_origin(kind) is list else kind


def _is_shape(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
