"""Word vectors that a project trains of its own captions: which ones it reads words with, and when others are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.project import Project
from frameloom.workflows.sync import train_only
from helpers.projects import run_sync
from typer.testing import CliRunner

QUIET = Console(quiet=True)


def say(folder: Path, old: str, new: str) -> None:
    """Change a word of every caption."""
    path = folder / "captions.jsonl"
    path.write_text(path.read_text().replace(old, new))


def vectors_of(folder: Path) -> Path:
    found = Project.open(folder).features().word_vectors
    assert found is not None
    return found


def test_a_training_that_is_there_already_takes_its_word_vectors_back(synced: Path) -> None:
    own = vectors_of(synced)
    first, _ = train_only(Project.open(synced), QUIET)
    say(synced, "a red picture", "a crimson picture")
    train_only(Project.open(synced), QUIET)
    assert vectors_of(synced) != own
    say(synced, "a crimson picture", "a red picture")
    assert train_only(Project.open(synced), QUIET) == (first, False)
    assert vectors_of(synced) == own
    assert Project.open(synced).resolve().checkpoint == first
    assert run_sync(synced).done["trained"] == 0


def test_a_trial_of_a_recipe_leaves_the_project_as_it_was(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Project.open(synced).resolve()
    say(synced, "a red picture", "a crimson picture")
    monkeypatch.chdir(synced)
    done = CliRunner().invoke(app, ["train", "--recipe", "everything_at_once_tiny", "--force", "--quiet"])
    assert done.exit_code == 0, done.output
    assert Project.open(synced).resolve().features == before.features


def test_word_vectors_that_nothing_vouches_for_are_made_anew(synced: Path) -> None:
    own = vectors_of(synced)
    say(synced, "a red picture", "a crimson picture")
    train_only(Project.open(synced), QUIET)
    whole = own.read_bytes()
    own.write_bytes(vectors_of(synced).read_bytes())
    say(synced, "a crimson picture", "a red picture")
    assert not train_only(Project.open(synced), QUIET)[1]
    assert own.read_bytes() == whole
