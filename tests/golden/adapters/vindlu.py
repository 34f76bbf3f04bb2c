"""Golden cases of VindLU and T2V2T: BERT with cross-attention, BEiT, rounds, objectives, a step, QA, evaluation."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from frameloom.fuse import Tokens, create_model, load_weights
from frameloom.fuse.layers import MaskedWordHead, VideoBeit, visible_keys, without_counters
from frameloom.fuse.objectives import (
    contrast_with_targets,
    focal_loss,
    frame_mean,
    matching_loss,
    negative_weights_by_similarity,
    shared_targets,
)
from frameloom.fuse.t2v2t import T2V2T, VindLUQA
from frameloom.fuse.t2v2t.config import T2V2TConfig
from frameloom.fuse.t2v2t.fusion import FusionLayer, FusionSpec, fuse
from frameloom.fuse.t2v2t.model import Negatives, joint_bert
from frameloom.fuse.t2v2t.official import text_options, video_options
from frameloom.train import get_recipe
from frameloom.train.evaluate.rerank import pair_scorer, reranked, two_way_metrics
from frameloom.train.loop.schedule import learning_rate
from golden.golden_case import Case
from numpy.typing import NDArray
from torch import nn

Outputs = dict[str, NDArray]
STAND_IN = 3  # the id that the cases put in the place of [MASK]


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.make_inputs().items()}


def arrays(outputs: dict[str, torch.Tensor]) -> Outputs:
    """Scalars have one axis in these cases."""
    return {name: value.detach().reshape(value.shape or (1,)).numpy() for name, value in outputs.items()}


def weights_of(case: Case) -> dict[str, torch.Tensor]:
    """The weights by the rule; one of two names is filled under one of them, and a temperature is as the case says."""
    weights = case.make_state_dict()
    for key in weights:
        if key.endswith("cls.predictions.decoder.weight"):
            weights[key] = weights[key.replace("cls.predictions.decoder", "bert.embeddings.word_embeddings")]
        elif key.endswith("cls.predictions.decoder.bias"):
            weights[key] = weights[key.replace("decoder.bias", "bias")]
        elif key == "temp":
            weights[key] = torch.tensor(float(case.config.get("temp", 0.07)))
    return weights


def filled(module: nn.Module, case: Case) -> nn.Module:
    load_weights(module, without_counters(weights_of(case)))
    return module.train(case.facts["mode"] == "train")


def gradients(module: nn.Module, case: Case, renamed: tuple[str, str] = ("", "")) -> dict[str, torch.Tensor]:
    """The gradients that a case has of weights, under the official names."""
    names = [name for name in case.outputs if name.startswith("grad__")]
    ours = {name: name.removeprefix("grad__").replace(*renamed) for name in names}
    return {name: module.get_parameter(our).grad for name, our in ours.items()}


def text_config(bert: dict[str, Any]) -> T2V2TConfig:
    """Of a text encoder whose frames come from somewhere else."""
    frames = {"video_width": bert["encoder_width"], "video_heads": 1, "temporal_heads": 1}
    return T2V2TConfig(**{**text_options(bert), **frames, "fusion": "unidirectional", "fusion_order": "self_cross"})


def rounds_alone(case: Case) -> Outputs:
    config, inputs = case.config, tensors(case)
    spec = FusionSpec(
        width=config["hidden_size"],
        heads=config["num_heads"],
        hidden=config["intermediate_size"],
        eps=config["layer_norm_eps"],
        kind="bypass" if config["bypass"] else "naive",
    )
    layers = nn.ModuleList(FusionLayer(spec) for _ in range(config["num_layers"]))
    model = filled(nn.ModuleDict({"layer": layers, "itm_head": nn.Linear(spec.width, 2)}), case)
    text, frames, mask = inputs["F_T"].requires_grad_(), inputs["F_V"].requires_grad_(), inputs["text_mask"]
    states = fuse(list(layers), text, frames, text_mask=mask, frame_mask=torch.ones(frames.shape[:2]))
    outputs, before = {}, (text, frames)
    for number, (layer, after) in enumerate(zip(layers, states, strict=True)):
        outputs |= {f"F_T2V_{number}": after.frames, f"F_T2V2T_{number}": after.text}
        outputs[f"text_mass_{number}"] = layer.text_mass(*before, visible_keys(mask))
        before = after
    logits = model["itm_head"](states[-1].text[:, 0])
    objective = (states[-1].text * inputs["cotangent"] * mask[..., None]).sum() + logits[:, 1].sum()
    objective.backward()
    outputs |= {"match_logits": logits, "objective": objective, "grad_F_T": text.grad, "grad_F_V": frames.grad}
    return arrays(outputs | gradients(model, case))


def beit(case: Case) -> Outputs:
    config = T2V2TConfig(**video_options(case.config), fusion="unidirectional")
    encoder = filled(VideoBeit(config.video_spec()), case)
    outputs = {}
    for name, pixels in tensors(case).items():
        suffix = name.removeprefix("pixel_values")
        hidden, pooled = encoder(pixels, torch.ones(pixels.shape[:2]))
        outputs |= {f"last_hidden_state{suffix}": hidden, f"pooler_output{suffix}": pooled}
    return arrays(outputs)


def xbert(case: Case) -> Outputs:
    inputs, first = tensors(case), case.config["fusion_layer"]
    bert = filled(joint_bert(text_config(case.config)), case)
    ids, mask, context = inputs["input_ids"], inputs["attention_mask"], inputs["encoder_hidden_states"]
    visible = visible_keys(mask)

    def fusion(x: torch.Tensor, last: int | None = None) -> torch.Tensor:
        return bert.encoder(x, visible=visible, context=context, first=first, last=last)

    text, layer = bert(ids, mask, last=first), bert.encoder.layer[-1]
    before = layer.attention(fusion(inputs["encoder_embeds"], last=-1), visible=visible)
    return arrays(
        {
            "text": text,
            "fusion_of_text": fusion(text),
            "fusion_of_encoder_embeds": fusion(inputs["encoder_embeds"]),
            "multi_modal": bert(ids, mask, context=context),
            "cross_attention_last": layer.crossattention.weights(before, context),
        }
    )


def masked_words(case: Case) -> Outputs:
    inputs = tensors(case)
    bert = joint_bert(text_config(case.config))
    head = MaskedWordHead(bert.spec, tied_to=bert.embeddings.word_embeddings)
    model = filled(nn.ModuleDict({"bert": bert, "cls": nn.ModuleDict({"predictions": head})}), case)
    chosen, frames = inputs["masked_positions"].bool(), inputs["vision_embeds"].requires_grad_()
    ids = inputs["raw_ids"].masked_fill(chosen, STAND_IN)
    logits = head(bert(ids, inputs["attention_mask"], context=frames)[chosen])
    loss = focal_loss(logits, inputs["raw_ids"][chosen], gamma=0.0)
    loss.backward()
    outputs = {"loss": loss, "logits_masked": logits, "grad_vision_embeds": frames.grad}
    return arrays(outputs | gradients(model, case))


def contrast(case: Case) -> Outputs:
    inputs = tensors(case)
    given = {name: inputs[name].requires_grad_() for name in ("vision_proj", "text_proj", "temp")}
    text = nn.functional.normalize(given["text_proj"], dim=-1)
    similarities = frame_mean(given["vision_proj"]) @ text.T / given["temp"]
    targets = shared_targets(inputs["idx"])
    loss = contrast_with_targets(similarities, targets)
    loss.backward()
    outputs = {"loss": loss, "sim_v2t": similarities, "targets": targets}
    return arrays(outputs | {f"grad_{name}": value.grad for name, value in given.items()})


def matching(case: Case) -> Outputs:
    inputs, config = tensors(case), text_config(case.config["BertConfig"])
    shell = nn.ModuleDict({"text_encoder": joint_bert(config), "itm_head": nn.Linear(config.text_width, 2)})
    model = filled(shell, case)
    frames, text = inputs["vision_embeds"].requires_grad_(), inputs["text_embeds"].requires_grad_()
    units = nn.functional.normalize(inputs["text_proj"], dim=-1)
    similarities = frame_mean(inputs["vision_proj"]) @ units.T / inputs["temp"]
    same = inputs["idx"][:, None] == inputs["idx"]
    own = torch.arange(len(text))
    texts = torch.cat([own, own, inputs["txt_neg_indices"]])
    states = fuse(
        list(model["text_encoder"].encoder.layer[config.first_fusion :]),
        text[texts],
        frames[:, None],
        text_mask=inputs["text_atts"][texts],
        frame_mask=torch.ones(len(frames), 1),
        videos=torch.cat([own, inputs["vision_neg_indices"], own]),
    )
    logits = model["itm_head"](states[-1].text[:, 0])
    loss = matching_loss(logits, num_matching=len(text))
    loss.backward()
    return arrays(
        {
            "loss": loss,
            "vtm_logits": logits,
            "weights_t2v": negative_weights_by_similarity(similarities.T, same),
            "weights_v2t": negative_weights_by_similarity(similarities, same),
            "grad_vision_embeds": frames.grad,
            "grad_text_embeds": text.grad,
            "grad_itm_head_weight": model["itm_head"].weight.grad,
        }
    )


def vindlu_of(case: Case) -> T2V2T:
    """The model, through the door of a published checkpoint; back through it, its weights are what they were."""
    weights = weights_of(case)
    built = create_model("test_vindlu").from_official({"model": weights}, case.config)
    assert isinstance(built, T2V2T)
    back = built.to_official()["model"]
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items() if value.is_floating_point())
    return built.train(case.facts["mode"] == "train")


def step(case: Case) -> Outputs:
    inputs, model = tensors(case), vindlu_of(case)
    video = Tokens(inputs["image"], torch.ones(inputs["image"].shape[:2]))
    text = Tokens(inputs["input_ids"], inputs["attention_mask"])
    chosen, own = inputs["masked_positions"].bool(), torch.arange(len(text.mask))
    negatives = Negatives(
        torch.stack([own, inputs["vision_neg_indices"]], dim=1), torch.stack([own, inputs["txt_neg_indices"]], dim=1)
    )
    masked = text.values.masked_fill(chosen, STAND_IN), chosen
    loss, terms = model.loss({"text": text, "video": video}, ids=inputs["idx"], negatives=negatives, masked=masked)
    loss.backward()
    frames, pooled = model.video_states(video)
    states = model.text_states(text)
    vectors = {name: model.embed(name, tokens) for name, tokens in {"text": text, "video": video}.items()}
    of_videos, of_texts = model.negative_weights(vectors, inputs["idx"])
    outputs = {
        "loss_vtc": terms["text|video"],
        "loss_vtm": terms["vtm"],
        "loss_mlm": terms["mlm"],
        "vision_proj": model.vision_proj(pooled),
        "text_proj": model.text_proj(states[:, 0]),
        "vision_embeds_cls": frames[:, :, 0],
        "text_embeds_cls": states[:, 0],
        "weights_t2v": of_videos,
        "weights_v2t": of_texts,
    }
    return arrays(outputs | gradients(model, case))


def questions(case: Case) -> Outputs:
    inputs, weights = tensors(case), weights_of(case)
    shell = VindLUQA(T2V2TConfig(**TINY_QA))
    model = shell.from_official({"model": weights}, case.config)
    back = model.to_official()["model"]
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items() if value.is_floating_point())
    model.train(case.facts["mode"] == "train")
    video = Tokens(inputs["image"], torch.ones(inputs["image"].shape[:2]))
    question = Tokens(inputs["question_ids"], inputs["question_mask"])
    answers = Tokens(inputs["answer_ids"], inputs["answer_mask"])
    counts = inputs["n_answers_train"]
    num_used = int(counts.sum())
    batch = {"text": question, "video": video, "answer": Tokens(*(each[:num_used] for each in answers))}
    loss, _ = model.loss(batch, num_answers=counts, weights=inputs["weights"])
    loss.backward()
    states = model.joint_states(question, video)  # padded ids as they are: the case has the states of padding too
    ranked = model.text_decoder.ranked(states, answers, num_candidates=case.config["k"])
    through_the_door = model.answer(question, video, answers, num_candidates=case.config["k"])
    assert torch.equal(through_the_door.indices, ranked.indices)
    first = Tokens(*(each[: len(question.mask)] for each in answers))
    outputs = {
        "loss": loss,
        "topk_ids": ranked.indices,
        "topk_probs": ranked.probabilities,
        "question_states": states.values,
        "decoder_loss_per_answer": model.text_decoder.losses(first, states),
        "decoder_logits": model.text_decoder(first, states),
    }
    renamed = ("text_encoder.", "text_encoder.bert.")
    return arrays(outputs | gradients(model, case, renamed))


def evaluation(case: Case) -> Outputs:
    """Both stages. The case scores texts and videos whole, with every ensemble of its configuration."""
    inputs, config = tensors(case), {**case.config, "loss_weight": {"mlm": 0}}
    model = create_model("test_vindlu").from_official({"model": weights_of(case)}, config).eval()
    text = Tokens(inputs["input_ids"], inputs["attention_mask"])
    video = Tokens(inputs["image"], torch.ones(inputs["image"].shape[:2]))
    with torch.no_grad():
        vectors = model.embeddings({"text": text, "video": video}).vectors
        states = {"text": model.states("text", text), "video": model.states("video", video)}
    similarities = (vectors["video"] @ vectors["text"].T).numpy()
    targets = inputs["txt2img"].numpy()
    outputs = {"i2t_scores": similarities}
    ensembles = case.config["eval_frame_ensemble"]
    for ensemble in [ensembles] if isinstance(ensembles, str) else ensembles:
        scores = {}
        for queries, first in {"text": similarities.T, "video": similarities}.items():
            scorer = pair_scorer(model, **states, queries=queries, ensemble=ensemble)
            scores[queries] = reranked(first, scorer, num_candidates=case.config["k_test"])
        outputs |= {f"i2t_scores_x__{ensemble}": scores["video"], f"t2i_scores_x__{ensemble}": scores["text"]}
        outputs[f"metrics_x__{ensemble}"] = metrics_of(scores["text"], scores["video"], targets)
        outputs[f"metrics_emb__{ensemble}"] = metrics_of(similarities.T, similarities, targets)
    return outputs


def metrics_of(text_to_video: NDArray, video_to_text: NDArray, targets: NDArray) -> NDArray:
    """Videos to texts, then texts to videos, each with the mean of its recalls; the mean of both; in hundredths."""
    of_texts, of_videos = two_way_metrics(text_to_video, video_to_text, targets=targets)
    recalls = [[m.r1, m.r5, m.r10] for m in (of_videos, of_texts)]
    means = [sum(each) / 3 for each in recalls]
    return np.round([*recalls[0], means[0], *recalls[1], means[1], sum(means) / 2], 2)


def given_scores(case: Case) -> Outputs:
    """Random scores, to which the case adds a number at every pair that belongs together."""
    inputs = case.make_inputs()
    added = float(re.search(r"([\d.]+) is added", case.facts["inputs"]["scores_i2t"]["note"])[1])
    targets = inputs["txt2img"]
    own = np.arange(len(targets))
    inputs["scores_i2t"][targets, own] += np.float32(added)
    inputs["scores_t2i"][own, targets] += np.float32(added)
    return {"metrics": metrics_of(inputs["scores_t2i"], inputs["scores_i2t"], targets)}


def schedule(case: Case) -> Outputs:
    """The factor of every step, and of some after the last."""
    config = case.config
    assert config["num_cycles"] == 0.5
    recipe = get_recipe(
        "vindlu",
        learning_rate=1.0,
        epochs=1,
        warmup_epochs=0.0,
        warmup_steps=config["num_warmup_steps"],
        final_rate=config["min_lr_multi"],
    )
    steps = range(len(case.outputs["lr_factor"]))
    total = config["num_training_steps"]
    return {"lr_factor": np.array([learning_rate(recipe, step=step, steps_per_epoch=total) for step in steps])}


TINY_QA = {
    "fusion": "unidirectional", "video_width": 16, "video_depth": 1, "video_heads": 1, "temporal_heads": 1,
    "text_width": 16, "text_depth": 2, "first_fusion": 1, "text_heads": 1, "text_hidden": 16, "vocab_size": 120,
}  # fmt: skip


ADAPTERS = {
    "T2V2T fusion encoder": rounds_alone,
    "BeitModel(BeitConfig(...), add_pooling_layer=True)": beit,
    "BertModel(config, add_pooling_layer=False)": xbert,
    "MLMLoss.mlm_loss(BertForMaskedLM)": masked_words,
    "VTC_VTM_Loss.vtc_loss, get_sim": contrast,
    "VTC_VTM_Loss.vtm_loss": matching,
    "VindLU.forward (is_pretrain=True)": step,
    "VindLU_QA.forward (train and rank_answer)": questions,
    "evaluation + itm_eval": evaluation,
    "itm_eval": given_scores,
    "get_cosine_schedule_with_warmup": schedule,
}
