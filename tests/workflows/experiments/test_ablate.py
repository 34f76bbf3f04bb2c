"""Ablations: long clips whose answer needs their whole length, tables from kept checkpoints, honest verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from frameloom import ConfigError
from frameloom._registry import Registry
from frameloom.fuse import model_config
from frameloom.train import get_recipe, load_checkpoint
from frameloom.train.data import ClipDataset, TrainingSet, collate, stored_clips
from frameloom.train.evaluate import embed_batch, retrieval_metrics
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.experiments.ablations import run as _ablate_run
from frameloom.workflows.experiments.ablations import study as _ablate
from frameloom.workflows.experiments.ablations.data import Worlds, prepare
from frameloom.workflows.experiments.ablations.report import TableResult
from frameloom.workflows.experiments.ablations.run import Asked, judge, plan_jobs
from frameloom.workflows.experiments.ablations.studies import STUDIES, Order, Row, Study, Table
from frameloom.workflows.experiments.ablations.study import StudyResult, run_study
from frameloom.workflows.laboratory import LongClip, LongWorld, make_long_clips, plan_long_clips
from frameloom.workflows.laboratory.long_clips import long_frames, long_sound
from frameloom.workflows.laboratory.sounds import _PITCHES_HZ
from typer.testing import CliRunner

STUDY = "everything_at_once"
TINY = Worlds(num_train=12, num_test=6, num_long=8)
QUIET = Console(quiet=True)
SMALL = replace(STUDIES[STUDY], model="test_everything_at_once")
CONFIG = {
    "collection": {"videos": ["videos", "long"], "captions": "all_captions.jsonl", "clip_seconds": None},
    "features": {
        "video": {"backbone": "test_resnet"},
        "audio": {"backbone": "logmel_avlnet"},
        "text": {"backbone": "word2vec", "options": {"dim": 16}},
    },
    "training": {"recipe": "everything_at_once_tiny"},
    "run": {"workers": 0, "batch_videos": 64},
}


def run(folder: Path, **options: Any) -> StudyResult:
    asked: dict[str, Any] = {"tables": [5], "seeds": 2, "overrides": {"epochs": 1}, **options}
    return run_study(STUDY, folder, worlds=TINY, console=QUIET, **asked)


@pytest.fixture(scope="module", autouse=True)
def small_model() -> Iterator[None]:
    """The study with the model of tests in place of its own."""
    with pytest.MonkeyPatch.context() as patch:
        small: Registry[Study] = Registry("study")
        small.add(STUDY, SMALL)
        patch.setattr(_ablate, "STUDIES", small)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small laboratory in this process, on which table 5 was made with two seeds."""
    made = tmp_path_factory.mktemp("ablations")
    (made / "frameloom.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    run(made)
    return made


class TestLongClips:
    world = LongWorld(num_clips=40, seed=3)

    def test_a_caption_told_as_a_set_of_words_fits_one_clip(self) -> None:
        clips = plan_long_clips(self.world)
        assert len(clips) == 40
        tokens = [frozenset(clip.captions[0].split()) for clip in clips]
        for clip, own in zip(clips, tokens, strict=True):
            colours = {value for value, _ in clip.changes["colour"]}
            assert len(colours) == 3, "every colour of a clip is another"
            assert sum(own == other for other in tokens) == 1

    def test_the_opening_of_a_clip_never_tells_it_from_its_family(self) -> None:
        def opening(clip: LongClip) -> tuple[Any, ...]:
            return (*sorted(clip.at(0.0).items()),)

        openings = [opening(clip) for clip in plan_long_clips(self.world)]
        assert min(openings.count(one) for one in openings) >= self.world.family

    def test_scenes_fill_the_clip_and_last_long_enough(self) -> None:
        for clip in plan_long_clips(self.world):
            for scenes in clip.changes.values():
                ends = [0.0, *(end for _, end in scenes)]
                assert ends[-1] == self.world.seconds
                assert min(b - a for a, b in pairwise(ends)) >= self.world.shortest_seconds - 1 / self.world.fps

    def test_the_same_world_is_the_same_plan_and_another_seed_another(self) -> None:
        assert plan_long_clips(self.world) == plan_long_clips(self.world)
        assert plan_long_clips(self.world) != plan_long_clips(self.world.replaced(seed=4))

    def test_what_is_seen_and_heard_changes_when_the_plan_says(self) -> None:
        (clip, *_) = plan_long_clips(LongWorld(num_clips=4, seconds=9.0, size=32))
        clip = replace(clip, traits={**clip.traits, "timbre": "pure", "rhythm": "held"})
        world = LongWorld(num_clips=4, seconds=9.0, size=32)
        frames = np.stack(list(long_frames(world, clip, [1])))
        assert len(frames) == 72
        redness = frames[..., 0].astype(float).mean(axis=(1, 2)) - frames[..., 2].mean(axis=(1, 2))
        ends = [round(end * world.fps) for _, end in clip.changes["colour"]]
        steps = np.abs(np.diff(redness))
        within = np.delete(steps, [end - 1 for end in ends[:-1]])
        assert steps[[end - 1 for end in ends[:-1]]].max() > 5 * within.max()
        sound, begin = long_sound(clip, [1]), 0.0
        for pitch, end in clip.changes["pitch"]:
            part = sound[int(begin * 16000) : int(end * 16000)]
            peak_hz = np.abs(np.fft.rfft(part)).argmax() * 16000 / len(part)
            assert peak_hz == pytest.approx(_PITCHES_HZ[pitch], rel=0.1)
            begin = end

    def test_impossible_worlds_and_strangers_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="do not fit into 3"):
            plan_long_clips(self.world.replaced(seconds=3.0))
        with pytest.raises(ConfigError, match="too large"):
            plan_long_clips(self.world.replaced(family=100))
        with pytest.raises(ConfigError, match="fit one clip each"):
            plan_long_clips(LongWorld(num_clips=100, num_colours=1, num_pitches=1, family=1, named_constants=0))
        (tmp_path / "long").mkdir()
        (tmp_path / "long" / "mine.mp4").write_bytes(b"")
        with pytest.raises(ConfigError, match=r"mine\.mp4"):
            make_long_clips(tmp_path, self.world)


class TestStudies:
    @pytest.mark.parametrize("name", list(STUDIES))
    def test_every_row_can_be_trained_and_every_order_names_rows(self, name: str) -> None:
        study = STUDIES[name]
        get_recipe(study.recipe, **study.overrides)
        for training in study.trainings.values():
            for weights in study.objectives.values():
                options = {**study.options, **weights, **training.options}
                model_config(study.model, **options)
                model_config(study.model, **{**options, **training.reading})
        for table in study.tables:
            keys = [row.key for row in table.rows]
            assert len(set(keys)) == len(keys)
            assert {row.training for row in table.rows} <= study.trainings.keys()
            for order in table.orders:
                assert {order.better, order.worse} <= set(keys)

    def test_the_published_numbers_are_those_of_the_paper(self) -> None:
        tables = {table.number: table for table in STUDIES[STUDY].tables}
        assert tables[4].row("fusion_va").published["YouCook2"] == (36.6, 47.0)
        assert tables[5].row("cls").published["MSR-VTT"] == (21.4, 28.8)
        assert tables[6].row("positional_clips").published["YouCook2"] == (35.6, 46.9)
        assert sum(bool(row.published) for table in tables.values() for row in table.rows) == 6 + 3 + 7

    def test_every_row_has_the_same_weights_of_the_objective(self) -> None:
        study = STUDIES[STUDY]
        for training in study.trainings.values():
            assert not any(name.startswith("lambda") for name in training.options)


def table_of(better: Sequence[float], worse: Sequence[float]) -> TableResult:
    """A table of two rows whose R@1, R@5 and R@10 are all the same number, by seed."""

    def metrics(value: float) -> dict[str, dict[str, float]]:
        one = {"r1": value, "r5": value, "r10": value, "medr": 1.0, "meanr": 1.0}
        return {"text->media": one, "media->text": one}

    published = {"A": (50.0, 60.0)}, {"A": (40.0, 55.0)}
    rows = tuple(
        Row(key=key, label=key, training="", published=pair) for key, pair in zip("xy", published, strict=True)
    )
    table = Table(number=9, title="T", rows=rows, orders=(Order(better="x", worse="y"),))
    found = {"x": [metrics(value) for value in better], "y": [metrics(value) for value in worse]}
    return TableResult(table=table, found=found)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("better", "worse", "verdict"),
        [
            ([50, 52, 51], [40, 41, 42], "as published"),
            ([40, 41, 42], [50, 52, 51], "opposite"),
            ([50, 40, 45], [44, 44, 44], "not settled"),  # the seeds disagree
            ([51, 41, 71], [40, 40, 40], "not settled"),  # they agree, and differ more than the mean
            ([50, 50], [50, 50], "not settled"),
            ([50], [40], "not settled"),  # one seed settles nothing
        ],
    )
    def test_an_order_is_settled_only_where_the_seeds_say_so(
        self, better: list[float], worse: list[float], verdict: str
    ) -> None:
        (one,) = table_of(better, worse).comparisons()
        assert one.verdict == verdict
        assert one.published_differences == {"A": 7.5}
        assert one.mean_recall_difference.mean == pytest.approx(np.mean(better) - np.mean(worse))

    def test_deviations_are_those_of_a_sample_of_seeds(self) -> None:
        result = table_of([50, 52, 57], [40, 41, 42])
        spread = result.spread("x", "text->media", "r5")
        assert (spread.mean, spread.deviation) == (pytest.approx(53), pytest.approx(np.std([50, 52, 57], ddof=1)))
        assert spread.shown() == "53.0 ± 3.6"
        (one,) = result.comparisons()
        assert one.mean_recall_difference.deviation == pytest.approx(np.std([10, 11, 15], ddof=1)), (
            "paired, seed by seed"
        )

    def test_what_does_not_come_out_is_said_plainly(self) -> None:
        text = "\n".join(table_of([40, 41, 42], [50, 52, 51]).lines())
        assert "| x **over** y | +7.5 | -10.0 ± 1.0 | 0 of 3 | **the other way round** |" in text
        assert "Of 1 orders of the paper 0 come out as published, 1 the other way round, 0 are not settled." in text


class TestRun:
    def test_a_second_call_trains_and_judges_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = run(folder).as_dict()
        monkeypatch.setattr(_ablate_run, "run_job", lambda _job: pytest.fail("there was nothing to do"))
        assert run(folder).as_dict() == before

    def test_the_table_is_a_document(self, folder: Path) -> None:
        result = run(folder)
        assert result.document == folder / "everything_at_once-published-table5.md"
        text = result.document.read_text(encoding="utf-8")
        assert text == "\n".join(result.lines()) + "\n"
        (table,) = [block for block in text.split("\n\n") if block.startswith("| configuration")]
        assert {line.count("|") for line in table.splitlines()} == {12}
        assert "40.7, 51.3" in table
        assert "lambda_tv 1, lambda_ta 0.1" in text

    def test_an_interrupted_study_goes_on(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []
        original = _ablate_run.train_model

        def training(job: Any) -> Any:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(Path(job.folder).name)
            return original(job)

        monkeypatch.setattr(_ablate_run, "train_model", training)
        with pytest.raises(KeyboardInterrupt):
            run(folder, objective="equal", seeds=1)
        first, done[:] = list(done), [""]
        with pytest.raises(KeyboardInterrupt):
            run(folder, objective="equal", seeds=1, overrides={"epochs": 2})
        assert done[1] not in first, "other epochs are another training"
        done[:] = [""]
        run(folder, objective="equal", seeds=1)
        assert len(first) == 2
        assert set(done[1:]).isdisjoint(first)
        assert len(done) == 2

    def test_numbers_are_those_of_the_checkpoint_asked_by_hand(self, folder: Path) -> None:
        clips = prepare(folder, TINY, get_recipe(SMALL.recipe), QUIET)
        found = run(folder).tables[0].found["ours"][1]
        (job,) = [job for job in self._jobs(folder) if (job.training, job.seed) == ("ours", 1)]
        model, meta = load_checkpoint(job.folder)
        assert meta.recipe["seed"] == 1
        dataset = ClipDataset(stored_clips(clips.project.store, clips.galleries["short"].clips), **job.train.limits)
        vectors = embed_batch(model, collate([dataset[i] for i in range(6)]), ["text", "video+audio"])
        expected = retrieval_metrics(vectors["text"] @ vectors["video+audio"].T)
        assert found["text->media"]["meanr"] == expected.meanr
        assert found["text->media"]["r5"] == expected.r5

    def test_a_long_clip_is_read_whole_or_in_part(self, folder: Path) -> None:
        job = self._jobs(folder)[0]
        rows = {row.key: row for row in SMALL.tables[2].rows if row.training == "ours"}
        galleries = next(iter((job.folder.parents[1]).glob("long-*.parquet")))
        found = {
            key: judge(
                job,
                Asked(row=key, media=row.media, strategy=row.strategy, gallery=str(galleries), gallery_digest=""),
            )
            for key, row in rows.items()
        }
        assert len({json.dumps(one) for one in found.values()}) > 2
        assert found["beginning"] != found["at_once"]

    @staticmethod
    def _jobs(folder: Path) -> list[_ablate_run.AblationJob]:
        clips, study = prepare(folder, TINY, get_recipe(SMALL.recipe), QUIET), SMALL
        return plan_jobs(
            clips,
            study,
            clips.project.root / "ablations" / STUDY,
            tables=[study.tables[1]],
            objective="published",
            seeds=2,
            overrides={"epochs": 1},
        )

    def test_joint_reading_of_a_model_that_was_trained_without_fusing(self, folder: Path) -> None:
        study = SMALL
        jobs = plan_jobs(
            prepare(folder, TINY, get_recipe(SMALL.recipe), QUIET),
            replace(study, trainings={"fusion": study.trainings["fusion"]}),
            folder / "pairwise",
            tables=[study.tables[0]],
            objective="published",
            seeds=1,
            overrides={"epochs": 1},
        )
        (job,) = jobs
        assert not job.train.model_config["fused_pairs"]
        _ablate_run.run_job(job)
        model = _ablate_run.model_of(job)
        assert model.config.fused_pairs
        gallery = stored_clips(job.train.store, TrainingSet.read(Path(job.asked[0].gallery)).clips)
        dataset = ClipDataset(gallery, **job.train.limits)
        batch = collate([dataset[index] for index in range(4)])
        media = {name: batch[name] for name in ("video", "audio")}
        joint, late = model.encode(**media, fusion="joint"), model.encode(**media, fusion="late")
        assert not np.allclose(joint.detach(), late.detach(), atol=1e-4)


class TestCommand:
    def test_studies_are_listed(self) -> None:
        shown = CliRunner().invoke(app, ["ablate"]).stdout
        assert "everything_at_once: Shvetsova" in shown
        assert "table 6:" in shown
        listed = json.loads(CliRunner().invoke(app, ["ablate", "--json"]).stdout)
        assert listed[0]["objectives"] == ["published", "equal"]

    def test_mistakes_are_told_before_any_work(self, tmp_path: Path) -> None:
        unknown = CliRunner().invoke(app, ["ablate", "everything", str(tmp_path)])
        assert (unknown.exit_code, "did you mean everything_at_once?" in unknown.stderr) == (2, True)
        with pytest.raises(ConfigError, match="no table 9 in this study: it has 4, 5, 6"):
            run_study(STUDY, tmp_path, tables=[9], console=QUIET)
        with pytest.raises(ConfigError, match="published"):
            run_study(STUDY, tmp_path, objective="publish", console=QUIET)
        assert not list(tmp_path.iterdir())
        for tables in ("four", "4;5", ""):
            result = CliRunner().invoke(app, ["ablate", STUDY, str(tmp_path), "--tables", tables])
            assert result.exit_code == 2
            assert "give numbers of tables, such as 4,5,6" in result.stderr

    def test_json_is_one_document(self, folder: Path) -> None:
        sizes = ["--num-train", "12", "--num-test", "6", "--num-long", "8", "--epochs", "1", "--seeds", "2"]
        result = CliRunner().invoke(app, ["ablate", STUDY, str(folder), "--tables", "5", "--json", "-q", *sizes])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert [table["table"] for table in found["tables"]] == [5]
        row = found["tables"][0]["rows"][0]
        assert len(row["metrics"]["text->media"]["r1"]["seeds"]) == 2
        assert found["clips"] == {"training": 12, "short": 6, "long": 8}
