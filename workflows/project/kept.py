"""The models that a store keeps: how each is opened again, and which table has its rows.

Another model in `frameloom.yaml` leaves the last one as it was: its checkpoint in a folder of its own, its rows in a
table of its own. The first model of a store writes to `store.table`; every other one to that name and its own. So
questions can be asked of any of them (`query --model`), and any of them may judge another's candidates (`--rerank`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import publish_text
from ..._settings import Settings
from ..._vocabulary import InputError, IntegrityError
from .requests import Resolved

if TYPE_CHECKING:
    from .project import Project

PROJECT_KEPT = "project.json"
TABLES_NAME = "tables.json"
VECTORS_POINTERS = ("word_vectors.json", "word_pieces.json")
"""Which of the word vectors, or word pieces, that were learned here are read; one for each kind."""
_LONGEST_NAME = 63


class KeptModel(Settings):
    """A model of a store, current or not."""

    folder: str
    """Of its checkpoints, in the store's `models`."""
    model: str
    """Its registered name."""
    recipe: str
    """What it was trained by."""
    table: str | None
    """Where its rows are; None of a model that has only been trained."""


def read_json(path: Path, *, needs: Sequence[str] = ()) -> dict[str, Any] | None:
    """Read a small JSON file of ours; None where it does not exist. Raises IntegrityError when it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(needs) <= found.keys():
        raise IntegrityError(f"{path} is damaged: run `frameloom repair`, and the next sync makes it again")
    return found


def words_pointer(file: str) -> str:
    """The name of the pointer to a file of word vectors or word pieces."""
    return next((name for name in VECTORS_POINTERS if file.startswith(name.removesuffix(".json"))), VECTORS_POINTERS[0])


def kept_words(root: Path, file_name: str) -> dict[str, Any]:
    """The pointer to what a text backbone, whose files are called so, learned here; empty before.

    Older stores have one pointer for all, whatever kind of file it names.
    """
    own = words_pointer(file_name)
    for name in dict.fromkeys((own, VECTORS_POINTERS[0])):
        kept = read_json(root / "models" / name, needs=("file",))
        if kept is not None and words_pointer(str(kept["file"])) == own:
            return kept
    return {}


def tables_in(root: Path) -> Mapping[str, str]:
    """The tables of a store that are known by their model: table to the folder of its checkpoints."""
    return {name: str(folder) for name, folder in (read_json(root / "models" / TABLES_NAME) or {}).items()}


def table_of(root: Path, configured: str, model: str) -> str:
    """The table of a model: the configured one, unless that has another model's rows."""
    owner = tables_in(root).get(configured)
    if owner is None or owner.rpartition("-")[0] == model:
        return configured
    own = re.sub(r"[^a-z0-9_]", "_", model.lower())
    return f"{configured}_{own}"[:_LONGEST_NAME]


def keep_project(project: Project, resolved: Resolved, *, table: str | None = None) -> None:
    """Write down how a project is opened again with this model, and which table is the model's. Nothing if it is so.

    Args:
        project: of the configuration.
        resolved: of this run.
        table: the one that rows of this model are about to be written to.
    """
    kept = {
        "base": os.path.relpath(project.base, project.root),
        "config": json.loads(project.config.model_dump_json()),
    }
    models = resolved.model_folder.parent
    written: list[tuple[Path, Any]] = [(resolved.model_folder / PROJECT_KEPT, kept)]
    if table is not None:
        tables = {**tables_in(project.root), table: resolved.model_folder.name}
        written.append((models / TABLES_NAME, tables))
    for path, data in written:
        if not path.exists() or read_json(path) != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            publish_text(path, json.dumps(data, indent=1))


def kept_models(project: Project) -> list[KeptModel]:
    """Every model of a project's store that can be opened again, in the order of their folders."""
    owned = {folder: table for table, folder in tables_in(project.root).items()}
    found = []
    for path in sorted((project.root / "models").glob(f"*/{PROJECT_KEPT}")):
        kept = read_json(path, needs=("base", "config")) or {}
        folder = path.parent.name
        recipe = str(kept["config"].get("training", {}).get("recipe"))
        model = folder.rpartition("-")[0]
        found.append(KeptModel(folder=folder, model=model, recipe=recipe, table=owned.get(folder)))
    return found


def kept_project(project: Project, name: str) -> Project:
    """The project as it was with another model of its store; or another project.

    Args:
        project: in whose store models are looked for.
        name: a registered model, a recipe or a folder of `models`; or another project's configuration or folder.

    Raises:
        InputError: no such model, or several of that name.
        ConfigError: a configuration that cannot be.
    """
    from .config import parse_config
    from .project import CONFIG_NAME, Project

    path = project.base / Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or (path / CONFIG_NAME).is_file():
        return Project.open(path, read_only=project.read_only)
    if name in (project.model_name, project.recipe.name):
        return project
    models = kept_models(project)
    meant = [one for one in models if name in (one.folder, one.model, one.recipe)]
    meant = [one for one in meant if one.table is not None] or meant
    if not meant:
        known = ", ".join(sorted({project.model_name, *(one.model for one in models)}))
        raise InputError(
            f"no model {name!r:.80} in this store (there are: {known}): train it with `frameloom sync`, or give another"
            " project's frameloom.yaml"
        )
    if len(meant) > 1:
        folders = ", ".join(one.folder for one in meant)
        raise InputError(f"{len(meant)} models are called {name!r:.80}: name one of {folders}")
    where = project.root / "models" / meant[0].folder / PROJECT_KEPT
    kept = read_json(where, needs=("base", "config")) or {}
    config, root = parse_config(kept["config"], str(where)), project.root.absolute()
    store = config.store.model_copy(update={"path": str(root)})  # the same store, wherever its folder is now
    base = Path(os.path.normpath(root / str(kept["base"])))
    return Project(config.model_copy(update={"store": store}), base, read_only=project.read_only)
