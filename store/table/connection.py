"""One table as LanceDB opens it: its handle, and its errors as ours.

LanceDB raises plain Python errors, for a filter that is wrong as for a disk that fails. What a user can do follows from
which of them it is.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..._files import out_of_space, system_error
from ..._vocabulary import ConfigError, FrameloomError, InputError, IntegrityError
from .filters import bracketed, check_filter, shown
from .rows import READABLE_FORMATS, TABLE_FORMAT
from .versions import TableFolder


class Connection:
    """A LanceDB database and the name of a table in it. Connects by itself, again in a process that was forked.

    Args:
        uri: of the database.
        name: of the table.
        folder: the table's files, where they are in a folder.

    Attributes:
        name: the table, for messages.
        remedy: what helps when it is damaged, for messages.
    """

    def __init__(self, uri: str, name: str, folder: TableFolder | None) -> None:
        self._uri, self._name, self._folder = uri, name, folder
        self.name = f"table {name!r} in {uri}"
        self.remedy = "run `frameloom repair`, then `frameloom sync`, which embeds the stored features anew"
        self._database: Any = None
        self._session: Any = None  # LanceDB's caches, which both kinds of handles share
        self._process = 0

    def database(self) -> Any:
        """LanceDB's own connection."""
        if self._database is None or self._process != os.getpid():
            _defer_rest_client()
            import lancedb

            self._session = lancedb.Session.default()
            # No caching of versions: what another process committed is seen by the next call.
            always = datetime.timedelta(0)
            self._database = lancedb.connect(self._uri, read_consistency_interval=always, session=self._session)
            self._process = os.getpid()
        return self._database

    def exists(self) -> bool:
        """Whether the table has been created. Of a table in a folder, LanceDB is not asked."""
        if self._folder is not None:
            return self._folder.head_version() is not None
        return self._name in self.database().list_tables().tables

    def open(self) -> Any:
        """The newest version. Raises InputError without a table, IntegrityError, or ConfigError for another format."""
        if not self.exists():
            raise InputError(f"there is no table {self._name!r} in {self._uri}; run embed or sync first")
        if self._folder is not None and self._folder.head_version() in self._folder.damaged_versions():
            # It is not shown to the library, which may end the process.
            raise IntegrityError(
                f"{self.name}: the files of its newest version are not what was written; {self.remedy}"
            )
        with self.translated():
            table = self.database().open_table(self._name)
        if not table.schema.names:  # a manifest of zeros, which a power cut can leave, opens as an empty one
            raise IntegrityError(f"{self.name} has no columns; {self.remedy}")
        found = (table.schema.metadata or {}).get(b"frameloom.format", b"none").decode()
        if found not in READABLE_FORMATS:
            raise ConfigError(f"{self.name} has format {found}, this version reads {TABLE_FORMAT}; {self.remedy}")
        return table

    def open_async(self, version: int) -> Any:
        """LanceDB's asynchronous handle on one version, for coroutines that its own loop runs."""
        import lancedb
        from lancedb.background_loop import LOOP

        self.database()

        async def opened() -> Any:
            database = await lancedb.connect_async(self._uri, session=self._session)
            table = await database.open_table(self._name)
            await table.checkout(version)
            return table

        return LOOP.run(opened())

    @contextmanager
    def translated(self, where: str | None = None, table: Any = None) -> Iterator[None]:
        """Check a filter; turn the library's errors and panics into ours: InputError where the filter is why."""
        if where is not None:
            check_filter(where, table.schema.names)
        try:
            yield
        except Exception as error:
            # A panic of its Rust code has a class of its own that cannot be imported.
            is_theirs = isinstance(error, ValueError | RuntimeError | OSError) or type(error).__name__ == "RustPanic"
            if isinstance(error, FrameloomError) or not is_theirs:
                raise
            if where is not None and _is_of_filter(table, where):
                raise InputError(f"the filter {shown(where)} is not right: {brief(error)}") from error
            named = re.search(r"\(os error (\d+)\)", str(error))
            number = int(named[1]) if named else getattr(error, "errno", None)
            if number and (explained := system_error(OSError(number, brief(error)), self.name)) is not None:
                raise explained from error
            if "No space left" in str(error):
                raise out_of_space(self.name) from error
            raise IntegrityError(f"{self.name}: {brief(error)}; {self.remedy}") from error


def _is_of_filter(table: Any, where: str) -> bool:
    """Whether a filter is why a question failed: it cannot be planned, or all rows can be read without it."""
    try:
        table.search().where(bracketed(where)).explain_plan()
    except (ValueError, RuntimeError, OSError):
        return True
    try:
        for _ in table.search().select([name for name in table.schema.names if name != "vector"]).to_batches(8192):
            pass
    except Exception:  # noqa: BLE001 - a panic has a class that cannot be imported
        return False
    return True


def brief(error: Exception) -> str:
    """The library's sentence without the place in its source."""
    text = str(error).splitlines()[0].removeprefix("Invalid input, ").removeprefix("lance error: ")
    return re.sub(r",? /\S+\.rs:\d+(:\d+)?$", "", text)[:300].rstrip(". ")


def _defer_rest_client() -> None:
    """Have LanceDB's client of REST catalogues run when it is first asked for: a third of the time of the import.

    LanceDB imports the classes of its requests, which lie in the same package and are loaded as ever.
    """
    name = "lance_namespace_urllib3_client"
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or (loader := spec.loader) is None:
        return
    package: Any = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))

    def loaded(attribute: str) -> Any:
        del package.__getattr__
        try:
            loader.exec_module(package)
        except BaseException:
            package.__getattr__ = loaded
            raise
        return getattr(package, attribute)

    package.__getattr__ = loaded
