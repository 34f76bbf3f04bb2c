"""Collections as people write them: what is taken as it is meant, what is refused with its row, what a note says."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError
from frameloom.workflows.project.collection import Collection, clips_of, discover
from helpers.children import run_python


def collection(folder: Path, manifest: str, *names: str, suffix: str = ".csv") -> Collection:
    """Videos of a folder `v` with captions of a manifest."""
    for name in names or ("a.mp4", "b.mp4"):
        path = folder / "v" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (folder / f"captions{suffix}").write_text(manifest, encoding="utf-8")
    return discover(["v"], captions=f"captions{suffix}", base=folder)


def captions_of(found: Collection, name: str) -> tuple[str, ...]:
    (video,) = [video for video in found.videos if video.video == name]
    (clip,) = clips_of(video, 8.0, units=[(0.0, 8.0)])
    return clip.captions


@pytest.mark.parametrize(
    ("columns", "meant"),
    [
        ("start,end", ("start_seconds", "end_seconds")),
        ("Start,End", ("start_seconds", "end_seconds")),
        ("start_time,end_time", ("start_seconds", "end_seconds")),
        ("begin,stop", ("start_seconds", "end_seconds")),
        ("start_secnds,end_second", ("start_seconds", "end_seconds")),
        ("splt,endseconds", ("split", "end_seconds")),
    ],
)
def test_columns_that_miss_ours_by_a_word_are_named(tmp_path: Path, columns: str, meant: tuple[str, ...]) -> None:
    found = collection(tmp_path, f"video,caption,{columns}\nv/a.mp4,one,0,4\nv/a.mp4,two,4,8\n")
    first, second = columns.split(",")
    assert [note for note in found.notes if "did you mean" in note] == [
        f"the column {name!r} is kept and means nothing here: did you mean {own!r}?"
        for name, own in sorted({first: meant[0], second: meant[1]}.items())
    ]
    assert any(f"differ in the column {first!r}" in note and "'v/a.mp4'" in note for note in found.notes)


def test_columns_of_ours_and_rows_that_agree_need_no_note(tmp_path: Path) -> None:
    rows = "video,caption,start_seconds,end_seconds,end,place\nv/a.mp4,one,0,4,x,sea\nv/a.mp4,two,4,8,y,land\n"
    assert collection(tmp_path, rows).notes == ()


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("['a dog runs', 'dog in grass']", ("a dog runs", "dog in grass")),
        ('["a dog runs", "dog in grass"]', ("a dog runs", "dog in grass")),
        ("""["a dog's run", 'dog, in grass']""", ("a dog's run", "dog, in grass")),
        (" [ 'one' ] ", ("one",)),
        ("[]", ()),
        ("[laughs] hello", ("[laughs] hello",)),
        ("[music]", ("[music]",)),
        ("a dog ['runs']", ("a dog ['runs']",)),
        ("('a dog runs', 'dog in grass')", ("a dog runs", "dog in grass")),
        ("{'b', 'a'}", ("a", "b")),
        ("('hello, dog')", ("('hello, dog')",)),
        ("('hello', he says)", ("('hello', he says)",)),
        ("('hello', 5)", ("('hello', 5)",)),
        ("{'a', 1, 'b'}", ("{'a', 1, 'b'}",)),
        ("{'a', ['b'], 'c'}", ("{'a', ['b'], 'c'}",)),
    ],
)
def test_a_list_of_pandas_is_a_list(tmp_path: Path, cell: str, captions: tuple[str, ...]) -> None:
    quoted = cell.replace('"', '""')
    assert captions_of(collection(tmp_path, f'video,captions\nv/a.mp4,"{quoted}"\nv/b.mp4,x\n'), "v/a.mp4") == captions


@pytest.mark.parametrize(
    "cell", ["['a dog', nan]", "['a dog' 'b']", "['a dog', 'b'", "['a', 2]", "[np.str_('a')]", "['a'\n 'b']"]
)
def test_a_list_that_cannot_be_read_is_named_with_its_row(tmp_path: Path, cell: str) -> None:
    with pytest.raises(ConfigError, match=r"captions\.csv, row 2: captions"):
        collection(tmp_path, f'video,captions\nv/a.mp4,x\nv/b.mp4,"{cell}"\n')


@pytest.mark.parametrize(
    "rows",
    [
        'v/a.mp4,one\nv/b.mp4,"a dog runs\nv/a.mp4,two\nv/b.mp4,three\n',
        'v/a.mp4,one\nv/b.mp4,"a dog runs\nv/a.mp4,"two"\nv/b.mp4,three\n',
        'v/a.mp4,one\nv/b.mp4,"a dog runs\nv/a.mp4,"two, three"\n',
    ],
)
def test_a_quote_that_is_never_closed_is_named_with_its_row(tmp_path: Path, rows: str) -> None:
    with pytest.raises(ConfigError, match=r"captions\.csv, row 2: a quote opens that is never closed.*a dog runs"):
        collection(tmp_path, f"video,caption\n{rows}")


def test_quotes_that_are_closed_hold_lines_commas_and_quotes(tmp_path: Path) -> None:
    rows = 'v/a.mp4,"a dog\nruns, ""fast"""\nv/b.mp4,a 6" nail\n'
    found = collection(tmp_path, f"video,caption\n{rows}")
    assert captions_of(found, "v/a.mp4") == ('a dog runs, "fast"',)
    assert captions_of(found, "v/b.mp4") == ('a 6" nail',)


ACCENTED = "Götz/Zoë.mp4"
FORMS = [("NFC", "NFD"), ("NFD", "NFC")]


@pytest.mark.parametrize(("on_disk", "written"), FORMS)
def test_accents_are_matched_in_either_form(tmp_path: Path, on_disk: Any, written: Any) -> None:
    disk, name = unicodedata.normalize(on_disk, ACCENTED), unicodedata.normalize(written, ACCENTED)
    found = collection(tmp_path, f"video,caption\nv/{name},one\n", disk)
    assert found.unmatched == ()
    assert captions_of(found, f"v/{disk}") == ("one",)


@pytest.mark.parametrize(("on_disk", "written"), FORMS)
def test_a_manifest_of_videos_finds_files_in_either_form(tmp_path: Path, on_disk: Any, written: Any) -> None:
    disk, name = unicodedata.normalize(on_disk, ACCENTED), unicodedata.normalize(written, ACCENTED)
    (tmp_path / disk).parent.mkdir()
    (tmp_path / disk).write_bytes(b"x")
    (tmp_path / "list.jsonl").write_text(json.dumps({"video": name}), encoding="utf-8")
    (video,) = discover(["list.jsonl"], captions=None, base=tmp_path).videos
    assert video.path.is_file()


def test_a_name_that_fits_two_files_is_left_out(tmp_path: Path) -> None:
    both = [unicodedata.normalize(form, "ǖ.mp4") for form in ("NFC", "NFD")]
    third = "\u00fc\u0304.mp4"  # neither: one accent with its letter, one apart
    found = collection(tmp_path, f"video,caption\nv/{third},one\nv/{both[0]},two\n", *both)
    assert found.unmatched == (f"v/{third}",)
    assert any("fits 2 videos" in note for note in found.notes)


def test_another_spelling_of_the_same_file_is_matched(tmp_path: Path) -> None:
    """As on a disk that ignores case, where both names lead to one file."""
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    os.link(tmp_path / "v" / "a.mp4", tmp_path / "other" / "A.MP4")
    (tmp_path / "captions.csv").write_text("video,caption\nother/A.MP4,one\n")
    found = discover(["v"], captions="captions.csv", base=tmp_path)
    assert captions_of(found, "v/a.mp4") == ("one",)


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("id", "id_"),
        ("path", "path_"),
        ("score", "score_"),
        ("clip", "clip_"),
        ("Vector", "Vector_"),
        ("", "unnamed"),
        ("Unnamed: 0", "Unnamed_ 0"),
        ("a/b", "a_b"),
    ],
)
def test_columns_whose_names_are_taken_are_kept_under_another(tmp_path: Path, column: str, kept: str) -> None:
    found = collection(tmp_path, f"video,caption,{column}\nv/a.mp4,one,7\nv/b.mp4,two,8\n")
    assert found.metadata_types == {kept: "int64"}
    assert found.notes == (f"the column {column!r} is kept as {kept!r}: its own name cannot be a column's",)
    assert [video.spans[0].metadata for video in found.videos] == [{kept: 7}, {kept: 8}]


def test_another_column_of_that_name_is_not_lost(tmp_path: Path) -> None:
    found = collection(tmp_path, "video,caption,id,id_\nv/a.mp4,one,7,8\n")
    assert found.videos[0].spans[0].metadata == {"id__": 7, "id_": 8}


def test_files_that_a_folder_does_not_give_are_named(tmp_path: Path) -> None:
    videos, others = ("a.mp4", "b.F4V", "c.3g2", "d.divx", "e.mpe", "f.gif"), ("g.wav", "h.wav", "i.rm", "j.txt")
    found = collection(tmp_path, "video,caption\nv/a.mp4,one\n", *videos, *others)
    assert [video.video for video in found.videos] == [
        "v/a.mp4",
        "v/b.F4V",
        "v/c.3g2",
        "v/d.divx",
        "v/e.mpe",
        "v/f.gif",
    ]
    assert found.notes == (
        "2 files (.wav) were passed over: they have sound alone: a pattern such as 'v/*.wav' takes them in",
        "1 files (.rm) were passed over: they are in a container that is not read here: convert them",
    )


def test_names_in_manifests_are_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "Rötlich.mp4").write_bytes(b"x")
    (tmp_path / "captions.csv").write_text("video,caption\nv/Rötlich.mp4,one\n", encoding="utf-8")
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    code = """
import sys
from pathlib import Path
from frameloom.workflows.project.collection import discover
assert sys.getfilesystemencoding() != "utf-8"
found = discover(["v"], captions="captions.csv", base=Path(sys.argv[1]))
print(ascii([(video.video, video.spans[0].captions) for video in found.videos]), found.unmatched)
"""
    assert run_python(code, str(tmp_path)).strip() == ascii([("v/Rötlich.mp4", ("one",))]) + " ()"
