"""Golden cases of the systems that Everything at Once is compared with: objectives, HowTo100M's network, AVLnet."""

from __future__ import annotations

import torch
from frameloom.fuse import AVLnet, HowTo100M, Tokens, create_model, load_weights
from frameloom.fuse.objectives.pairwise import dot_products, max_margin, mil_nce, negative_weights
from frameloom.train.evaluate import retrieval_metrics
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]


def arrays(tensors_by_name: dict[str, torch.Tensor]) -> Outputs:
    return {name: value.detach().float().numpy() for name, value in tensors_by_name.items()}


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.make_inputs().items()}


def mil_nce_loss(case: Case) -> Outputs:
    inputs = {name: value.requires_grad_() for name, value in tensors(case).items()}
    loss = mil_nce(dot_products(inputs["video_embd"], inputs["text_embd"]))
    loss.backward()
    return arrays(
        {"loss": loss, "video_grad": inputs["video_embd"].grad, "text_grad": inputs["text_embd"].grad},
    )


def max_margin_loss(case: Case) -> Outputs:
    """Each entry of the configuration is one construction of the authors' loss, by their argument names."""
    outputs = {}
    for name, options in case.config.items():
        similarities = tensors(case)["x"].requires_grad_()
        clips_per_video = options.get("n_pair", 1)
        weights = None
        if options.get("negative_weighting") and clips_per_video > 1:
            weights = negative_weights(
                len(similarities),
                clips_per_video=clips_per_video,
                hard_negative_rate=options.get("hard_negative_rate", 0.5),
            )
        loss = max_margin(similarities, margin=options.get("margin", 1.0), weights=weights)
        loss.backward()
        outputs |= {f"{name}_loss": loss, f"{name}_grad": similarities.grad}
    return arrays(outputs)


def howto100m_net(case: Case) -> Outputs:
    shell = create_model("test_howto100m")
    assert isinstance(shell, HowTo100M)
    config = {"embd_dim": 1024, "video_dim": 2048, "we_dim": 300, **case.config}  # the authors' defaults
    net = shell.from_official(case.make_state_dict(), config).train(case.facts["mode"] == "train")
    inputs = tensors(case)
    words = Tokens(inputs["text"], torch.ones(inputs["text"].shape[:2]))
    # The authors' network takes what their data loader has pooled.
    video = net.GU_video(inputs["video"])
    text = net.GU_text(net.text_pooling(words, padding="published"))
    return arrays({"similarity": dot_products(text, video), "video_embedding": video, "text_embedding": text})


def howto100m_metrics(case: Case) -> Outputs:
    inputs, config = case.make_inputs(), case.config
    sims = inputs["sims"] + 2 * torch.eye(config["N"]).numpy()
    ties = (inputs["sims_ties"] / config["tie_step"]).round() * torch.tensor(config["tie_step"]).numpy()
    outputs = {}
    for name, similarity in {"sims": sims, "sims_ties": ties}.items():
        found = retrieval_metrics(similarity, ties="every_place")
        outputs[name] = torch.tensor(
            [found.r1 / 100, found.r5 / 100, found.r10 / 100, found.medr], dtype=torch.float64
        ).numpy()
    return outputs


def avlnet(case: Case) -> Outputs:
    inputs = tensors(case)
    frames = inputs.get("audio_STFT_nframes")
    model = _avlnet(case, audio_mean="real" if frames is not None and frames[0] != -1 else "all")
    outputs = {}
    with torch.no_grad():
        text = Tokens(inputs["text"], inputs["text_mask"])
        outputs["text_embed"] = model.embed("text", text)
        if inputs["video"].ndim == 3:
            outputs["video_embed"] = model.embed("video", Tokens(inputs["video"], inputs["video_mask"]))
        else:
            outputs["video_embed"] = model.project("video", inputs["video"])
        if "audio" in inputs:
            mel = inputs["audio"].transpose(1, 2)
            real = torch.ones(mel.shape[:2]) if frames is None else torch.arange(mel.shape[1]) < frames[:, None]
            outputs["audio_embed"] = model.embed("audio", Tokens(mel, real))
    nonempty = {name: inputs[f"{name}_mask"].bool().any(dim=-1) for name in ("text", "video")}
    nonempty["audio"] = nonempty["video"]  # the official quirk, which we do not copy
    outputs |= {f"{name}_nonempty_input_mask": flags for name, flags in nonempty.items()}
    return arrays(outputs)


def _avlnet(case: Case, *, audio_mean: str) -> AVLnet:
    """`from_official` would average all tokens in training mode only; a case says by its frames what it averages."""
    shell = create_model("test_avlnet")
    assert isinstance(shell, AVLnet)
    options = shell.official_options({"embd_dim": 4096, **case.config})  # the authors' default
    model = create_model("avlnet", **options, padding="published", audio_mean=audio_mean)
    assert isinstance(model, AVLnet)
    load_weights(model, case.make_state_dict())
    return model.train(case.facts["mode"] == "train")


ADAPTERS = {
    "MILNCELoss": mil_nce_loss,
    "MaxMarginRankingLoss": max_margin_loss,
    "Net": howto100m_net,
    "compute_metrics": howto100m_metrics,
    "AVLnetBaselineModel.forward": avlnet,
}
