"""What is exported comes back as it was, whatever its videos are called: numbers, times and keys."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from frameloom._vocabulary import ExitCode
from frameloom.workflows.exchange.exporting import export
from frameloom.workflows.exchange.importing import ImportRequest, import_into
from frameloom.workflows.project.project import Project
from helpers.exchanging import QUIET, configure, contents, fill, make_files
from hypothesis import example, given, settings
from hypothesis import strategies as st

PART = st.text(st.sampled_from("aA.~ é\u0301五_-\\'\"#%"), min_size=1, max_size=6).filter(
    lambda part: part not in (".", "..") and not part.startswith(".")
)
KEYS = st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6, unique=True)
TWINS = ["a", "A", "a.b", "a b", "a/b", "A/b", "é", "e\u0301", "a.npy", "a.times", "a.mp4", "a~1", "s/a.npy/b"]


@settings(max_examples=6, deadline=None)
@given(keys=KEYS)
@example(keys=TWINS)
def test_any_names_come_back_with_what_is_theirs(keys: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, out = Path(made, "project"), Path(made, "out")
        folder.mkdir()
        make_files(folder, tuple(f"videos/{key}.mp4" for key in keys))
        project = Project.open(configure(folder))
        fill(project)
        before = contents(project)
        report = export(Project.open(folder, read_only=True), out, format="npy", console=QUIET)
        assert report.num_pending == 0
        shutil.rmtree(folder / ".frameloom")
        fresh = Project.open(folder)
        for kind in ("video", "audio", "text"):
            found = import_into(fresh, ImportRequest(path=out, layout="frameloom", feature=kind), QUIET)
            assert (found.exit_code, found.unmatched, found.without) == (ExitCode.OK, (), ())
        assert contents(fresh) == before
