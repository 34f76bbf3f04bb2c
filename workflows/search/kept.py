"""A session that lives as long as what it was opened with stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ..project import Project
from .before import stamp_of
from .session import SearchSession

Session = TypeVar("Session", bound="SearchSession")


class KeptSession(Generic[Session]):
    """A session that is opened again when the configuration, a checkpoint or the table has changed.

    Args:
        path: the project's configuration.
        opened: makes a session of a project that was opened anew.
    """

    def __init__(self, path: Path, opened: Callable[[Project], Session]) -> None:
        self.path, self._opened = path, opened
        self._session: Session | None = None
        self._stamp: str | None = None

    def current(self) -> Session:
        """The session. Raises what `Project.open` and `SearchSession` do."""
        stamp = stamp_of(self.path)  # before it is read, so that no change between the two is missed
        if self._session is None or stamp != self._stamp or not self._session.is_current():
            self.close()
            self._session, self._stamp = self._opened(Project.open(self.path)), stamp
        return self._session

    def close(self) -> None:
        """End what the session keeps open. The next question opens another one."""
        if self._session is not None:
            self._session.close()
            self._session = None
