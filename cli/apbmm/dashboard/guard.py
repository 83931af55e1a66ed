"""Refuses requests that the dashboard must not answer, and says in every answer what a page may do.

- A request is for a host that is this one: an address, ``localhost``, or a name of this host. A
  page of another site, whose name someone has made to resolve to this address (DNS rebinding), asks
  for a host of its own.
- Where the dashboard can be reached from other hosts it demands a token, which the address that
  it prints has once, and a cookie from then on.
- Only GET and HEAD are answered: nothing is ever written.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"  # noqa: S105 - the name of a parameter
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def own_names(host: str) -> frozenset[str]:
    """The names by which this host may be asked: those of every host, its own, and ``host``."""
    own = {socket.gethostname(), socket.getfqdn(), host, "localhost"}
    return frozenset(name.lower() for name in own if name)


def is_own(asked: str, names: Iterable[str]) -> bool:
    """Whether the Host header of a request names this host: an address, or one of ``names``."""
    host = asked.rpartition("]")[0].removeprefix("[") if "]" in asked else asked.partition(":")[0]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in names
    return True


@dataclass(frozen=True)
class Guard:
    """ASGI middleware in front of ``app``.

    ``names`` are those of this host. ``token`` is "" where none is demanded; ``cookie`` is the name
    of the cookie that has it, for cookies are shared by all ports of a host.
    """

    app: ASGIApp
    names: frozenset[str]
    token: str = ""
    cookie: str = "apbmm-dashboard"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope) or self.app
        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer in place of the page's; None for a request that may be answered."""
        headers = Headers(scope=scope)
        if not is_own(headers.get("host", ""), self.names):
            return PlainTextResponse("this host is not called so: ask for its address\n", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("the dashboard only shows\n", 405)
        if not self.token or self._is_right(self._token_in(headers)):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get(TOKEN, [""])
        if not self._is_right(given[0]):
            return PlainTextResponse(
                "a token is needed: open the address that apbmm dashboard printed\n", 403
            )
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
        return answer

    def _is_right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _token_in(self, headers: Headers) -> str:
        """The token that the browser keeps; "" without one."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found else ""
