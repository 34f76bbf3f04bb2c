"""Published models from files: what the authors write is read, and nothing in it runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from frameloom import ConfigError, InputError, UnknownNameError
from frameloom.fuse import create_model
from frameloom.fuse.layers.davenet import AUDIO_CNNS, AudioCNNSpec
from frameloom.train import load_official, read_official
from safetensors.torch import save_file

SIZES = {"video_dim": 24, "text_dim": 12, "width": 16, "heads": 2, "projection_dim": 20}


@pytest.fixture(autouse=True)
def _narrow_audio_cnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUDIO_CNNS._entries, "davenet_v2", AudioCNNSpec((1,) * 6, (8,) * 6 + (16,)))


@pytest.fixture
def model():
    return create_model("everything_at_once", **SIZES).eval()


def same(one, other) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


class TestReading:
    def test_a_whole_checkpoint_brings_its_shape(self, model, tmp_path) -> None:
        path = tmp_path / "latest_model.pth"
        torch.save({**model.to_official(), "optimizer": {"state": {}}, "monitor_best": 0}, path)
        loaded = load_official(path)
        assert same(model, loaded)
        assert same(model, load_official(str(path)))
        assert not loaded.training
        assert loaded.config.width == 16

    @pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin", "weights.safetensors"])
    def test_weights_alone_need_a_shape(self, model, tmp_path, name) -> None:
        path = tmp_path / name
        weights = {f"module.{key}": value for key, value in model.state_dict().items()}
        if path.suffix == ".safetensors":
            save_file(weights, path)
        else:
            torch.save(weights, path)
        assert same(model, load_official(path, **SIZES))
        assert same(model, load_official(path, config=model.to_official()["config"]))
        with pytest.raises(InputError, match="do not fit the model's configuration"):
            load_official(path, model="test_everything_at_once")

    def test_what_does_not_exist_is_named(self, model, tmp_path) -> None:
        path = tmp_path / "weights.pth"
        with pytest.raises(InputError, match=r"no weights at .*weights\.pth"):
            load_official(path)
        torch.save(model.to_official(), path)
        with pytest.raises(UnknownNameError, match="did you mean everything_at_once"):
            load_official(path, model="everything_at_onc")
        with pytest.raises(ConfigError, match="no key 'heads'"):
            load_official(path, config={"video_embed_dim": 24, "text_embed_dim": 12, "fusion_params": {"heads": 2}})


class RunsCode:
    """What a hostile file holds."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


class TestFilesThatAreNotTrusted:
    @pytest.mark.parametrize("how", ["torch", "pickle"])
    def test_code_in_a_file_does_not_run(self, tmp_path, how) -> None:
        path, trace = tmp_path / "model.pth", tmp_path / "trace"
        hostile = {"state_dict": {"a": torch.zeros(1)}, "config": RunsCode(trace)}
        if how == "torch":
            torch.save(hostile, path)
        else:
            path.write_bytes(pickle.dumps(hostile))
        with pytest.raises(InputError, match="are damaged, or more than tensors, numbers and text"):
            read_official(path)
        assert not trace.exists()

    @pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04 no zip", b"\x80\x02."])
    def test_a_damaged_file_is_named(self, tmp_path, name, content) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name} are damaged"):
            read_official(path)

    def test_a_file_cut_short_is_named(self, model, tmp_path) -> None:
        path = tmp_path / "model.pth"
        torch.save(model.to_official(), path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(InputError, match="damaged"):
            read_official(path)

    def test_other_kinds_are_refused(self, tmp_path) -> None:
        allowed = "allowed are .safetensors, .pt, .pth, .bin"
        for name, content, message in (("a.pkl", b"x", allowed), ("a.pth", None, "found Tensor")):
            path = tmp_path / name
            path.write_bytes(content) if content else torch.save(torch.zeros(2), path)
            with pytest.raises(InputError, match=message):
                read_official(path)
