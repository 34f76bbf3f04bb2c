"""Many small syncs: disk use and number of files stay bounded, and questions are answered all along."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from frameloom.store.table import lance
from frameloom.workflows.index import Index
from helpers.projects import COLOURS, make_clip, run_sync, write_config

FEATURES: dict[str, Any] = {
    "video": {"backbone": "test_classes"},
    "audio": None,
    "text": {"backbone": "test_bert", "options": {"pooling": "mean_of_all"}},
}


def make_project(folder: Path) -> None:
    """Four clips, and a model that is put together and not trained."""
    for colour in COLOURS:
        (folder / "videos").mkdir(exist_ok=True)
        make_clip(folder / "videos" / f"{colour}.mp4", colour=colour, pitch=None, seconds=0.5)
    write_config(
        folder,
        collection={"captions": None},
        features=FEATURES,
        model={"name": None},
        training={"recipe": "imagenet_labels", "overrides": {}},
        store={"combinations": ["video"]},
    )


def change(path: Path, number: int) -> None:
    """Another file of the same pictures: a box at its end that players pass over."""
    content = number.to_bytes(4, "big")
    with path.open("ab") as file:
        file.write((8 + len(content)).to_bytes(4, "big") + b"free" + content)


def files_and_bytes(folder: Path) -> tuple[int, int]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return len(found), sum(path.stat().st_size for path in found)


def run_syncs(folder: Path, number: int) -> list[dict[str, tuple[int, int]]]:
    """Sync that often, one file changed before each, while a thread asks. Returns sizes after each sync."""
    make_project(folder)
    run_sync(folder)
    wrong: list[Any] = []
    asked, done = [0], threading.Event()

    def ask() -> None:
        index = Index(folder)
        while not done.is_set():
            try:
                found = sorted(one.video for one in index.search("a red picture", top=100))
            except Exception as error:  # noqa: BLE001 - whatever it is, the test fails
                wrong.append(error)
                return
            asked[0] += 1
            if found != sorted(f"videos/{colour}.mp4" for colour in COLOURS):
                wrong.append(found)

    thread = threading.Thread(target=ask)
    thread.start()
    sizes = []
    try:
        for each in range(number):
            change(folder / "videos" / f"{[*COLOURS][each % 4]}.mp4", each)
            report = run_sync(folder)
            assert (report.done["extracted"], report.done["embedded"]) == (1, 1)
            sizes.append(
                {
                    "table": files_and_bytes(folder / ".frameloom" / "vectors"),
                    "all": files_and_bytes(folder / ".frameloom"),
                }
            )
    finally:
        done.set()
        thread.join()
    assert not wrong
    assert asked[0] >= number // 10
    return sizes


def test_a_dozen_syncs_leave_few_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "MAX_VERSIONS", 4)
    monkeypatch.setattr(lance, "UNREAD_SECONDS", 0.5)
    sizes = run_syncs(tmp_path, 12)
    assert max(one["table"][0] for one in sizes[6:]) <= 60


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_syncs_leave_a_bounded_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = run_syncs(tmp_path, 200)
    with capsys.disabled():
        for each in (0, 24, 49, 99, 149, 199):
            print(f"after {each + 1} syncs: files and bytes", sizes[each])
    # What is kept are the versions of the last 30 s, and so follows from the machine's speed; it does not grow. With
    # nothing dropped 60 syncs left 190 files and 4.2 MB of table: 200 would leave some 610 and 14 MB.
    for name, part in (("table", 0), ("table", 1), ("all", 0)):
        counts = [one[name][part] for one in sizes]
        assert max(counts[100:]) <= 1.25 * max(counts[:100]), (name, part)
