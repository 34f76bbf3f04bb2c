"""A server in a thread of the test, on a free port of the loopback, and raw requests to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from frameloom.workflows.serve.app import bound_socket, build_app, make_server
from frameloom.workflows.serve.security import ServeSettings


@dataclass(frozen=True)
class Running:
    """Where a server listens, and the application that runs there."""

    port: int
    app: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def service(self) -> Any:
        return self.app._app.state.service

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False, **options)

    def raw(self, data: bytes, *, shut: bool = False, seconds: float = 60) -> bytes:
        """What is answered to these bytes, until the server closes or, after a whole answer, the time is up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            found = b""
            try:
                while piece := connection.recv(65536):
                    found += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return found

    def get(self, target: str, *headers: str, method: str = "GET") -> bytes:
        """The answer to a request whose target goes out as it is written here."""
        lines = [f"{method} {target} HTTP/1.1", *(headers or [f"Host: 127.0.0.1:{self.port}"]), "Connection: close"]
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@contextmanager
def served(configs: Sequence[str | Path], **settings: Any) -> Iterator[Running]:
    """Run a server over projects for the length of a block."""
    chosen = ServeSettings(port=0, **{"answer_seconds": 600.0, **settings})  # a loaded machine is no fault
    app = build_app([str(one) for one in configs], chosen)
    held = bound_socket(chosen)
    server = make_server(app, chosen)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(trust_env=False, timeout=600) as client:
            while True:
                try:
                    client.get(f"http://127.0.0.1:{held.getsockname()[1]}/healthz", headers={"host": "127.0.0.1"})
                    break
                except httpx.TransportError:
                    assert thread.is_alive()
        yield Running(held.getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join(timeout=600)
        held.close()
        assert not thread.is_alive()
