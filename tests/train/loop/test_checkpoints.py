"""Checkpoints: what was saved comes back, damage is found, nothing runs code, a failed save leaves the old one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from frameloom import ConfigError, IntegrityError, OutOfSpaceError
from frameloom._files import FAIL_POINT_VARIABLE, FailPointError
from frameloom.fuse import FusionModel, create_model
from frameloom.train import checkpoint_digest, load_checkpoint, read_checkpoint, save_checkpoint


@pytest.fixture
def model() -> FusionModel:
    return create_model("test_everything_at_once", depth=2)


@pytest.fixture
def folder(tmp_path: Path, model: FusionModel) -> Path:
    save_checkpoint(model, tmp_path / "model", recipe={"name": "r"}, provenance={"features": ["a", "b"]})
    return tmp_path / "model"


def weights_of(folder: Path) -> Path:
    return folder / read_checkpoint(folder).weights_file


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same_weights(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class TestRoundTrip:
    def test_the_model_comes_back(self, folder, model) -> None:
        loaded, meta = load_checkpoint(folder)
        assert load_checkpoint(str(folder))[1] == meta
        assert loaded.name == "test_everything_at_once"
        assert loaded.config == model.config
        assert not loaded.training
        assert same_weights(loaded.state_dict(), model.state_dict())
        assert (meta.recipe, meta.provenance) == ({"name": "r"}, {"features": ["a", "b"]})

    def test_weights_under_two_names_come_back(self, tmp_path) -> None:
        model = create_model("test_everything_at_once", transformer="per_modality", fused_pairs=False)
        save_checkpoint(model, tmp_path)
        loaded, _ = load_checkpoint(tmp_path)
        assert same_weights(loaded.state_dict(), model.state_dict())
        assert loaded.fusion_text is loaded.fusion

    def test_the_digest_is_that_of_name_configuration_and_weights(self, tmp_path, folder, model) -> None:
        digest = checkpoint_digest(folder)
        assert digest == load_checkpoint(folder)[1].digest
        save_checkpoint(model, tmp_path / "again", provenance={"another": "story"})
        assert checkpoint_digest(tmp_path / "again") == digest
        with torch.no_grad():
            model.fusion.masking_token += 1e-3
        save_checkpoint(model, tmp_path / "moved")
        assert checkpoint_digest(tmp_path / "moved") != digest

    def test_another_digest_than_expected_is_refused(self, folder) -> None:
        load_checkpoint(folder, expected_digest=checkpoint_digest(folder))
        with pytest.raises(IntegrityError, match="0000 was expected"):
            load_checkpoint(folder, expected_digest="0000")

    def test_a_new_checkpoint_takes_the_place_of_the_old(self, folder) -> None:
        other = create_model("test_everything_at_once")
        save_checkpoint(other, folder)
        assert same_weights(load_checkpoint(folder)[0].state_dict(), other.state_dict())
        assert len(list(folder.iterdir())) == 2

    def test_the_digest_needs_no_torch(self, folder) -> None:
        code = f"""
import sys
from pathlib import Path
from frameloom.train import checkpoint_digest
print(checkpoint_digest(Path({str(folder)!r})), "torch" in sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [checkpoint_digest(folder), "False"]


class TestDamage:
    @pytest.mark.parametrize("where", [0, 9, 300, -1], ids=["length", "header", "inside", "last"])
    def test_one_flipped_bit_is_found(self, folder, where) -> None:
        path = weights_of(folder)
        data = bytearray(path.read_bytes())
        data[where] ^= 4
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match="SHA-256"):
            load_checkpoint(folder)

    def test_truncation_and_loss_are_found(self, folder) -> None:
        path = weights_of(folder)
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(IntegrityError, match="damaged"):
            load_checkpoint(folder)
        path.unlink()
        with pytest.raises(IntegrityError, match="missing"):
            load_checkpoint(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"model": "x"}', '{"stranger": 1}'])
    def test_a_damaged_description_is_found(self, folder, text) -> None:
        (folder / "model.json").write_text(text)
        with pytest.raises(IntegrityError, match=r"model\.json is damaged"):
            checkpoint_digest(folder)

    def test_an_empty_folder_says_what_to_do(self, tmp_path) -> None:
        with pytest.raises(ConfigError, match=r"no trained model in .* Train one"):
            checkpoint_digest(tmp_path)

    def test_a_newer_format_is_not_guessed_at(self, folder) -> None:
        rewrite(folder, format=2, code_version="7.1.0", what_7_knows=[1])
        with pytest.raises(ConfigError, match=r"format 2.* Install frameloom 7\.1\.0"):
            checkpoint_digest(folder)

    def test_a_description_cannot_reach_out_of_its_folder(self, folder) -> None:
        rewrite(folder, weights_file="../model.safetensors")
        with pytest.raises(IntegrityError, match="outside its folder"):
            load_checkpoint(folder)

    def test_weights_of_another_configuration_are_listed(self, folder) -> None:
        meta = json.loads((folder / "model.json").read_text())
        rewrite(folder, config={**meta["config"], "depth": 1})
        with pytest.raises(IntegrityError, match=r"unexpected: fusion\.blocks\.1\.attn.* and 7 more"):
            load_checkpoint(folder)

    def test_a_pickle_is_never_opened(self, folder) -> None:
        canary = folder / "canary"

        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (canary,))

        import hashlib

        data = pickle.dumps(Payload())
        weights_of(folder).write_bytes(data)
        rewrite(folder, weights_sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(IntegrityError, match="not a safetensors file"):
            load_checkpoint(folder)
        assert not canary.exists()

    def test_weights_that_are_not_finite_are_not_saved(self, folder, model) -> None:
        before = checkpoint_digest(folder)
        with torch.no_grad():
            model.fusion.masking_token[0] = torch.nan
        with pytest.raises(IntegrityError, match=r"not finite: fusion\.masking_token"):
            save_checkpoint(model, folder)
        assert checkpoint_digest(folder) == before

    def test_what_json_cannot_keep_is_refused(self, tmp_path, model) -> None:
        with pytest.raises(ConfigError, match="values for JSON only"):
            save_checkpoint(model, tmp_path, provenance={"path": tmp_path})


class TestFailedSave:
    @pytest.mark.parametrize("step", ["written", "renamed"])
    @pytest.mark.parametrize("nth", [1, 2], ids=["weights", "description"])
    @pytest.mark.parametrize("action", ["raise", "full"])
    def test_the_checkpoint_is_the_old_or_the_new_one_whole(self, folder, monkeypatch, step, nth, action) -> None:
        before = checkpoint_digest(folder)
        other = create_model("test_everything_at_once")
        from frameloom import _files as _commit

        _commit._passes.clear()
        monkeypatch.setenv(FAIL_POINT_VARIABLE, f"checkpoint.{step}:{action}:{nth}")
        with pytest.raises(FailPointError if action == "raise" else OutOfSpaceError):
            save_checkpoint(other, folder)
        monkeypatch.delenv(FAIL_POINT_VARIABLE)
        _, meta = load_checkpoint(folder)
        committed = (step, nth) == ("renamed", 2)
        assert (meta.digest == before) is not committed
        assert not list(folder.glob(".*"))
        save_checkpoint(other, folder)
        assert same_weights(load_checkpoint(folder)[0].state_dict(), other.state_dict())
        assert len(list(folder.iterdir())) == 2
