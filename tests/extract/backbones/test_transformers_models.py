"""Dual encoders of transformers through the generic backbones, against calling transformers itself."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from frameloom._vocabulary import ConfigError, InputError, Modality, Status
from frameloom.extract import DecodedAudio, DecodedFrames, backbone_spec, create_backbone, weights_digest
from frameloom.extract.windows.sampling import Windows
from frameloom.store import feature_fingerprint
from helpers.models import FAMILIES, PICTURES, POSITIONS, SOUND, save_model, tokenizer
from safetensors.torch import load_file, save_file

TEXTS = ["a dog", "a dog does a trick", "the red picture of a cat"]
RATE = 48_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that gives the folder of a family, which is made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.exists() else save_model(family, path)

    return folder


@pytest.fixture
def copied(folders: Any, tmp_path: Path) -> Path:
    """A folder of a CLIP that a test may spoil."""
    return Path(shutil.copytree(folders("clip"), tmp_path / "clip"))


def some_frames(count: int = 5, *, height: int = 40, width: int = 52) -> DecodedFrames:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return DecodedFrames(frames, np.stack([np.arange(count), np.arange(count) + 1.0], axis=1))


def some_sound(seconds: float, *, start: float = 0.0) -> DecodedAudio:
    rng = np.random.default_rng(4)
    return DecodedAudio((0.1 * rng.standard_normal(int(seconds * RATE))).astype(np.float32), RATE, start)


def official(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    return getattr(transformers, config["architectures"][0]).from_pretrained(folder).eval()


def pooled(found: Any) -> np.ndarray:
    return (found if torch.is_tensor(found) else found.pooler_output).numpy()


@torch.inference_mode()
def official_texts(folder: Path, texts: list[str]) -> np.ndarray:
    """Each text by itself, as the model's documentation calls it."""
    network, tokenizer = official(folder), transformers.AutoTokenizer.from_pretrained(folder)
    is_siglip = network.config.model_type.startswith("siglip")
    rows = []
    for text in texts:
        inputs = tokenizer([text], padding="max_length" if is_siglip else True, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        if type(network).__name__ == "BlipForImageTextRetrieval":
            rows.append(network.text_proj(network.text_encoder(**inputs).last_hidden_state[:, 0]).numpy())
        else:
            rows.append(pooled(network.get_text_features(**inputs)))
    return np.concatenate(rows)


@torch.inference_mode()
def official_pictures(folder: Path, frames: np.ndarray) -> np.ndarray:
    network, processor = official(folder), transformers.AutoImageProcessor.from_pretrained(folder)
    if hasattr(network, "get_video_features"):
        inputs = processor([list(frames)], return_tensors="pt")
        return pooled(network.get_video_features(**inputs))
    inputs = processor(list(frames), return_tensors="pt")
    if type(network).__name__ == "BlipForImageTextRetrieval":
        return network.vision_proj(network.vision_model(**inputs).last_hidden_state[:, 0]).numpy()
    return pooled(network.get_image_features(**inputs))


@pytest.mark.parametrize("family", FAMILIES)
class TestTexts:
    def test_equal_transformers_itself(self, folders: Any, family: str) -> None:
        backbone = create_backbone("transformers_text", weights=folders(family), dtype="float32")
        rows = np.concatenate([backbone.encode(text).values for text in TEXTS])
        expected = official_texts(folders(family), TEXTS)
        assert rows.shape == (len(TEXTS), backbone.spec.dim)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)
        assert not np.allclose(rows[0], rows[1], atol=1e-3)

    def test_a_long_text_is_cut_where_the_model_ends(self, folders: Any, family: str) -> None:
        backbone = create_backbone("transformers_text", weights=folders(family), dtype="float32")
        feature = backbone.encode("a dog does a trick " * 50)
        assert feature.message == f"only the first {POSITIONS} tokens were read"
        np.testing.assert_allclose(
            feature.values, official_texts(folders(family), ["a dog does a trick " * 50]), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("family", PICTURES)
class TestPictures:
    def test_equal_transformers_itself_on_the_same_frames(self, folders: Any, family: str) -> None:
        backbone = create_backbone("transformers_video", weights=folders(family), dtype="float32")
        frames = some_frames(4)
        feature = backbone.encode(frames)
        expected = official_pictures(folders(family), frames.frames)
        assert feature.values.shape == expected.shape == (1 if family == "x_clip" else 4, backbone.spec.dim)
        np.testing.assert_allclose(feature.values, expected, rtol=1e-5, atol=1e-5)

    def test_have_the_width_of_texts(self, folders: Any, family: str) -> None:
        specs = [backbone_spec(f"transformers_{kind}", weights=folders(family)) for kind in ("video", "text")]
        assert specs[0].dim == specs[1].dim
        assert [spec.modality for spec in specs] == [Modality.VIDEO, Modality.TEXT]

    def test_a_portrait_is_prepared_as_the_processor_does(self, folders: Any, family: str) -> None:
        backbone = create_backbone("transformers_video", weights=folders(family), dtype="float32")
        frames = some_frames(4, height=90, width=32)
        np.testing.assert_allclose(
            backbone.encode(frames).values, official_pictures(folders(family), frames.frames), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("family", "short_side", "crop"),
    [("clip", 32, 32), ("siglip", 32, None), ("siglip2", 32, None), ("align", 40, None), ("x_clip", 32, 32)],
)
def test_the_decoder_s_picture_follows_from_the_processor(
    folders: Any, family: str, short_side: int, crop: Any
) -> None:
    facts = backbone_spec("transformers_video", weights=folders(family)).preprocessing
    assert (facts["short_side"], facts["crop"]) == (short_side, crop)


def test_a_processor_that_scales_before_it_cuts_sees_the_whole_picture(copied: Path) -> None:
    path = copied / "preprocessor_config.json"
    data = json.loads(path.read_text())
    data["size"] = {"shortest_edge": 40}
    path.write_text(json.dumps(data))
    facts = backbone_spec("transformers_video", weights=copied).preprocessing
    assert (facts["short_side"], facts["crop"]) == (40, None)
    frames = some_frames(2, height=40, width=60)
    backbone = create_backbone("transformers_video", weights=copied, dtype="float32")
    np.testing.assert_allclose(
        backbone.encode(frames).values, official_pictures(copied, frames.frames), rtol=1e-5, atol=1e-5
    )


def test_a_folder_as_a_whole_processor_saves_it(folders: Any, copied: Path) -> None:
    """In transformers 5 one file holds what several did."""
    parts = transformers.CLIPImageProcessor.from_pretrained(copied), transformers.AutoTokenizer.from_pretrained(copied)
    (copied / "preprocessor_config.json").unlink()
    transformers.CLIPProcessor(*parts).save_pretrained(copied)
    assert (copied / "processor_config.json").is_file()
    assert not (copied / "preprocessor_config.json").exists()
    rows = [
        create_backbone("transformers_video", weights=folder).encode(some_frames()).values
        for folder in (copied, folders("clip"))
    ]
    assert np.array_equal(*rows)


def test_weights_in_several_files(folders: Any, copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    official(folders("clip")).save_pretrained(copied, max_shard_size="20KB")
    assert len([*copied.glob("model-*.safetensors")]) > 1
    rows = [
        create_backbone("transformers_text", weights=folder).encode("a dog").values
        for folder in (copied, folders("clip"))
    ]
    assert np.array_equal(*rows)


class TestTraps:
    """What differs from family to family without an error."""

    def test_siglip_reads_texts_that_are_padded_to_the_end(self, folders: Any) -> None:
        backbone = create_backbone("transformers_text", weights=folders("siglip"), dtype="float32")
        network, tokenizer = official(folders("siglip")), backbone.tokenizer  # type: ignore[attr-defined]
        assert backbone.spec.sampling["padding"] == "max_length"
        with torch.inference_mode():
            short = pooled(network.get_text_features(**tokenizer(["a dog"], return_tensors="pt")))
        assert not np.allclose(backbone.encode("a dog").values, short, atol=1e-3)

    def test_naflex_gives_each_shape_its_own_patches(self, folders: Any) -> None:
        backbone = create_backbone("transformers_video", weights=folders("siglip2"))
        wide, tall = (some_frames(1, height=h, width=w).frames for h, w in ((32, 64), (64, 32)))
        inputs = [backbone.prepare(torch.from_numpy(frames[:, None])) for frames in (wide, tall)]  # type: ignore[attr-defined]
        assert inputs[0].keys() == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
        assert inputs[0]["spatial_shapes"].tolist() == [[3, 6]]
        assert inputs[1]["spatial_shapes"].tolist() == [[6, 3]]
        assert inputs[0]["pixel_attention_mask"].sum() == 18

    def test_align_reads_64_tokens_however_many_positions_it_has(self, folders: Any, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(folders("align"), tmp_path / "align"))
        for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
            data = json.loads((folder / name).read_text())
            data.get("text_config", data)[key] = 512
            (folder / name).write_text(json.dumps(data))
        assert backbone_spec("transformers_text", weights=folder).sampling["max_tokens"] == 64

    def test_positions_of_roberta_begin_after_its_padding(self, folders: Any) -> None:
        for family in ("altclip", "clap"):
            config = json.loads((folders(family) / "config.json").read_text())["text_config"]
            assert config["max_position_embeddings"] == POSITIONS + 1
            assert backbone_spec("transformers_text", weights=folders(family)).sampling["max_tokens"] == POSITIONS

    def test_x_clip_reads_windows_and_a_last_one_that_is_filled_up(self, folders: Any) -> None:
        backbone = create_backbone("transformers_video", weights=folders("x_clip"), dtype="float32")
        assert Windows.from_data(backbone.spec.sampling) == Windows(
            frame_rate_hz=1, num_frames=4, stride_frames=4, end="repeat"
        )
        frames = some_frames(6)
        feature = backbone.encode(frames)
        assert feature.times.tolist() == [[0, 4], [4, 6]]
        last = frames.frames[[4, 5, 5, 5]]
        np.testing.assert_allclose(feature.values[1:], official_pictures(folders("x_clip"), last), rtol=1e-5, atol=1e-5)

    @torch.inference_mode()
    def test_x_clip_s_text_rows_are_not_those_that_a_video_changed(self, folders: Any) -> None:
        network, folder = official(folders("x_clip")), folders("x_clip")
        inputs = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
        pixels = transformers.AutoImageProcessor.from_pretrained(folder)(
            [list(some_frames(4).frames), list(some_frames(8).frames[4:])], return_tensors="pt"
        )
        changed = network(**{name: inputs[name] for name in ("input_ids", "attention_mask")}, **pixels).text_embeds
        assert changed.shape == (2, len(TEXTS), 12)  # a row for each text and video: nothing to keep in a table
        backbone = create_backbone("transformers_text", weights=folder, dtype="float32")
        (row,) = backbone.encode(TEXTS[0]).values
        assert not np.allclose(row / np.linalg.norm(row), changed[0, 0], atol=1e-3)


@pytest.mark.parametrize("family", SOUND)
class TestSound:
    @torch.inference_mode()
    def test_windows_equal_transformers_itself(self, folders: Any, family: str) -> None:
        backbone = create_backbone("transformers_audio", weights=folders(family), dtype="float32")
        sampling = backbone.spec.sampling
        assert (sampling["sample_rate_hz"], sampling["window_samples"]) == (48_000, 480_000)
        sound = some_sound(23.5, start=2.0)
        feature = backbone.encode(sound)
        assert feature.times.tolist() == [[2, 12], [12, 22], [22, 25.5]]
        network = official(folders(family))
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folders(family))
        rows = [
            pooled(network.get_audio_features(**extractor(part, sampling_rate=RATE, return_tensors="pt")))
            for part in np.split(sound.samples[:], [10 * RATE, 20 * RATE])
        ]
        np.testing.assert_allclose(feature.values, np.concatenate(rows), rtol=1e-5, atol=1e-5)
        assert backbone.spec.dim == backbone_spec("transformers_text", weights=folders(family)).dim

    def test_a_window_does_not_depend_on_its_neighbours(self, folders: Any, family: str) -> None:
        """The extractor marks one of several windows as longer than it is, by chance."""
        backbone = create_backbone("transformers_audio", weights=folders(family), dtype="float32")
        sound = some_sound(30)
        together = backbone.encode(sound).values
        alone = backbone.encode(DecodedAudio(sound.samples[20 * RATE :], RATE)).values
        np.testing.assert_allclose(together[2:], alone, rtol=1e-5, atol=1e-5)

    def test_a_rest_of_less_than_a_second_is_left_out(self, folders: Any, family: str) -> None:
        backbone = create_backbone("transformers_audio", weights=folders(family))
        feature = backbone.encode(some_sound(10.5))
        assert len(feature.values) == 1
        assert feature.message == "the last 0.50 s of sound are too short for a row"
        assert len(backbone.encode(some_sound(0.5)).values) == 1


def test_sound_that_is_none_is_a_status(folders: Any) -> None:
    backbone = create_backbone("transformers_audio", weights=folders("clap"))
    assert backbone.encode(some_sound(0)).status is Status.NO_SAMPLES
    broken = some_sound(2).samples[:].copy()
    broken[7] = np.nan
    assert backbone.encode(DecodedAudio(broken, RATE)).status is Status.NON_FINITE
    with pytest.raises(InputError, match="16000 samples a second; 48000 are needed"):
        backbone.encode(DecodedAudio(broken, 16_000))


class TestPrompts:
    def test_go_around_the_text(self, folders: Any) -> None:
        plain, prompted = (
            create_backbone("transformers_text", weights=folders("clip"), dtype="float32", prompt=prompt)
            for prompt in ("{}", "a photo of {}")
        )
        assert np.array_equal(prompted.encode("a dog").values, plain.encode("a photo of a dog").values)
        assert prompted.encode("  ").status is Status.NO_TEXT

    def test_small_letters_where_they_are_asked_for(self, folders: Any) -> None:
        plain = create_backbone("transformers_text", weights=folders("siglip"), dtype="float32")
        lower = create_backbone("transformers_text", weights=folders("siglip"), dtype="float32", lower_case=True)
        assert np.array_equal(lower.encode("A Dog").values, plain.encode("a dog").values)
        assert not np.array_equal(plain.encode("A Dog").values, plain.encode("a dog").values)

    @pytest.mark.parametrize(
        "options", [{"prompt": "a photo"}, {"prompt": "{} {}"}, {"prompt": 3}, {"lower_case": "no"}]
    )
    def test_that_cannot_be_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            backbone_spec("transformers_text", **options)


class TestIdentity:
    def test_differs_with_prompt_and_weights(self, folders: Any, tmp_path: Path) -> None:
        other = save_model("clip", tmp_path / "other", seed=1)

        def fingerprint(folder: Path, **options: Any) -> str:
            spec = backbone_spec("transformers_text", weights=folder, **options)
            return feature_fingerprint("digest", spec, weights_digest("transformers_text", folder))

        found = [
            fingerprint(folders("clip")),
            fingerprint(folders("clip"), prompt="a photo of {}"),
            fingerprint(folders("clip"), lower_case=True),
            fingerprint(other),
            fingerprint(folders("siglip")),
        ]
        assert len(set(found)) == len(found)

    def test_is_the_same_wherever_the_folder_lies(self, folders: Any, copied: Path) -> None:
        for name in ("transformers_text", "transformers_video"):
            first, second = (
                (backbone_spec(name, weights=folder).identity(), weights_digest(name, folder))
                for folder in (folders("clip"), copied)
            )
            assert first == second

    def test_is_read_anew_when_a_file_of_the_folder_changes(self, copied: Path) -> None:
        before = backbone_spec("transformers_text", weights=copied)
        path = copied / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 8}))
        assert before.sampling["max_tokens"] == POSITIONS
        assert backbone_spec("transformers_text", weights=copied).sampling["max_tokens"] == 8


def spoil(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestBadFolders:
    """One line each, before anything is extracted."""

    def refused(self, folder: Path | str, words: str, name: str = "transformers_video") -> None:
        with pytest.raises((ConfigError, InputError), match=words) as caught:
            create_backbone(name, weights=folder)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700

    def test_without_weights_or_folder(self, tmp_path: Path, copied: Path) -> None:
        with pytest.raises(ConfigError, match="needs weights: give a folder as transformers saves a model, or hf://"):
            create_backbone("transformers_text")
        self.refused(tmp_path / "none", "are not a f")
        self.refused(copied / "model.safetensors", "are not a folder")

    def test_empty_or_of_something_else(self, tmp_path: Path, copied: Path) -> None:
        self.refused(tmp_path / "empty", "holds no weights") if (tmp_path / "empty").mkdir() else None
        (copied / "config.json").unlink()
        self.refused(copied, r"holds no config\.json")

    def test_pickles_alone(self, copied: Path) -> None:
        torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
        (copied / "model.safetensors").unlink()
        self.refused(copied, r"weights as pickles alone \(pytorch_model\.bin\): only \.safetensors are read")

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
    def test_code_of_its_own(self, copied: Path, name: str) -> None:
        canary = copied / "canary"
        (copied / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
        spoil(copied, name, auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})
        self.refused(copied, rf"{name} asks for code of its own \(auto_map\), which is never run")
        assert not canary.exists()

    def test_kernels_of_others(self, copied: Path) -> None:
        spoil(copied, "config.json", attn_implementation="kernels-community/flash-attn")
        self.refused(copied, "asks for attn_implementation 'kernels-community/flash-attn'")

    def test_an_adapter(self, copied: Path) -> None:
        (copied / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
        self.refused(copied, "holds an adapter, not a model")

    def test_a_model_that_is_no_dual_encoder(self, tmp_path: Path) -> None:
        config = transformers.BertConfig(
            vocab_size=24, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        transformers.BertModel(config).save_pretrained(tmp_path)
        self.refused(tmp_path, "holds BertModel, which does not bring texts and pictures, video or sound to one space")

    def test_one_tower_alone(self, copied: Path, tmp_path: Path) -> None:
        vision = transformers.CLIPVisionModelWithProjection.from_pretrained(copied)
        vision.save_pretrained(tmp_path / "vision")
        self.refused(tmp_path / "vision", "holds CLIPVisionModelWithProjection, which does not bring")

    @pytest.mark.parametrize("architectures", [None, [], ["Trainer"], ["CLIPTextModel"], ["os"], ["BertModel"], "CLIP"])
    def test_a_name_that_is_no_dual_encoder_s(self, copied: Path, architectures: Any) -> None:
        spoil(copied, "config.json", architectures=architectures)
        self.refused(copied, "which does not bring|cannot be read")

    def test_a_family_that_this_transformers_lacks(self, copied: Path) -> None:
        spoil(copied, "config.json", model_type="clip_of_tomorrow")
        self.refused(copied, r"family 'clip_of_tomorrow', which transformers [\d.]+ does not know: install a newer")

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("content", ["{", "[]", "\x00", '"clip"'])
    def test_wrong_json(self, copied: Path, name: str, content: str) -> None:
        (copied / name).write_text(content)
        self.refused(copied, f"{name} is damaged")

    def test_parts_that_are_missing(self, copied: Path) -> None:
        (copied / "preprocessor_config.json").unlink()
        self.refused(copied, r"the image processor \(preprocessor_config\.json\) in .* cannot be read")
        (copied / "tokenizer.json").unlink()
        (copied / "tokenizer_config.json").unlink()
        self.refused(copied, r"no vocabulary in .*: it needs tokenizer\.json or", "transformers_text")

    def test_a_damaged_vocabulary(self, copied: Path) -> None:
        path = copied / "tokenizer.json"
        path.write_text(path.read_text()[:-200])
        self.refused(copied, r"the vocabulary \(tokenizer\.json\) in .* cannot be read", "transformers_text")

    def test_a_vocabulary_that_the_network_does_not_know(self, copied: Path) -> None:
        made = tokenizer(model_max_length=POSITIONS)
        made.add_tokens([f"word{number}" for number in range(30)])
        made.save_pretrained(copied)
        backbone = create_backbone("transformers_text", weights=copied)
        with pytest.raises(InputError, match="has token 37; the network knows 24 tokens"):
            backbone.encode("a dog word18")

    def test_media_that_the_model_does_not_read(self, folders: Any) -> None:
        self.refused(folders("clap"), "ClapModel in .* reads texts and sound: use it with transformers_audio")
        self.refused(folders("clip"), "reads texts and pictures: use it with transformers_video", "transformers_audio")

    def test_damaged_weights(self, copied: Path) -> None:
        path = copied / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(copied, "the weights in .* cannot be read")

    def test_weights_of_another_shape(self, copied: Path) -> None:
        weights = load_file(copied / "model.safetensors")
        weights["visual_projection.weight"] = torch.zeros(7, 16)
        save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
        self.refused(copied, "the weights in .* cannot be read")

    @pytest.mark.parametrize("change", [lambda weight: None, lambda weight: torch.full_like(weight, torch.nan)])
    def test_weights_that_a_row_needs_and_lacks(self, copied: Path, change: Any) -> None:
        """The other tower, which does not need them, is read."""
        weights = load_file(copied / "model.safetensors")
        weights["visual_projection.weight"] = change(weights["visual_projection.weight"])
        kept = {name: weight for name, weight in weights.items() if weight is not None}
        save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
        self.refused(copied, "the weights in .* are not whole")
        assert create_backbone("transformers_text", weights=copied).encode("a dog").status is Status.OK


class TestAsAnyBackbone:
    @pytest.fixture(params=["transformers_text", "transformers_video", "transformers_audio"])
    def made(self, request: pytest.FixtureRequest, folders: Any) -> tuple[str, Path, Any, Any]:
        name = request.param
        items = {"text": "a dog", "video": some_frames(), "audio": some_sound(3)}
        folder = folders("clap" if name == "transformers_audio" else "clip")
        return name, folder, create_backbone(name, weights=folder), items

    def test_is_what_its_specification_says(self, made: Any) -> None:
        name, folder, backbone, items = made
        assert backbone.spec == backbone_spec(name, weights=folder)
        assert backbone.weights_digest == weights_digest(name, folder)
        feature = backbone.encode(items[backbone.spec.modality])
        assert feature.values.dtype == backbone.spec.dtype == "float16"
        assert feature.values.shape == (len(feature.times), backbone.spec.dim)
        again = create_backbone(name, weights=folder).encode(items[backbone.spec.modality])
        assert again.values.tobytes() == feature.values.tobytes()
        for kind, item in items.items():
            if kind != backbone.spec.modality:
                with pytest.raises(InputError, match=name):
                    backbone.encode(item)

    def test_asks_no_network_and_leaves_torch_s_generator_alone(
        self, made: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        name, folder, _, _ = made
        monkeypatch.setattr(socket, "socket", None)
        before = torch.get_rng_state()
        create_backbone(name, weights=folder)
        assert torch.equal(torch.get_rng_state(), before)
        assert capfd.readouterr() == ("", "")

    def test_keeps_its_own_tower_alone(self, made: Any) -> None:
        _name, folder, backbone, _ = made
        whole = sum(weight.numel() for weight in official(folder).parameters())
        assert sum(weight.numel() for weight in backbone.network.parameters()) < 0.75 * whole
