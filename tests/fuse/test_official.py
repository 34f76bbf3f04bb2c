"""The authors' checkpoints and configurations of Everything at Once, both ways.

Every configuration of their repository is here as the arguments in which it departs from the main one, at small width:
the audio CNNs keep their names and their stages, and are narrow. That the numbers are theirs is for the golden cases.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import FusionModel, create_model
from frameloom.fuse.everything_at_once.official import official_config, to_official_config
from frameloom.fuse.layers.davenet import AUDIO_CNNS, AudioCNNSpec

MAIN = {
    "video_embed_dim": 24,
    "text_embed_dim": 12,
    "davenet_v2": True,
    "strategy_audio_pooling": "none",
    "token_projection": "gated",
    "use_positional_emb": False,
    "individual_projections": True,
    "fusion_params": {"embed_dim": 32, "use_cls_token": False, "depth": 1, "num_heads": 8, "mlp_ratio": 1},
    "projection_dim": 20,
    "projection": "gated",
}
PAIRS_ALONE = {"tv_weight": 1, "ta_weight": 0.1, "va_weight": 0.1}
PUBLISHED = {**PAIRS_ALONE, "t_va_weight": 0.1, "v_ta_weight": 0.1, "a_tv_weight": 0.1}
EQUAL = dict.fromkeys(PUBLISHED, 1)
POSITIONS = {
    "use_positional_emb": True,
    "video_max_tokens": 6,
    "text_max_tokens": 5,
    "audio_max_num_STFT_frames": 128,
}


def described(
    kind: str = "EverythingAtOnceModel", loss: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A configuration document, as the authors write it; `fusion_params` names what differs from the main one."""
    fusion = {**MAIN["fusion_params"], **changes.pop("fusion_params", {})}
    if kind == "TransformerPerModalityModel":
        args = {name: value for name, value in MAIN.items() if name != "individual_projections"}
    else:
        args = dict(MAIN)
    document = {"n_gpu": 4, "arch": {"type": kind, "args": {**args, **changes, "fusion_params": fusion}}}
    return document | ({"loss": {"type": "CombinatorialLoss", "args": loss}} if loss else {})


CONFIGS = {
    "everything_at_once_tva": described(loss=PUBLISHED),
    "everything_at_once_tv": described("EverythingAtOnceModel_TV_Only", PAIRS_ALONE),
    "fusion_no_comb": described(loss=PAIRS_ALONE, cross_modal=False),
    "no_transformers": described(loss=PAIRS_ALONE, cross_modal=False, fusion_params={"depth": 0}),
    "single_modality_transformer": described("TransformerPerModalityModel", PAIRS_ALONE),
    "aligned_audio_text": described(loss=EQUAL),
    "disentangled_equal_weights": described(loss=EQUAL),
    "cls_token": described(loss=PUBLISHED, individual_projections=False, fusion_params={"use_cls_token": True}),
    "shared_final_proj": described(loss=PUBLISHED, individual_projections=False),
    "4_blocks_1024": described(loss=PUBLISHED, fusion_params={"embed_dim": 8, "depth": 4, "num_heads": 2}),
    "2_blocks_2048": described(loss=PUBLISHED, fusion_params={"embed_dim": 16, "depth": 2, "num_heads": 4}),
    "2_blocks_4096_112x10": described(loss=PUBLISHED, fusion_params={"depth": 2}),
    "2_blocks_4096_224x5": described(loss=PUBLISHED, fusion_params={"depth": 2}),
    "clip": described(loss=PUBLISHED, video_embed_dim=16, text_embed_dim=16),
    "s3d": described(loss=PUBLISHED, video_embed_dim=18),
    "msrvtt_max": described(audio_max_num_STFT_frames=128, strategy_audio_pooling="max_pool"),
    "msrvtt_nearest": described(audio_max_num_STFT_frames=128, strategy_audio_pooling="nearest"),
    "youcook_max": described(audio_max_num_STFT_frames=128, strategy_audio_pooling="max_pool"),
    "youcook_nearest": described(audio_max_num_STFT_frames=128, strategy_audio_pooling="nearest"),
    "pos_msrvtt_max": described(**POSITIONS, strategy_audio_pooling="max_pool"),
    "pos_msrvtt_nearest": described(**POSITIONS, strategy_audio_pooling="nearest"),
    "pos_youcook_clips": described(**POSITIONS),
    "pos_youcook_max": described(**POSITIONS, strategy_audio_pooling="max_pool"),
    "pos_youcook_nearest": described(**POSITIONS, strategy_audio_pooling="nearest"),
}
FULL_SIZES = {  # width, depth, heads, video, text: of the published sizes
    "everything_at_once_tva": (4096, 1, 64, 4096, 300),
    "4_blocks_1024": (1024, 4, 16, 4096, 300),
    "2_blocks_2048": (2048, 2, 32, 4096, 300),
    "2_blocks_4096": (4096, 2, 64, 4096, 300),
    "clip": (4096, 1, 64, 512, 512),
    "s3d": (4096, 1, 64, 1024, 300),
}


@pytest.fixture(params=CONFIGS)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIGS[request.param]


@pytest.fixture(autouse=True)
def _narrow_audio_cnns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, num_stages in (("davenet_v1", 4), ("davenet_v2", 6)):
        spec = AudioCNNSpec((1,) * num_stages, (8,) * num_stages + (16,))
        monkeypatch.setitem(AUDIO_CNNS._entries, name, spec)


def built(document: dict[str, Any]) -> FusionModel:
    return create_model("everything_at_once", **official_config(document)).eval()


def batch_for(model: FusionModel, make_batch) -> dict[str, Any]:
    """Rows of the model's own widths; audio long enough to be reduced, unless positions end before."""
    config = model.config
    is_limited = config.positional and config.audio_reduction == "none"
    batch = make_batch({"audio": (128, 128, 64, 70) if is_limited else (300, 0, 64, 150)}, modalities=model.modalities)
    widths = {"video": config.video_dim, "text": config.text_dim, "audio": 40}
    return {
        name: tokens._replace(values=torch.randn(*tokens.mask.shape, widths[name])) for name, tokens in batch.items()
    }


class TestEveryPublishedConfiguration:
    def test_builds_and_trains(self, document, make_batch) -> None:
        model = built(document)
        loss, terms = model.train().loss(batch_for(model, make_batch))
        loss.backward()
        assert loss.isfinite()
        kind, args = document["arch"]["type"], document["arch"]["args"]
        fused = kind == "EverythingAtOnceModel" and args.get("cross_modal", True)
        assert len(terms) == (6 if fused else 1 if kind.endswith("TV_Only") else 3)
        weights = document.get("loss", {"args": PUBLISHED})["args"]
        for name, weight in zip(PUBLISHED, model.config.loss_weights(("text", "video", "audio")).values(), strict=True):
            assert weight == weights.get(name, 0.0)

    def test_a_whole_checkpoint_becomes_the_model(self, document, make_batch) -> None:
        source = built(document)
        batch = batch_for(source, make_batch)
        checkpoint = {
            "arch": "DataParallel",
            "epoch": 15,
            "step": 7,
            "state_dict": {f"module.{name}": value for name, value in source.state_dict().items()},
            "optimizer": {"state": {}},
            "monitor_best": 0,
            "config": document,
        }
        loaded = create_model("test_everything_at_once").from_official(checkpoint).eval()
        assert loaded.name == "everything_at_once"
        assert loaded.config.audio_padding == "published"
        source = source.from_official(source.state_dict())
        for names in ([name] for name in source.modalities):
            given = {name: batch[name] for name in names}
            assert torch.equal(loaded.encode(**given), source.encode(**given))

    def test_it_goes_to_the_authors_and_back(self, document, make_batch) -> None:
        model = built(document)
        model = model.from_official(model.state_dict())
        batch = batch_for(model, make_batch)
        theirs = model.to_official()
        assert theirs["arch"] == theirs["config"]["arch"]["type"] == document["arch"]["type"]
        again = create_model("test_everything_at_once").from_official(theirs).eval()
        assert again.config == model.config
        vectors, others = model.embeddings(batch).vectors, again.embeddings(batch).vectors
        assert vectors.keys() == others.keys()
        assert all(torch.equal(vector, others[name]) for name, vector in vectors.items())
        assert torch.equal(model.loss(batch)[0], again.loss(batch)[0])

    def test_their_arguments_come_back(self, document) -> None:
        """All that the document says of class, arguments and loss is said again, with their defaults written out."""
        theirs = to_official_config(built(document).config)
        args = document["arch"]["args"]
        said = {name: theirs["arch"]["args"][name] for name in args}
        said["fusion_params"] = {name: said["fusion_params"][name] for name in args["fusion_params"]}
        assert said == args
        for name, weight in document.get("loss", {"args": {}})["args"].items():
            assert theirs["loss"]["args"][name] == weight


@pytest.mark.parametrize("name", FULL_SIZES)
def test_the_published_sizes_are_theirs(name, monkeypatch) -> None:
    """At full size, without memory for the weights: the audio CNN is theirs, and the widths are where they belong."""
    spec = AudioCNNSpec((2, 2, 1, 1, 1, 1), (128, 128, 256, 512, 1024, 2048, 4096))
    monkeypatch.setitem(AUDIO_CNNS._entries, "davenet_v2", spec)
    width, depth, heads, video, text = FULL_SIZES[name]
    fusion = {"embed_dim": width, "depth": depth, "num_heads": heads}
    document = described(video_embed_dim=video, text_embed_dim=text, projection_dim=6144, fusion_params=fusion)
    with torch.device("meta"):
        model = built(document)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["video_token_proj.fc.weight"] == (width, video)
    assert shapes["text_token_proj.cg.fc.weight"] == (width, width)
    assert shapes["text_token_proj.fc.weight"] == (width, text)
    assert shapes["audio_token_proj.fc.weight"] == (width, 4096)
    assert shapes[f"fusion.blocks.{depth - 1}.attn.qkv.weight"] == (3 * width, width)
    assert shapes[f"fusion.blocks.{depth - 1}.mlp.fc1.weight"] == (width, width)
    assert shapes["audio_proj.fc.weight"] == (6144, width)
    assert shapes["davenet.layer6.0.conv2.weight"] == (4096, 4096, 1, 9)
    assert f"fusion.blocks.{depth}.norm1.weight" not in shapes


class TestNames:
    def test_of_weights_are_theirs(self) -> None:
        per_modality = set(built(CONFIGS["single_modality_transformer"]).to_official()["state_dict"])
        for kept in ("fusion", "fusion_text", "fusion_video", "fusion_audio"):
            assert {f"{kept}.masking_token", f"{kept}.norm.weight", f"{kept}.blocks.0.attn.qkv.bias"} <= per_modality
        main = set(built(CONFIGS["everything_at_once_tva"]).to_official()["state_dict"])
        assert {
            "davenet.batchnorm1.running_mean",
            "davenet.layer1.0.downsample.1.weight",
            "video_norm_layer.bias",
            "audio_proj.cg.fc.bias",
        } <= main
        assert not any(name.startswith(("fusion_", "proj.")) or name.endswith("_pos_embed") for name in main)
        shared = set(built(CONFIGS["cls_token"]).to_official()["state_dict"])
        assert {"proj.fc.weight", "fusion.cls_token"} <= shared
        positions = built(CONFIGS["pos_msrvtt_max"]).to_official()["state_dict"]
        assert [tuple(positions[f"{name}_pos_embed"].shape) for name in ("video", "text", "audio")] == [
            (1, 6, 32),
            (1, 5, 32),
            (1, 2, 32),
        ]

    def test_of_weights_without_audio_are_all_there(self) -> None:
        text_video, all_three = (
            built(CONFIGS[name]).to_official()["state_dict"]
            for name in ("everything_at_once_tv", "everything_at_once_tva")
        )
        assert text_video.keys() == all_three.keys()

    def test_what_they_leave_out_has_their_default(self) -> None:
        """Their transformer's defaults are those of a small vision transformer, not those of the paper."""
        options = official_config({"video_embed_dim": 7, "text_embed_dim": 5, "fusion_params": {}})
        found = (options["width"], options["depth"], options["heads"], options["mlp_ratio"], options["projection_dim"])
        assert found == (768, 1, 12, 4.0, 6144)
        assert options["audio_cnn"] == "davenet_v2"
        assert (
            official_config({**MAIN, "davenet_v2": False, "projection": "minimal", "token_projection": ""})["audio_cnn"]
            == "davenet_v1"
        )

    def test_a_strategy_without_a_limit_reduces_nothing(self) -> None:
        assert official_config({**MAIN, "strategy_audio_pooling": "max_pool"})["audio_reduction"] == "none"

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"video_dim": 7}, "also needs video_embed_dim, text_embed_dim, fusion_params"),
            ({**MAIN, "video_dim": 7}, "EverythingAtOnceModel has no key 'video_dim'"),
            ({**MAIN, "fusion_params": {"heads": 3}}, "FusionTransformer has no key 'heads'"),
            ({**MAIN, "fusion_params": {"drop_rate": 0.1}}, "drop_rate is 0.1"),
            ({**MAIN, "projection": "deep"}, "projection is 'deep'; it must be one of"),
            (
                {"arch": {"type": "AVLnetBaselineModel", "args": {}}},
                "'AVLnetBaselineModel'; this model takes Everything",
            ),
            ({**described(), "loss": {"type": "MMS"}}, "loss.type is 'MMS'"),
            ({**described(), "loss": {"type": "CombinatorialLoss", "args": {"tva_weight": 1}}}, "no key 'tva_weight'"),
            (described("TransformerPerModalityModel", **POSITIONS), "never adds its positional embeddings"),
            ({"n_gpu": 4, "data_loader": {}}, "also needs"),
            ({"arch": 5}, "arch of the authors' configuration is 5"),
            ({"arch": {"type": ["EverythingAtOnceModel"]}}, r"arch.type is .*; this model takes"),
            ({"arch": {"type": "EverythingAtOnceModel", "args": [1]}}, "arch.args of the authors' configuration"),
            ({**described(), "loss": {"type": "CombinatorialLoss", "args": 1}}, "loss.args of the authors'"),
            ({**MAIN, "fusion_params": "deep"}, "fusion_params of the authors' configuration is 'deep'"),
            ({**MAIN, "projection": ["gated"]}, "projection is .*; it must be one of"),
            ({**MAIN, "fusion_params": {"num_heads": 0}}, "heads is 0; it must be above 0"),
            ({**MAIN, "fusion_params": {"depth": -1}}, "depth is -1; it must be 0 or more"),
        ],
    )
    def test_a_configuration_that_is_not_theirs_is_refused(self, config, message) -> None:
        with pytest.raises(ConfigError, match=message):
            create_model("test_everything_at_once").from_official({}, config)

    @pytest.mark.parametrize(
        "options",
        [
            {"extra_dims": {"speech": 12}},
            {"modalities": ["video", "audio"]},
            {"audio_cnn": "davenet_tiny"},
            {"audio_cnn_blocks": [1, 1, 1, 1], "audio_cnn_widths": [8, 8, 8, 8, 8]},
            {"mel_bands": 64},
            {"contrast": "margin_softmax", "margin": 0.2},
            {"contrast": "mil_nce"},
            {"contrast": "max_margin"},
            {"transformer": "per_modality", "fused_pairs": False, "positional": True},
        ],
    )
    def test_a_model_that_they_do_not_have_is_refused(self, options) -> None:
        sizes = {"width": 16, "heads": 2, "projection_dim": 20, "audio_cnn": "davenet_v1"}
        with pytest.raises(ConfigError, match="the authors' code has no model with"):
            create_model("everything_at_once", **{**sizes, **options}).to_official()


class TestCheckpoints:
    def test_another_configuration_replaces_what_it_names(self) -> None:
        """As the authors evaluate: weights and loss of one training, pooling of another document."""
        theirs = built(CONFIGS["aligned_audio_text"]).to_official()
        evaluated = create_model("test_everything_at_once").from_official(theirs, CONFIGS["msrvtt_max"])
        assert evaluated.config.audio_reduction == "max_pool"
        assert evaluated.config.lambda_ta == 1.0
        alone = create_model("test_everything_at_once", lambda_ta=0.7).from_official(theirs, MAIN)
        assert alone.config.lambda_ta == 0.7
        same = create_model("test_everything_at_once").from_official(theirs, {"n_gpu": 1})
        assert same.config.lambda_ta == 1.0

    def test_weights_alone_go_into_the_model_that_is_asked(self) -> None:
        model, source = built(CONFIGS["s3d"]), built(CONFIGS["s3d"])
        loaded = model.from_official({"state_dict": source.state_dict(), "epoch": 3})
        assert loaded is model
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in source.state_dict().items())

    def test_its_objective_comes_with_it(self) -> None:
        loss = {**PUBLISHED, "temperature": 0.1, "contrastive_loss": "MMS"}
        config = built(described(loss=loss)).config
        assert (config.contrast, config.margin, config.temperature) == ("margin_softmax", 0.001, 0.1)

    def test_a_checkpoint_without_weights_is_refused(self) -> None:
        with pytest.raises(InputError, match="state_dict is of type list"):
            create_model("test_everything_at_once").from_official({"state_dict": []})

    def test_a_checkpoint_whose_configuration_is_none_is_refused(self) -> None:
        with pytest.raises(InputError, match="config is of type list"):
            create_model("test_everything_at_once").from_official({"state_dict": {}, "config": []})
