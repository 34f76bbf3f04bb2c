"""Golden cases of Clover: encoders, heads, losses, masks, the pre-training step and the fine-tunings."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import torch
from frameloom.fuse import Clover, Tokens, create_model
from frameloom.fuse.clover.fusion import CrossModalEncoder
from frameloom.fuse.clover.heads import (
    ChoiceHead,
    FusedTextHead,
    FusedVideoHead,
    MatchHead,
    OpenAnswerHead,
    ProjectionHeads,
)
from frameloom.fuse.clover.masking import WordTag, chosen_words, mask_candidates
from frameloom.fuse.clover.model import Masks
from frameloom.fuse.clover.official import bert_options, fusion_options, our_weights, swin_options
from frameloom.fuse.layers.bert import Bert, BertSpec, MaskedWordHead, visible_keys
from frameloom.fuse.layers.swin import VideoSwin, mask_of_patches
from frameloom.fuse.miles.masks import block_mask
from frameloom.fuse.objectives.masked_words import focal_loss
from frameloom.fuse.objectives.nce import norm_softmax_loss
from frameloom.fuse.objectives.ranking import exclusive_nce, ranking_loss
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]
SPECIAL = ("[CLS]", "[SEP]", "[PAD]")


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.make_inputs().items()}


def arrays(outputs: dict[str, torch.Tensor]) -> Outputs:
    """Scalars are stored as one number in a row."""
    return {name: value.detach().numpy().reshape(value.shape or (1,)) for name, value in outputs.items()}


def official_grid(grid: torch.Tensor) -> torch.Tensor:
    return grid.permute(0, 4, 1, 2, 3)


def swin(case: Case) -> Outputs:
    network = VideoSwin(**swin_options(case.config))
    network.load_state_dict(our_weights(case.make_state_dict()))
    inputs = tensors(case)
    with torch.no_grad():
        outputs = {"features": official_grid(network.eval()(inputs["imgs"]))}
        if "mask" in inputs:
            mask = inputs["mask"].float()
            outputs["features_masked"] = official_grid(network(inputs["imgs"], mask))
            outputs["w"] = official_grid(mask_of_patches(mask, network.patches(inputs["imgs"]).shape[1:4]))
    return arrays(outputs)


def text_encoder(case: Case) -> Outputs:
    config, inputs = case.config, tensors(case)
    options = bert_options(config["BertConfig"])
    spec = BertSpec(**{**options, "depth": config["num_hidden_layers"], "eps": config["layer_norm_eps"]}, pooler=True)
    bert = Bert(spec)
    bert.load_state_dict({key.removeprefix("bert."): v for key, v in our_weights(case.make_state_dict()).items()})
    with torch.no_grad():
        return arrays({"last_hidden_state": bert.eval()(inputs["token_ids"], inputs["input_mask"])})


def fusion(case: Case) -> Outputs:
    config, inputs = dict(case.config), tensors(case)
    options = fusion_options({key: value for key, value in config.items() if key != "BertConfig"})
    spec = BertSpec(**{**bert_options(config["BertConfig"]), "depth": options.pop("depth")})
    assert options.pop("width") == spec.width
    encoder = CrossModalEncoder(spec, **options)
    encoder.load_state_dict(our_weights(case.make_state_dict()))
    encoder.eval()
    text, mask = inputs["text_input_embeds"], inputs["text_input_mask"]
    outputs: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, ending in {"visual_token": "", "visual_token_image": "_image"}.items():
            if name not in inputs:
                continue
            video, times = inputs[name], torch.ones(inputs[name].shape[:2])
            fused = encoder(video, text, times=times, mask=mask)
            outputs[f"last_hidden_state{ending}"] = fused.sequence
            outputs[f"t_last_hidden_state_cls{ending}"] = fused.text[:, 0]
            outputs[f"cls_last_hidden_state{ending}"] = fused.cls
            outputs[f"v_last_hidden_state_0{ending}"] = fused.sequence[:, 0]
            sequence, real = encoder.joined(video, text, times=times, mask=mask)
            before = encoder.bert_encoder(sequence, visible=visible_keys(real), last=spec.depth - 1)
            weights = encoder.bert_encoder.layer[-1].attention.weights(before, visible=visible_keys(real))
            outputs[f"attn_last_mean_heads{ending}"] = weights.mean(dim=1)
    return arrays({name: value for name, value in outputs.items() if name in case.outputs})


def heads(case: Case) -> Outputs:
    config, inputs = case.config, tensors(case)
    ssl, video, text = config["ssl_head"], config["mlm_ssl_V_head"], config["mlm_ssl_T_head"]
    open_ended = config["qa_oe_head"]
    predictions = MaskedWordHead(BertSpec(**bert_options(config["BertConfig (for mlm_head)"])))
    del predictions.bias
    parts = torch.nn.ModuleDict(
        {
            "ssl_head": ProjectionHeads(
                ssl["visual_in_channels"],
                ssl["text_in_channels"],
                hidden=ssl["img_hidden_dim"],
                dim=ssl["vts_embed_dim"],
            ),
            "mlm_ssl_V_head": FusedVideoHead(
                video["visual_in_channels"], hidden=2 * video["hidden_dim"], dim=video["vts_embed_dim"]
            ),
            "mlm_ssl_T_head": FusedTextHead(
                text["cross_in_channels"], dim=text["vts_embed_dim"], dropout=text["dropout_ratio"]
            ),
            "mlm_head": torch.nn.ModuleDict({"predictions": predictions}),
            "itm_head": MatchHead(config["itm_head"]["hidden_dim"]),
            "qa_oe_head": OpenAnswerHead(
                open_ended["hidden_dim"], num_answers=open_ended["num_labels"], dropout=open_ended["dropout_ratio"]
            ),
            "qa_mc_head": ChoiceHead(config["qa_mc_head"]["hidden_dim"], dropout=0.1),
        }
    )
    parts.load_state_dict(case.make_state_dict())
    parts.eval()
    cls, hidden = inputs["cls_feature"], inputs["text_hidden"]
    with torch.no_grad():
        outputs = {
            "ssl_visual_emb": parts["ssl_head"].video(inputs["visual_token"].mean(dim=(2, 3, 4))),
            "ssl_text_emb": parts["ssl_head"].text(hidden[:, 0]),
            "V_head": parts["mlm_ssl_V_head"](cls),
            "T_head": parts["mlm_ssl_T_head"](cls),
            "mlm_logits": parts["mlm_head"]["predictions"](hidden),
            "itm": parts["itm_head"](cls),
            "qa_oe": parts["qa_oe_head"](cls),
            "qa_mc": parts["qa_mc_head"](cls),
        }
    return arrays(outputs)


def loaded(case: Case) -> Clover:
    """The whole model, through the same door as a checkpoint of the authors; a round trip gives every bit back."""
    official = case.make_state_dict()
    model = create_model("test_clover").from_official(official, case.config)
    back = model.to_official()["state_dict"]
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], value) for key, value in official.items() if value.is_floating_point())
    return model.train(case.facts["mode"].startswith("train"))


def clips_of(model: Clover, imgs: torch.Tensor) -> Tokens:
    """The official (B, views, colours of BGR, T, H, W) as a batch of ours, which is RGB, one view after the other."""
    model.config = model.config.replaced(num_views=imgs.shape[1])
    frames = imgs.flip(2).transpose(2, 3).flatten(1, 2)
    return Tokens(frames, torch.ones(frames.shape[:2]))


def pretraining(case: Case) -> Outputs:
    model, inputs = loaded(case), tensors(case)
    ids, hidden = inputs["token_ids_raw"], inputs["masked_positions"].bool()
    note = case.facts["inputs"]["masked_positions"]["note"]
    stand_in = int(re.search(r"token_ids there is (\d+)", note)[1])
    batch = {"text": Tokens(ids, inputs["input_mask"]), "video": clips_of(model, inputs["imgs"])}
    masks = Masks(hidden, ids.masked_fill(hidden, stand_in), inputs["v_token_mask"].float())
    given = model.given(batch)
    aligned = model.aligned(given, masks)
    total, _ = model.pretraining_loss(given, masks)
    terms = model.alignment_terms(aligned.vectors)
    names = {
        "align_video": "nce_loss",
        "rank_video": "rank_t_tm_loss",
        "align_text": "v_nce_loss",
        "rank_text": "rank_v_vm_loss",
        "text|video": "nce_loss",
    }
    outputs = {names[name]: term for name, term in terms.items()}
    outputs["mlm_loss"] = model.word_loss(aligned.word_scores, ids[hidden], num_samples=len(ids))
    outputs |= {"total": total, "mlm_logits_masked": aligned.word_scores, **aligned.vectors}
    outputs |= {f"fused_cls_{name.replace('_', '').replace(' ', '_')}": state for name, state in aligned.cls.items()}
    total.backward()
    outputs |= {f"grad__{name}": weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return arrays(outputs)


def finetuning(case: Case) -> Outputs:
    model, inputs = loaded(case), tensors(case)
    video = clips_of(model, inputs["imgs"])
    text = Tokens(inputs["token_ids"].flatten(0, 1), inputs["input_mask"].flatten(0, 1))
    batch: dict[str, Tokens] = {"text": text, "video": video}
    patches, side = model.states("video", video).values, model.config.grid_size
    outputs = {"visual_token": official_grid(patches.unflatten(2, (side, side)))}
    if model.config.task == "retrieval":
        vectors, _ = model.embeddings(batch)
        outputs |= {"video_embd": vectors["video"], "text_embd": vectors["text"]}
        outputs["retrieval_nce_loss"], _ = model.loss(batch)
    else:
        outputs["result"] = model.answers(text=text, video=video)
        labels = inputs["label"].long().view(-1, 1)
        outputs["qa_loss"], _ = model.loss({**batch, "answer": Tokens(labels, torch.ones_like(labels))})
    return arrays(outputs)


def focal(case: Case) -> Outputs:
    inputs, config = tensors(case), case.config
    logits = inputs["logits"].requires_grad_()
    loss = focal_loss(logits, inputs["target"], gamma=config["gamma"], reduction=config["reduction"])
    loss.backward()
    return arrays({"loss": loss, "grad_logits": logits.grad})


def norm_softmax(case: Case) -> Outputs:
    assert case.config["cos_sim"]
    inputs = {name: value.requires_grad_() for name, value in tensors(case).items()}
    loss = norm_softmax_loss(inputs["video"], inputs["text"], temperature=case.config["temperature"])
    loss.backward()
    return arrays({"loss": loss} | {f"grad_{name}": value.grad for name, value in inputs.items()})


def alignment(case: Case) -> Outputs:
    config, inputs = case.config, tensors(case)
    assert not config["use_rank_trtm"]
    shared = inputs.pop("shared")
    factor = float(re.search(r"([\d.]+)\*shared", case.facts["inputs"]["shared"]["note"])[1])
    given = {name: (value + factor * shared).requires_grad_() for name, value in inputs.items()}
    v, t, text_masked, video_masked = (given[name] for name in ("V_e", "T_e", "T_m", "V_m"))
    tau, margin = config["temperature"], config["margin_ttm"]
    losses = {
        "nce_loss": exclusive_nce(v, [t, text_masked, given["M_Vmf"]], temperature=tau),
        "v_nce_loss": exclusive_nce(t, [v, video_masked, given["M_Tmf"]], temperature=tau),
    }
    if config["use_rank"] and config["use_rank_ttm"]:
        losses["rank_t_tm_loss"] = ranking_loss(v, t, text_masked, margin=margin, temperature=tau)
        losses["rank_v_vm_loss"] = ranking_loss(t, v, video_masked, margin=margin, temperature=tau)
    outputs = dict(losses, total=torch.stack(list(losses.values())).sum())
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, list(given.values()), retain_graph=True, allow_unused=True)
        outputs |= {f"grad_{name}__{of}": grad for of, grad in zip(given, grads, strict=True) if grad is not None}
    return arrays(outputs)


def tags_of(tokens: list[str], words: list[str], parts: list[str]) -> list[WordTag]:
    """A tag for each token, from the words that the tagger was given."""
    tags, pairs = [], iter(zip(words, parts, strict=True))
    for token in tokens:
        if token in SPECIAL:
            tags.append(WordTag.NONE)
        elif token.startswith("##"):
            tags.append(WordTag.CONTINUED)
        else:
            tags.append(WordTag.of(next(pairs)[1]))
    return tags


def mask_text(case: Case) -> Outputs:
    config = case.config
    assert config["whole_word_mask"]
    assert config["scene_graph_mask_obj_verb"]
    outputs: dict[str, Any] = {}
    for index, sentence in enumerate(case.facts["inputs"]["sentences"]["values"]):
        tags = tags_of(sentence["tokens"], sentence["spacy_words"], sentence["spacy_pos"])
        found = mask_candidates(tags)
        widest = max(map(len, found), default=1)
        padded = [[*word, *[-1] * (widest - len(word))] for word in found] or [[-1]]
        outputs[f"candidates_{index}"] = np.array(padded, np.float64)
        masks = np.zeros(case.outputs[f"masks_{index}"].shape)
        for seed, row in enumerate(masks):
            how = {"share": config["mlm_probability"], "most": config["max_predictions"]}
            row[chosen_words(found, **how, draws=random.Random(seed))] = 1
        outputs[f"masks_{index}"] = masks
    return outputs


def mask_video(case: Case) -> Outputs:
    config = case.config
    size = config["window_size"]
    options = {
        "grid": (size, size) if isinstance(size, int) else tuple(size),
        "num_masked": config["num_masking_patches"],
        "min_patches": config["min_num_patches"],
        "max_patches": config["max_num_patches"],
        "aspect": (config["min_aspect"], config["max_aspect"] or 1 / config["min_aspect"]),
    }
    seeds = range(case.outputs["masks"].shape[0])
    outputs = {"masks": np.stack([block_mask(random.Random(seed), **options) for seed in seeds]).astype(np.float32)}
    about = case.facts["outputs"]["count_histogram"]
    number, seed = (int(each) for each in re.search(r"of (\d+) masks \(random\.seed\((\d+)\)", about).groups())
    draws = random.Random(seed)
    many = np.stack([block_mask(draws, **options) for _ in range(number)])
    counts = many.reshape(number, -1).sum(axis=1).astype(int)
    outputs["count_histogram"] = np.bincount(counts, minlength=many[0].size + 1) / number
    outputs["position_frequency"] = many.mean(axis=0)
    return outputs


ADAPTERS = {
    "SwinTransformer3D": swin,
    "BertFromPretrained": text_encoder,
    "CrossModalTransformerFromPretrained": fusion,
    "NCEHeadForMM, NCEHeadForVision, NCEHeadForText": heads,
    "CloverPretrain.forward_train": pretraining,
    "CloverFinetune.forward_test / forward_train": finetuning,
    "SoftmaxFocalLossMultiClass": focal,
    "NormSoftmaxLoss": norm_softmax,
    "ExclusiveNCEwithRankingLoss": alignment,
    "BertTokenizer._whole_word_mask_with_scene_graph": mask_text,
    "MaskingGenerator": mask_video,
}
