"""One identity provider: discovery, authorization code with PKCE, and ID tokens.

OpenID Connect Core 1.0 §3.1, Discovery 1.0, RFC 7636 (PKCE, S256), RFC 9207 (`iss` of the answer).
The cryptography and the rules of JSON Web Tokens are joserfc's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import msgspec
import structlog
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ExpiredTokenError,
    InvalidClaimError,
    InvalidKeyIdError,
    JoseError,
)
from joserfc.jwk import KeySet

from warren.coordinator.login.claims import NotAdmitted, ProviderProblem
from warren.coordinator.login.providers import ProviderConfig, is_safe_url
from warren.coordinator.login.sessions import Flow
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy

_log = structlog.get_logger("oidc")

SKEW_S = 120
"""How far a provider's clock may be from ours."""
_ALGORITHMS = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "Ed25519",
]  # fmt: skip
"""Signatures only: with a MAC under the client's secret, whoever has that could be anyone."""
_PATIENCE_S = 10.0
_MAX_ANSWER_BYTES = 1 << 20
_FRESH_S = 3600.0
# Unknown keys are asked for at most this often: anyone can make up their names.
_ASK_AGAIN_S = 10.0
# One that is away is left alone for a while, so that people hear of it at once.
_AWAY_S = 5.0


class Metadata(msgspec.Struct, frozen=True):
    """What a provider says of itself (Discovery 1.0 §3), as far as it matters here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class Provider:
    """Speaks to one provider. callback: where it sends people back to. secret: the client's."""

    def __init__(
        self, config: ProviderConfig, secret: str, callback: str, clock: Clock, entropy: Entropy
    ) -> None:
        self.config = config
        self._secret = secret
        self._callback = callback
        self._clock = clock
        self._entropy = entropy
        self._context: ssl.SSLContext | None = None
        self._known: tuple[float, Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._away: tuple[float, ProviderProblem] | None = None
        self._asking = asyncio.Lock()

    async def discover(self) -> None:
        """Fetch the provider's description and its keys. Raises ProviderProblem."""
        await self._read_keys(await self._read_metadata())

    async def begin(self, to: str, ends: int, *, anew: bool = False) -> tuple[str, Flow]:
        """Return where to send a browser, and what it must bring back. Raises ProviderProblem.

        anew: whoever is logged in at the provider already is asked once more.
        """
        metadata = await self._metadata()
        since = self._clock.wall().timestamp() if anew else 0.0
        texts = (self._text(), self._text(), self._text())
        flow = Flow(self.config.name, *texts, to, ends, since)
        challenge = hashlib.sha256(flow.verifier.encode()).digest()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.config.client_id,
                "redirect_uri": self._callback,
                "scope": " ".join(self.config.scopes),
                "state": flow.state,
                "nonce": flow.nonce,
                "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
                # The age makes a provider say when they logged in (§3.1.2.1), which is checked.
                **({"prompt": "login", "max_age": "0"} if anew else {}),
            }
        )
        joint = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{joint}{query}", flow

    async def finish(self, flow: Flow, answer: Mapping[str, str]) -> dict[str, Any]:
        """Return the claims for which a browser came back. Raises ProviderProblem, NotAdmitted."""
        label = self.config.label
        if not hmac.compare_digest(answer.get("state", "").encode(), flow.state.encode()):
            raise NotAdmitted("this log-in was not begun in this window; begin it again")
        metadata = await self._metadata()
        said = answer.get("iss", "")
        if said != metadata.issuer and (
            said or metadata.authorization_response_iss_parameter_supported
        ):
            raise NotAdmitted(f"the answer is of another provider than {label}")
        if "error" in answer:
            raise NotAdmitted(_why_not(label, answer))
        if not answer.get("code"):
            raise NotAdmitted(f"{label} sent you back without an answer; begin again")
        tokens = await self._exchange(metadata, answer["code"], flow.verifier)
        try:
            claims = await self.check(tokens.get("id_token"), flow.nonce)
            self._check_time(claims, flow.since)
        except ProviderProblem as problem:
            reason = str(problem.__cause__ or problem)[:200]
            _log.warning("an ID token was refused", provider=self.config.name, reason=reason)
            raise
        return await self._with_userinfo(metadata, claims, tokens.get("access_token"))

    async def _exchange(self, metadata: Metadata, code: str, verifier: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": verifier,
        }
        headers = {}
        methods = metadata.token_endpoint_auth_methods_supported
        if not self._secret:
            form["client_id"] = self.config.client_id
        elif "client_secret_basic" in methods or "client_secret_post" not in methods:
            # RFC 6749 §2.3.1: both are form-encoded before they are joined.
            pair = f"{quote(self.config.client_id, '')}:{quote(self._secret, '')}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self.config.client_id, "client_secret": self._secret}
        return await self._ask("POST", metadata.token_endpoint, headers, form, refusable=True)

    def know(self, metadata: Metadata, keys: KeySet) -> None:
        """Take over what was learned of the provider."""
        now = self._clock.now()
        self._known, self._keys = (now, metadata), (now, keys)

    async def check(self, token: Any, nonce: str) -> dict[str, Any]:
        """Return an ID token's claims (OpenID Connect Core §3.1.3.7). Raises ProviderProblem."""
        label, metadata = self.config.label, await self._metadata()
        if not isinstance(token, str):
            raise ProviderProblem(f"{label} gave no ID token; is openid among its scopes?")
        try:
            try:
                read = jwt.decode(token, await self._key_set(metadata), _ALGORITHMS)
            except (InvalidKeyIdError, BadSignatureError):
                # It signs with another key since we asked: that is how keys are changed.
                read = jwt.decode(token, await self._key_set(metadata, anew=True), _ALGORITHMS)
            claims = dict(read.claims)
            jwt.JWTClaimsRegistry(
                now=int(self._clock.wall().timestamp()),
                leeway=SKEW_S,
                iss={"essential": True, "value": metadata.issuer},
                aud={"essential": True, "value": self.config.client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            ).validate(claims)
            audience = claims["aud"]
            several = isinstance(audience, list) and len(audience) > 1
            if claims.get("azp", self.config.client_id) != self.config.client_id or (
                several and "azp" not in claims
            ):
                raise InvalidClaimError("azp", "the token is another client's")
        except ExpiredTokenError:
            raise ProviderProblem(
                f"the ID token of {label} has expired already; are both clocks right?"
            ) from None
        except (JoseError, ValueError, TypeError) as error:
            clock = "; are both clocks right?" if _is_of_time(error) else ""
            raise ProviderProblem(f"the ID token of {label} is not good{clock}") from error
        return claims

    def _check_time(self, claims: Mapping[str, Any], since: float) -> None:
        """Look that a person has logged in after `since`. Raises NotAdmitted, ProviderProblem."""
        label, when = self.config.label, claims.get("auth_time")
        if not since or (when is None and self.config.allow_no_auth_time):
            return
        if when is None:
            raise ProviderProblem(
                f"{label} does not say when you have logged in there, so that this log-in by SSH "
                "cannot be checked (its ID token has no auth_time); an administrator can set "
                f"allow-no-auth-time = true for the provider {self.config.name}"
            )
        if isinstance(when, bool) or not isinstance(when, int | float):
            raise ProviderProblem(f"the ID token of {label} is not good (auth_time)")
        if when < since - SKEW_S:
            raise NotAdmitted(f"{label} did not ask you anew; log out there, and begin again")

    async def _with_userinfo(
        self, metadata: Metadata, claims: dict[str, Any], access: Any
    ) -> dict[str, Any]:
        """Add what the provider tells beside the ID token: many tell groups only there (§5.3)."""
        if not metadata.userinfo_endpoint or not isinstance(access, str):
            return claims
        headers = {"authorization": f"Bearer {access}"}
        try:
            more = await self._ask("GET", metadata.userinfo_endpoint, headers)
        except ProviderProblem as problem:
            _log.warning("userinfo was not told", provider=self.config.name, reason=str(problem))
            return claims
        if more.get("sub") != claims["sub"]:
            raise ProviderProblem(f"{self.config.label} told of somebody else")
        return {**more, **claims}

    async def _metadata(self) -> Metadata:
        """Return the description, read anew each hour; an old one is better than none."""
        if self._known is not None and self._clock.now() - self._known[0] < _FRESH_S:
            return self._known[1]
        async with self._asking:
            # Whoever waited for somebody else's question takes over its answer.
            now = self._clock.now()
            if self._known is not None and now - self._known[0] < _FRESH_S:
                return self._known[1]
            if self._away is not None and now - self._away[0] < _AWAY_S:
                raise self._away[1]
            try:
                return await self._read_metadata()
            except ProviderProblem as problem:
                if self._known is None:
                    self._away = self._clock.now(), problem
                    raise
                # Asked again soon, though not by everybody who comes meanwhile.
                self._known = self._clock.now() - _FRESH_S + _ASK_AGAIN_S, self._known[1]
                return self._known[1]

    async def _read_metadata(self) -> Metadata:
        base = self.config.issuer.rstrip("/")
        found = await self._ask("GET", f"{base}/.well-known/openid-configuration")
        metadata = metadata_untrusted(found, self.config)
        self._known = self._clock.now(), metadata
        return metadata

    async def _key_set(self, metadata: Metadata, *, anew: bool = False) -> KeySet:
        known, now = self._keys, self._clock.now()
        if known is not None and now - known[0] < (_ASK_AGAIN_S if anew else _FRESH_S):
            return known[1]
        return await self._read_keys(metadata)

    async def _read_keys(self, metadata: Metadata) -> KeySet:
        found = await self._ask("GET", metadata.jwks_uri)
        try:
            keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ProviderProblem(f"the keys of {self.config.label} cannot be read") from error
        self._keys = self._clock.now(), keys
        return keys

    async def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        *,
        refusable: bool = False,
    ) -> dict[str, Any]:
        """Return an answer's JSON object. Raises ProviderProblem; NotAdmitted where `refusable`."""
        label, data = self.config.label, bytearray()
        try:
            async with (
                asyncio.timeout(_PATIENCE_S),
                httpx.AsyncClient(verify=self._trust(), timeout=_PATIENCE_S) as client,
                client.stream(
                    method,
                    url,
                    headers={"accept": "application/json", **(headers or {})},
                    data=form,
                ) as answer,
            ):
                async for piece in answer.aiter_bytes():
                    data += piece
                    if len(data) > _MAX_ANSWER_BYTES:
                        raise ProviderProblem(f"{label} answers with more than 1 MiB")
        except TimeoutError:
            raise ProviderProblem(f"{label} does not answer; try again later") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            _log.warning("a provider is away", provider=self.config.name, reason=repr(error))
            raise ProviderProblem(f"{label} cannot be reached now; try again later") from None
        try:
            found = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        if answer.status_code != 200:
            reason = found.get("error") if isinstance(found, dict) else None
            _log.warning(
                "a provider refused",
                provider=self.config.name,
                status=answer.status_code,
                reason=str(reason)[:200],
            )
            if refusable and reason == "invalid_grant":
                raise NotAdmitted(f"{label} does not take this log-in any more; begin it again")
            raise ProviderProblem(f"{label} answers with status {answer.status_code}")
        if not isinstance(found, dict):
            raise ProviderProblem(f"{label} answers with what is no JSON object")
        return found

    def _trust(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self.config.ca or None)
        return self._context

    def _text(self) -> str:
        return base64.urlsafe_b64encode(self._entropy(32)).rstrip(b"=").decode()


def metadata_untrusted(found: Mapping[str, Any], config: ProviderConfig) -> Metadata:
    """Read a provider's description of itself. Raises ProviderProblem."""
    try:
        metadata = msgspec.convert(found, Metadata)
    except msgspec.ValidationError as error:
        raise ProviderProblem(f"{config.label} describes itself badly: {error}") from None
    if metadata.issuer != config.issuer:
        raise ProviderProblem(
            f"the provider at {config.issuer} calls itself {metadata.issuer!r}; the issuer must "
            "be written exactly so"
        )
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
        url = getattr(metadata, name)
        absent = name == "userinfo_endpoint" and not url
        if not absent and not is_safe_url(url):
            raise ProviderProblem(f"{config.label} has a {name} that is no https:// URL")
    return metadata


def _why_not(label: str, answer: Mapping[str, str]) -> str:
    if answer["error"] == "access_denied":
        return f"{label} did not let you in, or you stopped the log-in there"
    told = answer.get("error_description", "")[:200]
    return f"{label} says: {answer['error'][:80]}" + (f" ({told})" if told else "")


def _is_of_time(error: Exception) -> bool:
    return isinstance(error, InvalidClaimError) and error.claim in ("iat", "nbf")
