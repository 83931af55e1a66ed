"""Whom the dashboard answers, and what it lets a page do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from apbmm.dashboard.command import is_loopback
from apbmm.dashboard.guard import HEADERS, Guard, is_own, own_names

NAMES = own_names("cluster-7")


@dataclass
class Answer:
    """What was sent back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def _page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(guard: Guard, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
    """The guard's answer to one request."""
    answer = Answer()
    where, _, query = path.partition("?")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message["body"]

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": where,
        "query_string": query.encode(),
        "headers": [
            (name.encode(), value.encode())
            for name, value in {"host": "127.0.0.1:5757", **headers}.items()
        ],
    }
    asyncio.run(guard(scope, receive, send))
    return answer


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:5757", True),
        ("[::1]:5757", True),
        ("192.168.7.9:5757", True),
        ("localhost:5757", True),
        ("LocalHost", True),
        ("cluster-7:5757", True),
        ("rebound.example:5757", False),
        ("127.0.0.1.rebound.example:5757", False),
        ("localhost.rebound.example", False),
        ("", False),
    ],
)
def test_a_host_of_another_name_is_refused(host: str, answered: bool) -> None:
    assert is_own(host, NAMES) is answered
    assert ask(Guard(_page, NAMES), host=host).status == (200 if answered else 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(method: str) -> None:
    answer = ask(Guard(_page, NAMES), method=method)
    assert answer.status == 405
    assert b"the page" not in answer.body


def test_every_answer_says_what_a_page_may_do() -> None:
    for host in ("127.0.0.1", "rebound.example"):
        assert HEADERS.items() <= ask(Guard(_page, NAMES), host=host).headers.items()
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_token_is_taken_once_from_the_address_and_then_from_a_cookie() -> None:
    guard = Guard(_page, NAMES, token="right", cookie="kept")
    for path in ("/", "/?token=", "/?token=wrong", "/runs/x?token=righ", "/?other=right"):
        refused = ask(guard, path)
        assert refused.status == 403, path
        assert b"the page" not in refused.body
    taken = ask(guard, "//elsewhere.example/?token=right")
    assert (taken.status, taken.headers["location"]) == (303, "/")
    cookie = taken.headers["set-cookie"]
    assert cookie.startswith("kept=right;")
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert ask(guard, cookie="other=1; kept=right").body == b"the page"
    assert ask(guard, cookie="kept=wrong").status == 403
    assert ask(guard, cookie="kept=right", host="rebound.example").status == 403


def test_only_addresses_of_this_host_alone_need_no_token() -> None:
    assert [h for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost") if not is_loopback(h)] == []
    assert [h for h in ("0.0.0.0", "::", "10.0.0.1", "cluster-7") if is_loopback(h)] == []
