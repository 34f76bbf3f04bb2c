"""Plots: the numbers behind them against what the model and the table say, and pictures of the right size."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import ConfigError, FrameloomError, InputError
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.layers import Sequences
from frameloom.train import read_checkpoint, read_losses
from frameloom.train.evaluate.attention import (
    ModalityAttention,
    attention_weights,
    check_fuses,
    clip_tokens,
    mean_attention,
)
from frameloom.workflows.cli.app import app
from frameloom.workflows.experiments.plots import draw_attention, draw_losses, draw_timeline, save
from frameloom.workflows.experiments.plots_data import Losses, epoch_losses, project_attention, training_losses
from frameloom.workflows.index import Index
from frameloom.workflows.project.project import Project
from frameloom.workflows.search import Timeline, question_timeline
from frameloom.workflows.search.timeline import windows_of
from helpers.projects import write_config
from typer.testing import CliRunner


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def run(*arguments: str, config: Path | None = None) -> Any:
    chosen = ["-c", str(config / "frameloom.yaml")] if config else []
    return CliRunner().invoke(app, ["plot", *arguments, *chosen])


def clip_batch(model: Any, *, words: int = 5, rows: int = 3, frames: int = 40) -> dict[str, Tokens]:
    """A batch of one clip of random numbers."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"text": (words, model.config.text_dim), "video": (rows, model.config.video_dim), "audio": (frames, 40)}
    return {
        name: Tokens(torch.randn(1, *size, generator=generator), torch.ones(1, size[0], dtype=torch.bool))
        for name, size in sizes.items()
    }


class TestLosses:
    def test_they_are_those_that_the_training_kept(self, synced_once: Path) -> None:
        checkpoint = Project.open(synced_once, read_only=True).resolve().checkpoint
        assert checkpoint is not None
        found, kept = training_losses(checkpoint.folder), read_losses(checkpoint.folder)
        assert found.steps == tuple((one.step, one.loss) for one in kept)
        assert found.terms["text|video"][-1] == (kept[-1].step, kept[-1].terms["text|video"])
        run_of = read_checkpoint(checkpoint.folder).provenance["training"]
        np.testing.assert_allclose(found.epoch_means, run_of["epoch_losses"], rtol=1e-6)
        assert epoch_losses(checkpoint.folder).epoch_means == tuple(run_of["epoch_losses"])

    def test_an_epoch_under_way_has_no_mean_yet(self, tmp_path: Path) -> None:
        lines = [
            json.dumps({"step": step, "epoch": 1 + (step - 1) // 3, "loss": step, "terms": {}, "learning_rate": 1})
            for step in range(1, 9)
        ]
        (tmp_path / "progress").mkdir()
        (tmp_path / "progress" / "losses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = training_losses(tmp_path)
        assert found.epoch_means == (2.0, 5.0)
        assert len(found.steps) == 8

    def test_a_folder_without_a_training_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no trained model"):
            training_losses(tmp_path)

    def test_the_command_draws_and_prints(self, synced_once: Path, tmp_path: Path) -> None:
        result = run("losses", str(tmp_path / "losses.png"), "--json", config=synced_once)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert len(found["epoch_means"]) == 2
        assert size_of(tmp_path / "losses.png") == (1000, 700)


class TestAttention:
    @pytest.mark.parametrize("options", [{}, {"depth": 2}, {"cls_token": True, "individual_projections": False}])
    def test_the_weights_are_those_that_the_model_embeds_by(self, options: dict[str, Any]) -> None:
        """The tokens through the blocks are the model's embedding, and the weights what the last block attends by."""
        torch.manual_seed(1)
        model = create_model("test_everything_at_once", **options).eval()
        for parameter in model.fusion.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        batch = clip_batch(model)
        groups = clip_tokens(model, batch)
        with torch.inference_mode():
            x = torch.cat(list(groups.values()))
            whole = Sequences.padded(torch.ones(1, len(x)))
            for block in model.fusion.blocks:
                before, x = x, block(x, whole)
            parts = dict(zip(groups, x.split([len(rows) for rows in groups.values()]), strict=True))
            if "cls" in parts:
                ours = model.proj(parts["cls"][0])
            else:
                projected = [getattr(model, f"{name}_proj")(rows.mean(dim=0)) for name, rows in parts.items()]
                ours = sum(each / each.norm() for each in projected)
            expected = model.encode(**batch)[0]
        np.testing.assert_allclose(ours / ours.norm(), expected, atol=1e-5)
        depth = len(model.fusion.blocks)
        weights = attention_weights(model.fusion, list(groups.values()), block=depth)
        assert weights.shape == (2, len(x), len(x))
        np.testing.assert_allclose(weights.sum(axis=2), 1)
        with torch.inference_mode():
            rows, attention = block.norm1(before), block.attn
            values = attention.qkv(rows).unflatten(-1, (3, attention.heads, -1))[:, 2].transpose(0, 1)
            attended = attention.proj((torch.from_numpy(weights).float() @ values).transpose(0, 1).flatten(1))
            np.testing.assert_allclose(attended, attention(rows, whole), atol=1e-4)

    def test_a_head_that_tells_no_tokens_apart_attends_by_their_numbers(self) -> None:
        model = create_model("test_everything_at_once").eval()
        torch.nn.init.zeros_(model.fusion.blocks[0].attn.qkv.weight)
        found = mean_attention(model, iter([clip_batch(model)]))
        assert found.modalities == ("text", "video", "audio")
        share = np.array(found.tokens) / sum(found.tokens)
        np.testing.assert_allclose(found.weights, np.broadcast_to(share, (2, 3, 3)))

    def test_clips_count_alike_whatever_their_length(self) -> None:
        torch.manual_seed(1)
        model = create_model("test_everything_at_once").eval()
        batches = [clip_batch(model), clip_batch(model, words=9, frames=96)]
        apart = [mean_attention(model, iter([batch])).weights for batch in batches]
        assert not np.allclose(*apart)
        np.testing.assert_allclose(mean_attention(model, iter(batches)).weights, np.mean(apart, axis=0))

    def test_a_project_s_rows_sum_to_one(self, synced_once: Path) -> None:
        project = Project.open(synced_once, read_only=True)
        found = project_attention(project, num_clips=128, split=None)
        assert found.num_clips == 6, "two of eight clips have no sound"
        np.testing.assert_allclose(found.weights.sum(axis=2), 1)
        assert project_attention(project, num_clips=2, split=None).num_clips == 2
        assert project_attention(project, num_clips=128, split="test").num_clips == 2
        with pytest.raises(InputError, match="blocks 1 to 1"):
            project_attention(project, num_clips=1, split=None, block=2)
        with pytest.raises(InputError, match="no clip of the split 'val' has all of text, video, audio"):
            project_attention(project, num_clips=1, split="val")
        with pytest.raises(InputError, match="allowed are train, val, test"):
            project_attention(project, num_clips=1, split="tset")

    def test_the_command_draws_and_prints(self, synced_once: Path, tmp_path: Path) -> None:
        result = run("attention", str(tmp_path / "attention.png"), "--json", config=synced_once)
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(np.sum(json.loads(result.stdout)["mean"], axis=1), 1)
        assert size_of(tmp_path / "attention.png") == (1000, 600)

    @pytest.mark.parametrize("options", [{"depth": 0}, {"transformer": "per_modality", "fused_pairs": False}])
    def test_a_model_that_does_not_fuse_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="no transformer that fuses modalities"):
            check_fuses(create_model("test_everything_at_once", **options), 1)

    def test_many_heads_fit(self, tmp_path: Path) -> None:
        weights = np.random.default_rng(0).dirichlet(np.ones(3), (64, 3))
        many = ModalityAttention(
            modalities=("text", "video", "audio"), weights=weights, tokens=(9.0, 12.0, 12.0), num_clips=3, block=1
        )
        save(draw_attention(many), tmp_path / "many.png")
        assert size_of(tmp_path / "many.png") == (1000, 600)


class TestTimeline:
    QUESTION = "green with a low tone"

    def test_a_window_as_long_as_a_clip_has_the_score_of_a_query(self, synced_once: Path) -> None:
        project = Project.open(synced_once, read_only=True)
        results = Index(synced_once / "frameloom.yaml").search(text=self.QUESTION, top=8)
        for result in results[:3]:
            found = question_timeline(
                project, self.QUESTION, video=result.video, window_seconds=result.end_seconds, step_seconds=1.0
            )
            assert found.windows.tolist() == [[0.0, result.end_seconds]]
            assert found.modalities == result.modalities
            assert found.similarities[0] == pytest.approx(result.score, abs=1e-5)

    def test_the_video_of_the_best_answer_is_the_default(self, synced_once: Path) -> None:
        project = Project.open(synced_once, read_only=True)
        (best,) = Index(synced_once / "frameloom.yaml").search(text=self.QUESTION, top=1)
        found = question_timeline(project, self.QUESTION, video=None, window_seconds=1.0, step_seconds=0.25)
        assert found.video == best.video
        assert len(found.similarities) == len(found.windows) == 5
        assert found.spans[0][2].startswith("a ")

    def test_a_video_has_many_names_and_some_are_nobody_s(self, synced_once: Path) -> None:
        project = Project.open(synced_once, read_only=True)
        name = "videos/red & low.v1.mp4"
        for given in (name, "red & low.v1.mp4", str(synced_once / name)):
            assert question_timeline(project, "red", video=given, window_seconds=9, step_seconds=1).video == name
        for given, message in (("blue.mp4", "no video 'blue.mp4' in the collection"), ("", "no video ''")):
            with pytest.raises(InputError, match=message):
                question_timeline(project, "red", video=given, window_seconds=1, step_seconds=1)

    @pytest.mark.parametrize(
        ("question", "window", "step", "message"),
        [
            ("red", 0.0, 1.0, "must be above 0"),
            ("red", 1.0, float("nan"), "must be above 0"),
            (" ", 1.0, 1.0, "an empty question"),
            ("xylophone", 1.0, 1.0, "no word of 'xylophone' is in the vocabulary"),
            ("red", 1.0, 1e-9, "take longer steps"),
        ],
    )
    def test_bad_questions_and_lengths(
        self, synced_once: Path, question: str, window: float, step: float, message: str
    ) -> None:
        project = Project.open(synced_once, read_only=True)
        with pytest.raises(InputError, match=message):
            question_timeline(
                project, question, video="videos/red & low.v1.mp4", window_seconds=window, step_seconds=step
            )

    def test_windows_are_whole_but_in_a_video_that_is_shorter(self) -> None:
        assert windows_of(4.0, window=3.0, step=0.5).tolist() == [[0.0, 3.0], [0.5, 3.5], [1.0, 4.0]]
        assert windows_of(2.0, window=3.0, step=0.5).tolist() == [[0.0, 2.0]]

    def test_the_command_draws_and_prints(self, synced_once: Path, tmp_path: Path) -> None:
        out = tmp_path / "time.png"
        result = run("timeline", "red picture", str(out), "--window", "1", "--json", config=synced_once)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert [window["start_seconds"] for window in found["windows"]] == [0.0, 1.0]
        assert size_of(out) == (1000, 500)

    def test_any_question_can_be_drawn(self, tmp_path: Path) -> None:
        windows = windows_of(60.0, window=3.0, step=1.0)
        drawn = Timeline(
            question="what $x^2 costs_ \N{CJK UNIFIED IDEOGRAPH-5B57} " + "very " * 60,
            video="videos/" + "long" * 50 + ".mp4",
            modalities="video",
            windows=windows,
            similarities=np.zeros(len(windows), np.float32),
        )
        save(draw_timeline(drawn), tmp_path / "time.png")
        assert size_of(tmp_path / "time.png") == (1000, 500)


class TestTargets:
    def test_a_place_that_cannot_be_written_is_told_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "taken.png").mkdir()
        for name, message in (
            ("plot.jpg", "give a name that ends in .png"),
            ("nowhere/plot.png", "is not there: make it first"),
            ("taken.png", "is a folder"),
        ):
            result = run("losses", str(tmp_path / name), config=tmp_path)
            assert result.exit_code == 2
            assert message in result.stderr

    def test_there_must_be_a_model(self, synced: Path, tmp_path: Path) -> None:
        write_config(synced, training={"overrides": {"epochs": 3, "min_steps": 0, "batch_size": 4}})
        project = Project.open(synced, read_only=True)
        with pytest.raises(FrameloomError, match="run `frameloom sync` first"):
            project_attention(project, num_clips=1, split=None)
        result = run("timeline", "red", str(tmp_path / "t.png"), config=synced)
        assert result.exit_code == 0  # by the model before
        assert (tmp_path / "t.png").exists()

    def test_losses_without_steps_are_drawn(self, tmp_path: Path) -> None:
        save(
            draw_losses(Losses(folder=tmp_path, steps=(), terms={}, epoch_means=(3.0, 2.0), steps_per_epoch=5)),
            tmp_path / "l.png",
        )
        assert size_of(tmp_path / "l.png") == (1000, 500)
