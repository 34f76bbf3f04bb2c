"""The frozen audio CNN: the network that fusion models have, on any length of sound, with no seam between blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from frameloom._audio_cnns import AUDIO_CNNS
from frameloom._davenet import DAVEnet
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import DecodedAudio, Decoder, backbone_spec, create_backbone, extract_file
from frameloom.extract.backbones.davenet import BLOCK_FRAMES, FrozenDAVEnet
from frameloom.extract.buffers import SampleSpool
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

RATE = 16_000


def some_mel(num_frames: int, *, seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).uniform(-80, 0, (num_frames, 40)).astype(np.float16)


def some_sound(num_samples: int) -> DecodedAudio:
    sound = 0.1 * np.random.default_rng(1).standard_normal(num_samples)
    return DecodedAudio(sound.astype(np.float32), RATE, 2.5)


@pytest.fixture(scope="module")
def tiny() -> FrozenDAVEnet:
    return create_backbone("test_davenet", dtype="float32")


@pytest.mark.parametrize(("name", "dim", "rate_hz"), [("davenet_v1", 1024, 6.25), ("davenet_v2", 4096, 1.5625)])
def test_published_sizes(name: str, dim: int, rate_hz: float) -> None:
    spec = backbone_spec(name)
    assert (spec.dim, spec.rate_hz) == (dim, rate_hz)
    assert BLOCK_FRAMES % AUDIO_CNNS[name].stride == 0


@pytest.mark.parametrize("name", ["davenet_v1", "davenet_v2", "davenet_tiny"])
def test_reach_and_stride_are_those_of_the_network(name: str) -> None:
    shape = AUDIO_CNNS[name]
    narrow = [1 + stage for stage in range(len(shape.widths))]
    network = DAVEnet(mel_bands=1, blocks=shape.blocks, widths=narrow, kernel=shape.kernel).eval().double()
    for parameter in network.parameters():  # positive everywhere, so that nothing cancels and no ReLU closes
        torch.nn.init.constant_(parameter, 0.1)
    token = -(-shape.reach_frames // shape.stride) + 1
    mel = torch.ones(1, (2 * token + 1) * shape.stride, 1, dtype=torch.float64, requires_grad=True)
    network(mel)[0, token].sum().backward()
    seen = torch.nonzero(mel.grad[0, :, 0]).flatten()
    centre = token * shape.stride
    assert (int(seen[0]), int(seen[-1])) == (centre - shape.reach_frames, centre + shape.reach_frames)
    assert network.stride == shape.stride


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(1, 700), block=st.integers(1, 40).map(lambda n: 4 * n))
def test_blocks_leave_no_seam(num_frames: int, block: int) -> None:
    backbone = create_backbone("test_davenet", dtype="float32")
    mel = some_mel(num_frames)
    at_once = backbone.forward(mel)
    backbone.block_frames = block
    assert at_once.shape == (-(-num_frames // 4), 16)
    assert_allclose(backbone.rows(mel), at_once, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["davenet_v1", "davenet_v2"])
def test_blocks_of_the_published_networks_leave_no_seam(name: str) -> None:
    backbone = create_backbone(name, dtype="float32")
    mel = some_mel(5000)
    backbone.block_frames = 2048
    assert_allclose(backbone.rows(mel), backbone.forward(mel), rtol=1e-4, atol=1e-3)


def test_reads_the_spectrogram_as_it_is_stored(tiny: FrozenDAVEnet) -> None:
    sound = some_sound(40_000)
    mel = create_backbone("logmel_avlnet").encode(sound)
    feature = tiny.encode(sound)
    expected = tiny.network(torch.from_numpy(mel.values.astype(np.float32))[None])[0].numpy()
    assert_allclose(feature.values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 159, 160, 640, 16_000, 16_001, 40_000])
def test_rows_share_out_the_track(tiny: FrozenDAVEnet, num_samples: int) -> None:
    feature = tiny.encode(some_sound(num_samples))
    num_frames = 1 + num_samples // 160
    times = feature.times - 2.5
    assert len(times) == -(-num_frames // 4)
    assert times[0, 0] == 0
    assert times[-1, 1] == pytest.approx(num_samples / RATE)
    assert (times[:, 0] < times[:, 1]).all()
    centres = np.arange(len(times)) * 4 * 160 / RATE  # half a window of 25 ms lies on either side
    assert_allclose(times[1:, 0], centres[1:] - 0.0125, atol=1e-9)
    assert_allclose(times[:-1, 1], np.minimum(centres[:-1] + 0.03 + 0.0125, num_samples / RATE), atol=1e-9)


def test_a_spool_gives_what_an_array_gives(tiny: FrozenDAVEnet) -> None:
    sound = some_sound(50_000)
    spool = SampleSpool(max_memory_bytes=1000)
    spool.append(np.asarray(sound.samples[:]))
    assert np.array_equal(tiny.encode(DecodedAudio(spool, RATE, 2.5)).values, tiny.encode(sound).values)
    spool.close()


@pytest.mark.parametrize("prefix", ["", "davenet.", "DAVEnet.", "module.davenet."])
def test_takes_its_part_of_an_official_checkpoint(prefix: str, tmp_path: Path, tiny: FrozenDAVEnet) -> None:
    trained = create_backbone("test_davenet", seed=5, dtype="float32")
    weights = {f"{prefix}{key}": value for key, value in trained.network.state_dict().items()}
    if prefix:
        weights[prefix.replace("davenet", "fusion").replace("DAVEnet", "GU_audio") + "fc.weight"] = torch.ones(3)
    torch.save({"state_dict": weights, "epoch": 1}, tmp_path / "latest_model.pth")
    loaded = create_backbone("test_davenet", weights=tmp_path / "latest_model.pth", dtype="float32")
    sound = some_sound(20_000)
    assert np.array_equal(loaded.encode(sound).values, trained.encode(sound).values)
    assert not np.array_equal(loaded.encode(sound).values, tiny.encode(sound).values)


def test_weights_of_another_size_are_refused_by_key(tiny: FrozenDAVEnet) -> None:
    other = DAVEnet(blocks=(1, 1), widths=(8, 8, 16)).state_dict()
    with pytest.raises(InputError, match=r"layer1\.1\.conv1\.weight is missing"):
        tiny.from_official({f"DAVEnet.{key}": value for key, value in other.items()})


def test_random_weights_tell_sounds_apart_within_float16() -> None:
    backbone = create_backbone("davenet_v1")
    instants = np.arange(3 * RATE) / RATE
    sweep = (0.3 * np.sin(2 * np.pi * 200 * instants**2)).astype(np.float32)
    values = [backbone.encode(DecodedAudio(each, RATE)).values for each in (sweep, some_sound(3 * RATE).samples[:])]
    assert all(np.abs(each).max() < 1000 for each in values)
    first, second = (each.astype(np.float64).mean(axis=0) for each in values)
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) < 0.995


def test_sound_that_cannot_be_used_has_the_spectrogram_s_status(tiny: FrozenDAVEnet) -> None:
    assert tiny.encode(DecodedAudio(np.zeros(0, np.float32), RATE)).status is Status.NO_SAMPLES
    broken = np.full(1000, np.nan, np.float32)
    feature = tiny.encode(DecodedAudio(broken, RATE))
    assert (feature.status, feature.values.shape) == (Status.NON_FINITE, (0, 16))
    silent = tiny.encode(DecodedAudio(np.zeros(1000, np.float32), RATE))
    assert (silent.status, silent.message) == (Status.OK, "the sound track is silent")
    with pytest.raises(InputError, match="16000 are needed"):
        tiny.encode(DecodedAudio(broken, 44_100))


def test_values_beyond_float16_are_a_status() -> None:
    backbone = create_backbone("test_davenet")
    backbone.network.layer2[-1].bn2.weight.fill_(1e9)
    assert backbone.encode(some_sound(5000)).status is Status.NON_FINITE


def test_options() -> None:
    half = create_backbone("test_davenet", precision="bfloat16", dtype="float32")
    sound = some_sound(8000)
    full = create_backbone("test_davenet", dtype="float32").encode(sound).values
    assert_allclose(half.encode(sound).values, full, rtol=0.1, atol=0.05 * np.abs(full).max())
    assert not np.array_equal(half.encode(sound).values, full)
    with pytest.raises(ConfigError, match="needs a GPU"):
        create_backbone("test_davenet", precision="float16")
    with pytest.raises(ConfigError, match="one of float16, float32"):
        backbone_spec("davenet_v2", dtype="uint8")


def test_hears_a_file(clip: Path, decoder: Decoder) -> None:
    feature = extract_file(clip, [create_backbone("test_davenet")], decoder=decoder)["test_davenet"]
    assert feature.status is Status.OK
    assert abs(len(feature.values) - 101) <= 2
    assert feature.times[-1, 1] == pytest.approx(4.0, abs=0.05)
