"""A configuration says exactly what is meant, or one line that says what is wrong."""

from __future__ import annotations

import datetime
import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError, OutOfSpaceError
from frameloom.workflows.project.config import load_config, parse_config, write_template
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD: dict[str, Any] = {"collection": {"videos": "videos"}, "features": {"video": {"backbone": "test_resnet"}}}


def write(folder: Path, text: str) -> Path:
    path = folder / "frameloom.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_template_is_valid_and_keeps_its_paths(tmp_path: Path) -> None:
    path = tmp_path / "frameloom.yaml"
    write_template(path, videos=['my "videos" & #more'], captions="a: b.jsonl")
    config = load_config(path)
    assert config.collection.videos == ('my "videos" & #more',)
    assert config.collection.captions == "a: b.jsonl"
    assert [feature.backbone for feature in config.features.video] == ["resnet152"]


def test_template_never_overwrites(tmp_path: Path) -> None:
    path = write(tmp_path, "mine")
    with pytest.raises(ConfigError, match="exists"):
        write_template(path, videos=["x"], captions=None)
    assert path.read_text() == "mine"


@settings(deadline=None, max_examples=60)
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_template_keeps_every_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frameloom.yaml"
        write_template(path, videos=[f"a{name}b".replace("://", ":")], captions=None)
        assert load_config(path).collection.videos == (f"a{name}b".replace("://", ":"),)


@pytest.mark.parametrize("name", ["a\x7f", "a\x85b", "a\u2028b", "\ufeffa", "\U0001f600"])
def test_template_keeps_names_that_yaml_would_change(tmp_path: Path, name: str) -> None:
    write_template(tmp_path / "c.yaml", videos=[name, "b"], captions=name)
    assert load_config(tmp_path / "c.yaml").collection.videos == (name, "b")
    assert load_config(tmp_path / "c.yaml").collection.captions == name


@pytest.mark.parametrize("where", ["videos", "captions"])
def test_template_refuses_names_that_are_not_utf8(tmp_path: Path, where: str) -> None:
    raw = os.fsdecode(b"bad\xff")
    given: dict[str, Any] = {"videos": ["x"], "captions": None} | {where: [raw] if where == "videos" else raw}
    with pytest.raises(ConfigError, match=r"not UTF-8.*rename it"):
        write_template(tmp_path / "frameloom.yaml", **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_failed_template_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutOfSpaceError, match="No space left"):
        write_template(tmp_path / "frameloom.yaml", videos=["x"], captions=None)
    assert list(tmp_path.iterdir()) == []


def test_template_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    path = tmp_path / "frameloom.yaml"
    write_template(path, videos=["x"], captions=None)
    assert load_config(path).collection.videos == ("x",)
    with pytest.raises(ConfigError, match="exists"):
        write_template(path, videos=["y"], captions=None)
    assert load_config(path).collection.videos == ("x",)
    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ConfigError, match="not permitted"):
        write_template(tmp_path / "other.yaml", videos=["x"], captions=None)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["", "1.5", "-2"])
@pytest.mark.parametrize("number", ["1e-3", "1.5e3", "2E+4", ".5e1", "-1e2"])
def test_exponents_are_numbers(tmp_path: Path, number: str, suffix: str) -> None:
    text = "collection: {videos: x}\nfeatures: {video: {backbone: y}}\n"
    path = write(tmp_path, f"{text}training: {{overrides: {{a: {number}, b: x{suffix}{number}}}}}\n")
    assert load_config(path).training.overrides == {"a": float(number), "b": f"x{suffix}{number}"}


@pytest.mark.parametrize("name", ["video", "video+audio", "text+audio", "text+video+audio+ocr", "ocr", "ocr+speech"])
def test_a_combination_joins_modalities_in_their_order(name: str) -> None:
    features = {**GOOD["features"], "text": {"backbone": "y"}, "extra_text": {"speech": "said", "ocr": "written"}}
    config = parse_config({**GOOD, "features": features, "store": {"combinations": [name]}})
    assert config.store.combinations == (name,)


@pytest.mark.parametrize("name", ["", "smell", "audio+video", "video+video", "video+", "speech+video"])
def test_what_is_no_combination_is_refused_and_told(name: str) -> None:
    told = r"^configuration: store\.combinations: .* join different ones of text, video, audio by \+, in this order$"
    with pytest.raises(ConfigError, match=told):
        parse_config({**GOOD, "store": {"combinations": [name]}})


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"video": "said"}, ["'video' is no name"]),
        ({"Said it": "said"}, ["'Said it' is no name"]),
        ({"speech": 3}, ["features.extra_text.speech"]),
    ],
)
def test_further_modalities_have_names_and_columns(extra: dict[str, Any], words: list[str]) -> None:
    features = {**GOOD["features"], "text": {"backbone": "y"}, "extra_text": extra}
    with pytest.raises(ConfigError) as caught:
        parse_config({**GOOD, "features": features})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_further_modalities_need_something_that_reads_them() -> None:
    with pytest.raises(ConfigError, match=r"add features\.text"):
        parse_config({**GOOD, "features": {**GOOD["features"], "extra_text": {"speech": "said"}}})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), ["finite"]),
        (float("inf"), ["finite", "inf"]),
        (datetime.date(2024, 1, 2), ["is a date", "quotes"]),
        (b"x", ["is a bytes"]),
        ({1, 2}, ["is a set"]),
        ("\ud800", ["surrogate"]),
        ("a\0", ["NUL"]),
    ],
)
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("place", ["model.config", "training.overrides", "features.video.options"])
def test_free_mappings_are_plain_data(place: str, depth: int, value: Any, words: list[str]) -> None:
    data: Any = {"lr": [value]} if depth else {"lr": value}
    for part in reversed(place.split(".")):
        data = {part: data, "backbone": "x"} if part == "video" else {part: data}
    with pytest.raises(ConfigError) as caught:
        parse_config({**GOOD, **data})
    assert all(word in str(caught.value) for word in [f"{place}.lr", *words]), str(caught.value)


@pytest.mark.parametrize("key", [1, None, "\ud800", datetime.date(2024, 1, 2)])
def test_keys_of_free_mappings_are_text(key: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.config\.a: the key .*quotes"):
        parse_config({**GOOD, "model": {"config": {"a": {key: 1}}}})


def test_bottomless_nesting_is_named() -> None:
    data: dict[str, Any] = {}
    data["a"] = data
    with pytest.raises(ConfigError, match=r"model\.config\.a.*flatten"):
        parse_config({**GOOD, "model": {"config": data}})


def test_plain_values_of_free_mappings_stay() -> None:
    overrides = {"a": 1, "b": [1.5, None, {"c": "x"}], "d": True}
    assert parse_config({**GOOD, "training": {"overrides": overrides}}).training.overrides == overrides


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colection": {}}, ["colection", "did you mean 'collection'"]),
        ({"collection": {"videos": "x", "clip_second": 8}}, ["clip_second", "did you mean 'clip_seconds'"]),
        ({"features": {"video": {"backbon": "x"}}}, ["backbon", "did you mean 'backbone'"]),
        ({"features": {"vidio": {"backbone": "x"}}}, ["vidio", "did you mean 'video'"]),
        ({"features": {"text": {"backbone": "word2vec"}}}, ["features", "video, for audio, or for both"]),
        ({"features": {"video": []}}, ["features", "video, for audio, or for both"]),
        ({"features": {"video": {"backbon": "x"}}}, ["unknown key 'features.video.backbon'"]),
        ({"features": {"video": [{"backbon": "x"}]}}, ["unknown key 'features.video.0.backbon'", "'backbone'"]),
        ({"features": {"video": [{"backbone": "x"}, {}]}}, ["'features.video.1.backbone' is missing"]),
        ({"features": {"video": [{"backbone": "x", "seed": one} for one in (0, 1)]}}, ["features.video", "x more"]),
        ({"features": {"video": "resnet18"}}, ["features.video:", "resnet18"]),
        ({"features": {"audio": [{"backbone": "x"}]}}, ["features.audio: takes one backbone", "features.video"]),
        ({"features": {"video": {"backbone": "x"}, "text": [{"backbone": "y"}]}}, ["features.text: takes one"]),
        ({"collection": {}}, ["collection.videos", "missing"]),
        ({"collection": {"videos": []}}, ["collection.videos", "needs a folder"]),
        ({"collection": {"videos": "x", "clip_seconds": 0.05}}, ["collection.clip_seconds", "0.1", "0.05"]),
        (
            {"collection": {"videos": "x", "clip_seconds": 4, "stride_seconds": 5}},
            ["collection", "at most clip_seconds"],
        ),
        ({"collection": {"videos": "x", "clip_seconds": None, "stride_seconds": 5}}, ["at most clip_seconds"]),
        ({"collection": {"videos": "x", "clip_seconds": 4, "shots": {}}}, ["collection", "shots or windows"]),
        ({"collection": {"videos": "x", "shots": {"treshold": 0.5}}}, ["collection.shots.treshold", "'threshold'"]),
        ({"collection": {"videos": "x", "shots": {"threshold": 1.5}}}, ["collection.shots.threshold", "1.5"]),
        ({"collection": {"videos": "x", "shots": {"detector": "x"}}}, ["collection.shots.detector", "'transnet_v2'"]),
        ({"collection": {"videos": ["x", "s3://b/v"]}}, ["collection.videos", "only local", "s3://b/v"]),
        ({"collection": {"videos": "x", "captions": "https://a/c.csv"}}, ["collection.captions", "only local"]),
        (
            {"store": {"path": "s3://bucket/store"}},
            ["store.path", "local folder", "store.features", "s3://bucket/store"],
        ),
        ({"store": {"features": "Memory://x/y"}}, ["store.features", "not shared by processes", "s3://bucket/prefix"]),
        ({"run": {"decode_seconds": float("inf")}}, ["run.decode_seconds", "finite"]),
        ({"run": {"workers": -1}}, ["run.workers", "greater than or equal to 0", "-1"]),
        ({"run": {"workers": 10**6}}, ["run.workers", "1024"]),
        ({"run": {"max_failures": float("nan")}}, ["run.max_failures"]),
        ({"store": {"table": ".hidden"}}, ["store.table"]),
        ({"store": {"combinations": ["video", "video"]}}, ["store.combinations", "each once"]),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**GOOD, **change})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("collection: [", ["line 1", "not valid YAML"]),
        ("a: 1\na: 2\n", ["line 2", "duplicate key 'a'"]),
        ("a: &x 1\nb: *x\n", ["aliases"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
        ("a:\n\t- 1\n", ["line 2", "not valid YAML"]),
        ("just words", ["expected sections"]),
        ("", ["expected sections"]),
        ("? [1, 2]\n: 3\n", ["not valid YAML"]),
    ],
)
def test_broken_yaml_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frameloom init"):
        load_config(tmp_path / "frameloom.yaml")


def test_resolved_configuration_reads_back() -> None:
    config = parse_config(GOOD)
    assert parse_config(config.model_dump(mode="json")) == config
