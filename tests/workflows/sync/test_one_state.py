"""A run reads the project once: one survey, one description of the model, however many clips there are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom.store import Ledger
from frameloom.workflows.project import Project
from frameloom.workflows.sync import make_plan, stages, status_of, survey
from frameloom.workflows.sync import rows as rows_stage
from frameloom.workflows.sync.executor import LocalExecutor
from frameloom.workflows.sync.tasks import EmbedJob
from helpers.projects import make_clip, run_sync, write_config

NUM_CLIPS = 20_000


def made_up_vectors(job: EmbedJob) -> dict[str, Any]:
    vectors = np.random.default_rng(len(job.clips)).standard_normal((len(job.clips), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {"video": (list(range(len(job.clips))), vectors)}


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synced project of one video and 20,000 spans of it, with a given checkpoint and made-up vectors."""
    from frameloom.fuse import create_model
    from frameloom.train import save_checkpoint

    make_clip(tmp_path / "one.mp4", colour="red", pitch=None)
    spans = ({"start_seconds": n % 1000 / 1000, "end_seconds": 1.5 + n // 1000 / 50} for n in range(NUM_CLIPS))
    rows = (json.dumps({"video": "one.mp4", **span}) + "\n" for span in spans)
    (tmp_path / "spans.jsonl").write_text("".join(rows))
    save_checkpoint(create_model("test_everything_at_once", video_dim=96), tmp_path / "given")
    write_config(
        tmp_path,
        collection={"videos": "spans.jsonl", "captions": None},
        features={"audio": None, "text": None},
        model={"checkpoint": "given"},
        store={"combinations": ["video"]},
    )
    monkeypatch.setattr(rows_stage, "embed_clips", made_up_vectors)
    monkeypatch.setattr(rows_stage, "ROWS_PER_COMMIT", NUM_CLIPS)
    assert run_sync(tmp_path).done["embedded"] == NUM_CLIPS
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files are opened as text, by name, and how often a collection is compared with the store."""
    counted: Counter[str] = Counter()
    read_text, digests = Path.read_text, Ledger.digests_of_files

    def reading(path: Path, *args: Any, **kwargs: Any) -> str:
        counted[path.name] += 1
        return read_text(path, *args, **kwargs)

    def comparing(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        counted["survey"] += 1
        return digests(ledger, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", reading)
    monkeypatch.setattr(Ledger, "digests_of_files", comparing)
    return counted


def test_a_sync_of_many_clips_with_nothing_to_do_reads_the_model_once(many: Path, reads: Counter[str]) -> None:
    report = run_sync(many)
    assert report.did_nothing
    assert (reads["model.json"], reads["survey"]) == (1, 1)
    reads.clear()
    assert make_plan(Project.open(many, read_only=True)).is_empty
    assert (reads["model.json"], reads["survey"]) == (1, 1)
    reads.clear()
    assert status_of(Project.open(many, read_only=True))["rows"] == NUM_CLIPS
    assert (reads["model.json"], reads["survey"]) == (1, 1)


def test_a_working_sync_takes_one_survey(synced: Path, reads: Counter[str]) -> None:
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
    assert run_sync(synced).done["extracted"] == 1
    assert reads["survey"] == 1


def test_jobs_are_made_without_workers(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Callable[..., Any]] = []
    monkeypatch.setattr(LocalExecutor, "map", started.append)
    make_clip(synced / "videos" / "new.mp4", colour="grey", pitch="high", seconds=1.0)
    project = Project.open(write_config(synced, run={"threads": 3}))
    jobs = list(stages.extract_jobs(project, survey(project).to_extract()))
    assert [job.threads for job in jobs] == [3]
    assert [item.video for job in jobs for item in job.items] == ["videos/new.mp4"]
    assert not started


def test_what_is_resolved_does_not_change_with_the_disk(synced: Path) -> None:
    project = Project.open(synced)
    resolved = project.resolve()
    assert resolved.checkpoint is not None
    (resolved.model_folder / "current.json").unlink()
    (project.root / "models" / "word_vectors.json").unlink()
    assert resolved.checkpoint.digest
    assert resolved.features.text is not None
    again = project.resolve()
    assert (again.checkpoint, again.features.text) == (None, None)
    assert again.model_key != resolved.model_key
