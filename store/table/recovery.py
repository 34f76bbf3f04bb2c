"""A table after a kill, a power cut or damage: which of its versions is the newest that is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._vocabulary import IntegrityError
from .connection import Connection, brief
from .rows import altered_rows, bad_rows
from .versions import TableFolder


def recover(
    connection: Connection, folder: TableFolder, read_rows: Callable[[], Any], last_durable_version: int | None
) -> list[str]:
    """Bring a table to a version that opens. For the holder of the writer lock, before the first read of a run.

    A version that was never acknowledged and cannot be read whole is set aside: its manifest is moved to
    ``.quarantine`` next to the table, and the version before it is the newest again. One that can be read is made
    durable. Older versions that are damaged are set aside.

    Args:
        connection: of the table.
        folder: its files.
        read_rows: raises IntegrityError where an id is there more than once.
        last_durable_version: from the ledger; None when it is not known.

    Returns:
        a sentence for each thing that was done; none when all is well.

    Raises:
        IntegrityError: a version that was acknowledged cannot be read, or is not what was written.
    """
    done = list[str]()
    folder.sweep()
    damaged = folder.damaged_versions()
    if damaged and (last_durable_version is None or folder.head_version() not in damaged):
        done += [f"{connection.name}: {one}" for one in folder.set_aside_damage()]
    elif folder.head_version() is not None and not folder.is_noted():
        folder.sync_since(set())
    while (head := folder.head_version()) is not None:
        if head == last_durable_version:
            if head in folder.damaged_versions():
                connection.open()  # raises
            read_rows()
            return done
        problem = _damage(connection)
        if problem is None:
            folder.sync_since(set())
            break
        if head > 1 and head <= (last_durable_version or 0):
            raise IntegrityError(f"{connection.name} is damaged at version {head}: {problem}; {connection.remedy}")
        kept = folder.quarantine(head)
        done.append(f"{connection.name}: version {head} was never finished ({problem}); set aside as {kept}")
    if (head or 0) < (last_durable_version or 0):
        done.append(
            f"{connection.name} is at version {head}, {last_durable_version} had been written; missing rows are "
            "embedded anew"
        )
    return done


def _damage(connection: Connection) -> str | None:
    """What is wrong with the newest version, reading all of it; None when it is whole."""
    num_bad = 0
    try:
        table = connection.open()
        with connection.translated():
            for batch in table.search().select(table.schema.names).to_batches(8192):
                batch.validate(full=True)
                num_bad += len({*bad_rows(batch), *altered_rows(batch)})
    except (IntegrityError, ValueError) as error:  # of Arrow: a text that is not UTF-8, or a list without its items
        return brief(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    return f"{num_bad} rows are not what was written" if num_bad else None
