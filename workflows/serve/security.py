"""What a request passes before the API: host, origin, token, number and size of requests, slow clients, headers.

Faults that this stops: DNS rebinding (a page of another name that resolves to this machine), posts from other pages,
guessed tokens, bodies larger than memory or disk, and clients that hold a connection by sending or reading slowly.
`Guard` is plain ASGI and wraps everything; `ImpatientProtocol` knows what ASGI does not: heads that never end, and
answers that nobody reads.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
from http.cookies import CookieError, SimpleCookie
from itertools import chain
from typing import Any

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..._settings import Listed, Settings

COOKIE = "frameloom"
IS_HEAD = "frameloom.is_head"
API = "/api/"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_MOST_HEAD = 32 * 1024
_SMALL_BODY = 64 * 1024
_BODY_GAP_SECONDS = 10.0
_BODY_BYTES_A_SECOND = 32 * 1024
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self';"
        " form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}
TITLES = {
    400: "Bad request", 401: "Token needed", 403: "Refused", 404: "Not found", 405: "Method not allowed",
    408: "Too slow", 409: "Not possible now", 413: "Too large", 415: "Not a readable file", 416: "No such range",
    421: "Unknown host", 422: "Wrong question", 431: "Too large", 500: "Fault of the server", 503: "Busy",
    505: "Unknown version",
}  # fmt: skip


class ServeSettings(Settings):
    """Where the server listens and what a client may cost.

    Attributes:
        host: an address of this machine. Any but a loopback address demands a token.
        port: 0 takes a free one.
        token: what clients must know; at least 16 characters.
        allowed_hosts: further names under which clients may reach the server, such as that of a proxy.
        upload_bytes: largest file of a question.
        upload_seconds: longest content of such a file.
        upload_pixels: its largest picture, width times height.
        decode_seconds: time for decoding one file.
        cache_bytes: of thumbnails and sprites on disk.
        queue: questions that wait before others are refused with 503.
        requests: requests that are answered at once, before others are refused with 503.
        patience_seconds: for the head of a request, and for a client that does not read.
        answer_seconds: from the whole request to the head of its answer, before it is given up with 503.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8420, ge=0, le=65535)
    token: str | None = Field(default=None, min_length=SHORTEST_TOKEN)
    allowed_hosts: Listed[str] = ()
    upload_bytes: int = Field(default=64 * 2**20, ge=1)
    upload_seconds: float = Field(default=120.0, gt=0)
    upload_pixels: int = Field(default=3840 * 2160, ge=1)
    decode_seconds: float = Field(default=30.0, gt=0)
    cache_bytes: int = Field(default=512 * 2**20, ge=0)
    queue: int = Field(default=256, ge=1)
    requests: int = Field(default=512, ge=1)
    patience_seconds: float = Field(default=10.0, gt=0)
    answer_seconds: float = Field(default=60.0, gt=0)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Refused(HTTPException):
    """A request that is answered with a problem (RFC 9457)."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(status, detail, headers=named or None)


def problem(status: int, detail: str, headers: Any = None, **more: Any) -> JSONResponse:
    """An answer in `application/problem+json`."""
    body = {"type": "about:blank", "title": TITLES.get(status, "Refused"), "status": status, "detail": detail, **more}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def busy(detail: str = "more questions are waiting than can be answered: ask again in a second") -> Refused:
    """For what is refused now and can be asked again."""
    return Refused(503, detail, retry_after="1")


def session_cookie(token: str) -> str:
    """What a browser keeps in place of the token, for pictures and videos, which cannot send one."""
    return hmac.new(token.encode(), b"frameloom session", hashlib.sha256).hexdigest()


class Guard:
    """The outermost layer of the application: refuses, counts, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if b"cache-control" not in known:
                    more.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            self._check(scope)
        except Refused as refused:
            headers = {**(refused.headers or {}), "connection": "close"}
            await problem(refused.status_code, refused.detail, headers)(scope, receive, with_headers)
            return
        deadline = asyncio.timeout(self._settings.answer_seconds)

        async def in_time(message: Message) -> None:
            deadline.reschedule(None)  # how long the rest takes is the client's affair
            await with_headers(message)

        if scope["method"] == "HEAD":  # answered as GET is; uvicorn leaves out the body
            scope = {**scope, "method": "GET", IS_HEAD: True}
        self._in_flight += 1
        try:
            async with deadline:
                await self._app(scope, self._limited(scope, receive, deadline), in_time)
        except TimeoutError:
            if not deadline.expired():
                raise
            late = busy("the answer took too long: ask again later")
            await problem(late.status_code, late.detail, late.headers)(scope, receive, with_headers)
        finally:
            self._in_flight -= 1

    def _check(self, scope: Scope) -> None:
        """Raises Refused for what is answered before anything of it is looked at."""
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Refused(505, "this server speaks HTTP/1.1")
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(map(len, chain(*scope["headers"])))
        if size > _MOST_HEAD:
            raise Refused(431, f"a head of {size:,} bytes: {_MOST_HEAD:,} are allowed")
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        host = headers.get("host", [])
        if not scope["path"].startswith("/") or len(host) != 1 or not (named := _HOST.fullmatch(host[0])):
            raise Refused(400, "one Host header and a path that begins with / are needed")
        if not self._is_allowed(named["name"]):
            raise Refused(421, "this server does not go by that name: start it with --allow-host NAME")
        is_api = scope["path"].startswith(API)
        site = headers.get("sec-fetch-site", ["none"])
        if is_api and any(one not in ("none", "same-origin") for one in site):
            raise Refused(403, "another site's pages may not use this server")
        if any(one.removeprefix("http://").removeprefix("https://") != host[0] for one in headers.get("origin", [])):
            raise Refused(403, "another site's pages may not use this server")
        if is_api and self._settings.token is not None and not self._is_known(headers, self._settings.token):
            detail = "give the token that `frameloom serve` printed: Authorization: Bearer TOKEN"
            raise Refused(401, detail, www_authenticate="Bearer")
        length = headers.get("content-length", ["0"])
        if len(length) != 1 or not length[0].isdecimal():
            raise Refused(400, "Content-Length is not a number")
        if int(length[0]) > (most := self._most_bytes(scope)):
            raise Refused(413, f"a body of {int(length[0]):,} bytes: {most:,} are allowed")
        if self._in_flight >= self._settings.requests:
            raise busy()

    def _most_bytes(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and scope["path"].endswith("/questions")
        return self._settings.upload_bytes if is_upload else _SMALL_BODY

    def _is_allowed(self, host: str) -> bool:
        host = host.strip("[]").lower().removesuffix(".")
        if host in (*LOOPBACK, self._settings.host, *map(str.lower, self._settings.allowed_hosts)):
            return True
        if self._settings.is_local:
            return False
        try:  # a name may resolve to anything tomorrow; an address is what it is
            return bool(ipaddress.ip_address(host))
        except ValueError:
            return False

    def _is_known(self, headers: dict[str, list[str]], token: str) -> bool:
        """Whether a request has the token, or the cookie made of it. Compared in constant time."""
        given = headers.get("authorization", [])
        if len(given) == 1 and given[0][:7].lower() == "bearer ":
            return hmac.compare_digest(given[0][7:].strip().encode(), token.encode())
        try:
            cookies = SimpleCookie("; ".join(headers.get("cookie", [])))
        except CookieError:
            return False
        kept = cookies[COOKIE].value if COOKIE in cookies else ""
        return hmac.compare_digest(kept.encode(), session_cookie(token).encode())

    def _limited(self, scope: Scope, receive: Receive, deadline: asyncio.Timeout) -> Receive:
        """The body, counted as it comes, and given up where it comes too slowly. The deadline moves on with it."""
        most, started, found = self._most_bytes(scope), time.monotonic(), 0
        gap = min(_BODY_GAP_SECONDS, self._settings.patience_seconds)
        is_whole = False

        async def limited() -> Message:
            nonlocal found, is_whole
            if is_whole:  # what comes now is the end of the connection, however late
                return await receive()
            try:
                async with asyncio.timeout(gap):
                    message = await receive()
            except TimeoutError:
                raise Refused(408, "the body of the request did not come", connection="close") from None
            deadline.reschedule(asyncio.get_running_loop().time() + self._settings.answer_seconds)
            found += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if found > most:
                raise Refused(413, f"a body of more than {most:,} bytes", connection="close")
            if time.monotonic() - started > gap + found / _BODY_BYTES_A_SECOND:
                raise Refused(408, "the body of the request comes too slowly", connection="close")
            return message

        return limited


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which also ends connections whose next request never comes whole, or that are never read."""

    patience_seconds = 10.0
    most_connections = 1000

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._waiting: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._waiting, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete and self._waiting is not None:
            self._waiting.cancel()

    def on_response_complete(self) -> None:
        self._wait_for_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        # A video that is paused is not read, and asked for again, from there on, when it goes on.
        self._writing = self.loop.call_later(6 * self.patience_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def _wait_for_head(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(self.patience_seconds, self._give_up)

    def _give_up(self) -> None:
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
