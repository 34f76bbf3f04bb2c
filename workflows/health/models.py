"""The health of what a project trained: checkpoints and word vectors, each with the pointer that names it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from ..._files import file_sha256, set_aside
from ..._vocabulary import FrameloomError
from ...store.health import Finding, Kind, Repaired
from ...train import read_checkpoint
from ..project import CHECKPOINT_POINTER, CheckpointRef, Project, read_json

_VECTORS_REMEDY = "repair sets them aside, and the next sync trains them anew from the captions"
_RECORD_REMEDY = "repair sets it aside, and the next sync with its model writes it again"
_REMEDY = "the next sync trains it anew from the stored features"


def verify_models(project: Project) -> Iterator[Finding]:
    """Read every checkpoint and the word vectors, and compare them with what the pointers to them say."""
    damaged = set()
    for path in sorted((project.root / "models").glob("*/*/model.json")):
        if problem := _checkpoint_problem(path.parent):
            damaged.add(path.parent)
            yield Finding(kind=Kind.CHECKPOINT, path=path.parent, message=problem, remedy=_REMEDY)
    for pointer in sorted((project.root / "models").glob(f"*/{CHECKPOINT_POINTER}")):
        problem = "" if _folder_of(pointer) in damaged else _pointer_problem(pointer)
        if problem:
            yield Finding(kind=Kind.CHECKPOINT, path=pointer, message=problem, remedy=_REMEDY)
    for path in records_in(project.root):
        try:
            read_json(path)
        except (OSError, FrameloomError) as error:
            yield Finding(kind=Kind.CHECKPOINT, path=path, message=str(error), remedy=_RECORD_REMEDY)
    for pointer in vectors_pointers(project.root):
        if problem := _vectors_problem(pointer):
            yield Finding(kind=Kind.WORD_VECTORS, path=pointer, message=problem, remedy=_VECTORS_REMEDY)


def vectors_pointers(root: Path) -> list[Path]:
    """Which word vectors and word pieces are read, as files, be they there or not."""
    from ..project.kept import VECTORS_POINTERS

    return [root / "models" / name for name in VECTORS_POINTERS]


def records_in(root: Path) -> list[Path]:
    """Which models and tables the store keeps, as files."""
    from ..project.kept import PROJECT_KEPT, TABLES_NAME

    return sorted([*(root / "models").glob(f"*/{PROJECT_KEPT}"), root / "models" / TABLES_NAME])


def unused_models(project: Project) -> Iterator[Path]:
    """Checkpoints, and words learned from captions, that no table's rows are of and the configuration does not name.

    A training that was interrupted is kept: the next one goes on from it.
    """
    from ..project.kept import tables_in
    from ..project.pixels import start_folder

    models, begun = project.root / "models", start_folder(project.config, project.base)

    def is_begun_with(folder: Path) -> bool:
        return begun is not None and begun.resolve().is_relative_to(folder.resolve())

    used = {models / folder for folder in tables_in(project.root).values()} | {project.resolve().model_folder}
    for pointer in sorted(models.glob(f"*/{CHECKPOINT_POINTER}")):
        if pointer.parent not in used and not is_begun_with(pointer.parent):
            yield pointer.parent
        elif (current := _folder_of(pointer)) is not None:
            finished = (path.parent for path in sorted(pointer.parent.glob("*/model.json")))
            yield from (folder for folder in finished if folder != current and not is_begun_with(folder))
    kept = {
        str(known["file"]) for path in vectors_pointers(project.root) if (known := read_json(path, needs=("file",)))
    }
    yield from (path for path in sorted(models.glob("word_*-*")) if path.is_file() and path.name not in kept)


def drop_model(path: Path) -> None:
    """Remove a checkpoint, all of a model, or a file of words; what names others goes first."""
    from ..project.kept import PROJECT_KEPT

    for name in (CHECKPOINT_POINTER, PROJECT_KEPT, "model.json", "*/model.json"):
        for one in path.glob(name) if path.is_dir() else ():
            one.unlink()
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _checkpoint_problem(folder: Path) -> str:
    try:
        meta = read_checkpoint(folder)
        found = file_sha256(folder / meta.weights_file)
    except (OSError, FrameloomError) as error:
        return f"checkpoint {folder} cannot be read: {error}"
    if found != meta.weights_sha256:
        return f"checkpoint {folder}: the SHA-256 of its weights is {found}, {meta.weights_sha256} was written"
    return ""


def _pointer_problem(pointer: Path) -> str:
    folder = _folder_of(pointer)
    try:
        wanted = (read_json(pointer, needs=[key.name for key in fields(CheckpointRef)]) or {}).get("digest")
        found = None if folder is None else read_checkpoint(folder).digest
    except (OSError, FrameloomError) as error:
        return f"{pointer}: {error}"
    return "" if found == wanted else f"{pointer} names checkpoint {wanted}, and {folder} holds {found}"


def _folder_of(pointer: Path) -> Path | None:
    """The checkpoint that a pointer names; None where it names none in its own folder."""
    try:
        name = (read_json(pointer, needs=("folder",)) or {}).get("folder")
    except (OSError, FrameloomError):
        return None
    return pointer.parent / name if isinstance(name, str) and Path(name).name == name != ".." else None


def _vectors_problem(pointer: Path) -> str:
    try:
        known = read_json(pointer, needs=("file",))
        if known is None:
            return ""
        found = f"sha256:{file_sha256(pointer.parent / str(known['file']))}"
    except (OSError, FrameloomError) as error:
        return f"the word vectors cannot be read: {error}"
    wanted = known.get("sha256", found)  # older pointers do not say
    return "" if found == wanted else f"the word vectors {known['file']} have {found}, {wanted} was written"


def repair_models(project: Project, dry_run: bool) -> Iterator[Repaired]:
    for finding in list(verify_models(project)):
        kept, is_record = None, Path(finding.path) in records_in(project.root)
        for path in [] if dry_run else _involved(Path(finding.path)):
            models = project.root / "models"
            kept = set_aside(path, project.root / ".quarantine" / "models" / path.parent.relative_to(models))
        message = f"set aside; the next sync {'writes it again' if is_record else 'trains anew'}"
        yield Repaired(kind=finding.kind, path=finding.path, message=message, kept=kept)


def _involved(path: Path) -> list[Path]:
    """The target of a damaged pointer, or the pointers to a damaged checkpoint, and last the path itself."""
    if path in vectors_pointers(path.parent.parent):
        with suppress(OSError, FrameloomError):
            vectors = path.parent / str((read_json(path, needs=("file",)) or {}).get("file"))
            return [vectors, path] if vectors.is_file() and vectors.parent == path.parent != vectors else [path]
        return [path]
    folder = _folder_of(path)
    if path.name == CHECKPOINT_POINTER:
        return [folder, path] if folder is not None and folder.is_dir() else [path]
    pointer = path.parent / CHECKPOINT_POINTER
    return [pointer, path] if _folder_of(pointer) == path else [path]
