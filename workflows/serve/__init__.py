"""Serve: a page and an HTTP API where people ask and the moment plays; and the same for programs by MCP."""

from .app import build_app, serve
from .security import ServeSettings

__all__ = ["ServeSettings", "build_app", "serve"]
