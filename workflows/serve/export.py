"""A project's clips with their vectors as Parquet: a map of them is drawn by embedding-atlas, which reads that."""

from __future__ import annotations

from pathlib import Path

from .projects import ServedProject, title_of, video_id
from .security import Refused

_COLUMNS = ("clip", "video", "modalities", "start_seconds", "end_seconds", "split", "captions", "vector")


def write_map(project: ServedProject) -> Path:
    """Write clip, video, title, seconds, split, text, metadata and vector of each clip's primary row; no paths.

    Made once for each version of the table, into the project's temporary folder.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    session = project.session
    path = project.folder / f"{session.table.version()}.parquet"
    if path.exists():
        return path
    metadata = list(session.table.metadata_types())
    taken = {"text", "title", *_COLUMNS}
    names = {name: f"metadata {name}" if name in taken else name for name in metadata}
    kept = [*_COLUMNS, "is_primary", "model", *metadata]
    writer, aside = None, path.with_suffix(".tmp")
    try:
        for batch in session.table.batches(kept):
            rows = pa.Table.from_batches([batch])
            wanted = pc.and_(rows["is_primary"], pc.equal(rows["model"], session.checkpoint.digest))
            rows = rows.filter(wanted)
            videos = rows["video"].to_pylist()
            captions = rows["captions"].to_pylist()
            texts = [" / ".join(one or []) or title_of(name) for one, name in zip(captions, videos, strict=True)]
            columns = {name: rows[name] for name in ("clip", "modalities", "start_seconds", "end_seconds", "split")}
            columns |= {
                "video": pa.array([video_id(one) for one in videos], pa.string()),
                "title": pa.array([title_of(one) for one in videos], pa.string()),
                "text": pa.array(texts, pa.string()),
                **{names[name]: rows[name] for name in metadata},
                "vector": rows["vector"],
            }
            part = pa.table(columns)
            writer = writer or pq.ParquetWriter(aside, part.schema, compression="zstd")
            writer.write_table(part)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise Refused(409, "nothing is indexed: run `frameloom sync`")
    for older in project.folder.glob("*.parquet"):
        older.unlink()
    aside.replace(path)
    return path
