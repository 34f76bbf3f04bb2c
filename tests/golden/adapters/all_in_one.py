"""Golden cases of All-in-one: its pass, objectives, heads, and its steps of training."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from frameloom.fuse import Tokens, create_model, load_weights
from frameloom.fuse.all_in_one import AllInOne
from frameloom.fuse.all_in_one.model import Drawn, Features, drawn_orders, order_labels
from frameloom.fuse.all_in_one.official import official_config
from frameloom.fuse.all_in_one.rolling import rolled
from frameloom.fuse.heads import choice_loss
from frameloom.fuse.objectives import focal_loss, norm_softmax_loss
from frameloom.fuse.objectives.nce import cosine_similarities
from frameloom.fuse.objectives.transport import transport_costs, word_patch_distance
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]
NO_LABEL = -100


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.make_inputs().items()}


def arrays(case: Case, outputs: dict[str, Any]) -> Outputs:
    """Those that the case names; whole numbers and flags as numbers."""
    kept = {name: torch.as_tensor(value).detach() for name, value in outputs.items() if name in case.facts["outputs"]}
    return {name: (value.float() if not value.is_floating_point() else value).numpy() for name, value in kept.items()}


def model_of(case: Case, weights: dict[str, torch.Tensor] | None = None) -> AllInOne:
    weights = case.make_state_dict() if weights is None else weights
    model = create_model("test_all_in_one").from_official(weights, case.config)
    assert isinstance(model, AllInOne)
    written = model.to_official()["state_dict"]
    assert all(torch.equal(written[name], value) for name, value in weights.items())
    return model.train(case.facts["mode"] == "train")


def clip(values: torch.Tensor) -> Tokens:
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def first_places(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def sums_of(model: torch.nn.Module, names: list[str]) -> NDArray:
    weights = dict(model.named_parameters())
    found = [weights[name].grad for name in names]
    return np.array([0.0 if each is None else float(each.abs().sum(dtype=torch.float64)) for each in found])


def patch_index(order: torch.Tensor, side: int) -> torch.Tensor:
    flat = order.flatten(0, 1)
    return torch.stack([flat // side, flat % side], dim=-1)


def infer(case: Case) -> Outputs:
    model, inputs = model_of(case), tensors(case)
    mask = torch.from_numpy(case.outputs["text_masks"]).bool()  # made by the harness, and told with the outputs
    text, video = Tokens(inputs["text_ids"], mask), clip(inputs["video"])
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.register_forward_pre_hook(lambda _, given, index=index: seen.update({f"joint.block{index}_in": given[0]}))
        for index, block in enumerate(model.transformer.blocks)
    ]
    order = published_order(case, video, model) if "torch.manual_seed(0)" in case.facts["notes"] else None
    joint = model.features(text=text, video=video, order=order)
    for hook in hooks:
        hook.remove()
    text_only, video_only = model.features(text=text), model.features(video=video, order=order)
    outputs: dict[str, Any] = {"text_masks": mask, **seen, "joint.norm": joint.frames.flatten(0, 1)}
    outputs |= {f"joint.{name}": value for name, value in feats(model, joint).items()}
    outputs |= {f"text_only.{name}": value for name, value in feats(model, text_only).items()}
    outputs |= {f"image_only.{name}": value for name, value in feats(model, video_only).items()}
    outputs["joint.image_masks"] = torch.ones(joint.video.shape[:2])
    if order is not None:
        side = model.transformer.grid[1]
        outputs |= dict.fromkeys(("patch_index", "image_only.patch_index"), patch_index(order, side))
    if model.config.contrast_weight:
        outputs["proj.text_feats"] = model.txt_proj(text_only.text)
        outputs["proj.image_feats"] = model.vid_proj(video_only.video)
        vectors = model.embeddings({"text": text, "video": video}).vectors
        outputs["proj.sims"] = cosine_similarities(vectors["text"], vectors["video"])
    return arrays(case, outputs)


def published_order(case: Case, video: Tokens, model: AllInOne) -> torch.Tensor:
    """The authors seed torch with 0 before each pass; their draws are ours."""
    h, w = model.transformer.grid
    return drawn_orders(video.mask.shape, h * w, generator=torch.Generator().manual_seed(0))


def feats(model: AllInOne, features: Features) -> dict[str, torch.Tensor | None]:
    found = {
        "text_feats": features.text,
        "image_feats": features.video,
        "raw_cls_feats": features.first,
        "cls_feats": model.pooler(features.first[:, None]),
    }
    return {name: value for name, value in found.items() if value is not None}


def visual_embed(case: Case) -> Outputs:
    """The case has the backbone alone."""
    model = create_model("test_all_in_one", **official_config(case.config, case.make_state_dict()))
    assert isinstance(model, AllInOne)
    load_weights(
        model.transformer, {name.removeprefix("transformer."): value for name, value in case.make_state_dict().items()}
    )
    model.eval()
    video, (h, w) = clip(tensors(case)["video"]), model.transformer.grid
    reading = torch.arange(h * w).expand(*video.mask.shape, -1)
    outputs = {}
    for name, order in {"ordered": reading, "shuffled": published_order(case, video, model)}.items():
        embedded = model.transformer.visual_tokens(video.values, order=order).flatten(0, 1)
        outputs |= {
            f"{name}.embed": embedded,
            f"{name}.mask": torch.ones(embedded.shape[:2]),
            f"{name}.patch_index": patch_index(order, w),
        }
    return arrays(case, outputs)


def temporal_roll(case: Case) -> Outputs:
    inputs, outputs = tensors(case), {}
    ways = {0: "tokens", 2: "layers"}
    for index, call in enumerate(case.config["calls"]):
        num_frames, how = call["n_segment"], ways.get(call["v"], "shift")
        x = inputs[f"x{index}"]
        parts = x.view(-1, num_frames, *x.shape[1:])
        outputs[f"y{index}"] = rolled(parts, how=how, layer=call["layer"]).view(x.shape)
        numbers = torch.arange(num_frames, dtype=torch.float32)[None, :, None, None].expand(1, -1, *x.shape[1:])
        source = rolled(numbers, how=how, layer=call["layer"])[0]
        outputs[f"source_frame{index}"] = source if how == "shift" else source[..., 0]
    return arrays(case, outputs)


def heads(case: Case) -> Outputs:
    """The case has the heads alone; the rest of the model keeps its own weights."""
    weights = case.make_state_dict()
    model = create_model("test_all_in_one", **official_config(case.config, weights)).eval()
    assert isinstance(model, AllInOne)
    load_weights(model, {**model.state_dict(), **weights})
    inputs = tensors(case)
    hidden = inputs["hidden"]
    pooled = model.pooler(hidden)
    return arrays(
        case,
        {
            "pooler": pooled,
            "mlm_score": model.mlm_score(hidden),
            "mpp_score": model.mpp_score(hidden[:, :2]),
            "itm_score": model.itm_score(pooled),
            "rank_output": model.rank_output(pooled),
            "vqa_classifier": model.vqa_classifier(pooled),
            "mc_vqa_classifier": model.mc_vqa_classifier(pooled),
            "txt_proj": model.txt_proj(hidden),
            "vid_proj": model.vid_proj(hidden),
            "vcop_classifier": model.vcop_classifier(inputs["frames"]),
        },
    )


def step_of(model: AllInOne, inputs: dict[str, torch.Tensor], mask: torch.Tensor, order: list[int]) -> dict[str, Any]:
    """The joint objectives of one batch of the authors, which brings its masked words and false clips along."""
    text, video = Tokens(inputs["text_ids"], mask), clip(inputs["video"])
    labels = torch.where(inputs["mlm_noise"] < 0.3, inputs["text_labels_mlm"], NO_LABEL)
    half = len(mask) // 2
    matches = (torch.arange(len(mask)) < half)[torch.tensor(order)]
    mixed = clip(torch.where(matches[:, None, None, None, None], video.values, inputs["false_video"]))
    drawn = Drawn(masked=inputs["text_ids_mlm"], labels=labels, mixed=mixed, matches=matches)
    losses = model.joint_losses(text, video, drawn)
    words = model.features(text=text._replace(values=drawn.masked), video=video).text
    pooled = model.joint(text=text, video=mixed)
    return {
        "losses": losses,
        "text_masks": mask,
        "text_labels_mlm_used": labels,
        "mlm_loss": losses["mlm"],
        "mlm_logits": model.mlm_score(words),
        "vtm_loss": losses["vtm"],
        "vtm_wpa_loss": losses["transport"],
        "vtm_logits": getattr(model, model.matching_name)(pooled),
        "vtm_labels": matches,
    }


def train_step(case: Case) -> Outputs:
    model, inputs = model_of(case), tensors(case)
    mask = torch.from_numpy(case.outputs["text_masks"]).bool()
    found = step_of(model, inputs, mask, case.config["order"])
    losses = found.pop("losses")
    if model.config.contrast_weight:
        vectors = model.embeddings({"text": Tokens(inputs["text_ids"], mask), "video": clip(inputs["video"])}).vectors
        losses["text|video"] = norm_softmax_loss(
            vectors["text"], vectors["video"], temperature=model.config.temperature
        )
        found["ind_itc_loss"] = losses["text|video"]
    total = sum(losses.values())
    total.backward()
    outputs = {re.sub("^vtm", "itm", name): value for name, value in found.items()}
    outputs |= {
        "total": total,
        "grad_abs_sum.total": sums_of(model, case.config["grad_names"]),
        "grad.temporal_embed": model.transformer.temporal_embed.grad,
        "grad.token_type_embeddings": model.token_type_embeddings.weight.grad,
    }
    return arrays(case, outputs)


def cotraining_step(case: Case) -> Outputs:
    model, inputs = model_of(case), tensors(case)
    outputs: dict[str, Any] = {}
    total: Any = 0.0
    for kind in ("v", "i"):
        part = {name[2:]: value for name, value in inputs.items() if name.startswith(f"{kind}.")}
        mask = torch.from_numpy(case.outputs[f"{kind}.text_masks"]).bool()
        found = step_of(model, part, mask, case.config["order"])
        total = total + sum(found.pop("losses").values())
        joint = model.features(text=Tokens(part["text_ids"], mask), video=clip(part["video"]))
        found |= {f"infer.{re.sub('image', 'video', name)}": value for name, value in feats(model, joint).items()}
        outputs |= {f"{kind}.{name}": value for name, value in found.items()}
    total.backward()
    outputs |= {
        "total": total,
        "grad_abs_sum": sums_of(model, case.config["grad_names"]),
        "grad.temporal_embed": model.transformer.temporal_embed.grad,
    }
    return arrays(case, outputs)


def frame_order(case: Case) -> Outputs:
    model, inputs = model_of(case), tensors(case)
    ids = inputs["v.text_ids"]
    order = torch.tensor(case.config["orders"])
    # The case does not say how long its texts are; these lengths give its numbers.
    mask = first_places([ids.shape[1] - 2 * sample for sample in range(len(ids))], ids.shape[1])
    logits = model.order_scores(Tokens(ids, mask), clip(inputs["v.video"]), order)
    labels = order_labels(order)
    return arrays(case, {"vcop_loss": choice_loss(logits, labels), "vcop_logits": logits, "vcop_labels": labels})


def downstream(case: Case) -> Outputs:
    model, inputs = model_of(case), tensors(case)
    ids, video = inputs["text_ids"], clip(inputs["video"])
    text = Tokens(ids, torch.ones(ids.shape, dtype=torch.bool))

    def options(prefix: str) -> list[Tokens]:
        """The masks of option i have the first L - 1 - i % 3 tokens."""
        found = [text]
        for index in range(sum(name.startswith(prefix) for name in inputs)):
            given = inputs[f"{prefix}_{index}_ids"]
            length = given.shape[1] - 1 - index % 3
            found.append(Tokens(given, first_places([length] * len(given), given.shape[1])))
        return found

    names = case.config["grad_names"]
    found = {
        "multiple_choice": (model.choice_scores(options("false_text"), video), inputs["answer"]),
        "mc_vqa": (model.choice_scores(options("options_text"), video, head="option"), inputs["answer"]),
        "openend_vqa": (model.answer_scores(text=text, video=video), inputs["vqa_labels"]),
    }
    outputs: dict[str, Any] = {}
    for name, (scores, answers) in found.items():
        model.zero_grad()
        loss = choice_loss(scores, answers)
        loss.backward()
        outputs |= {
            f"{name}.loss": loss,
            f"{name}.scores": scores,
            f"{name}.logits": scores,
            f"grad_abs_sum.{name}": sums_of(model, names),
        }
    return arrays(case, outputs)


def linear_probe(case: Case) -> Outputs:
    model, inputs = model_of(case), tensors(case)
    assert model.train_probe() == case.config["trainable"]
    mask = torch.from_numpy(case.outputs["text_masks"]).bool()
    logits = model.answer_scores(text=Tokens(inputs["text_ids"], mask), video=clip(inputs["video"]))
    loss = choice_loss(logits, inputs["vqa_labels"])
    loss.backward()
    found = {f"grad.{name}": each.grad for name, each in model.named_parameters() if each.grad is not None}
    return arrays(case, {"text_masks": mask, "logits": logits, "loss": loss, **found})


def losses(case: Case) -> Outputs:
    config = case.config
    inputs = {
        name: value.requires_grad_() if value.is_floating_point() and not name.endswith("noise") else value
        for name, value in tensors(case).items()
    }
    batch, num_options = config["B"], config["choices"]
    mask = torch.from_numpy(case.outputs["text_masks"]).bool()
    labels = torch.where(inputs["mlm_noise"] < 0.3, inputs["mlm_labels"], NO_LABEL)
    places = labels >= 0
    matches = (torch.arange(batch) < batch // 2)[torch.tensor(config["order"])]
    outputs: dict[str, Any] = {
        "mlm_labels_used": labels,
        "mlm_loss": focal_loss(inputs["mlm_logits"][places], labels[places], gamma=0.0),
        "text_masks": mask,
        "itm_labels": matches,
        "itm_loss": choice_loss(inputs["itm_logits"], matches.long()),
        "cost": transport_costs(inputs["text_feats"], inputs["image_feats"]),
        "ind_itc_loss": norm_softmax_loss(inputs["text_emb"][:, 0], inputs["video_emb"][:, 0]),
        "openend_vqa_loss": choice_loss(inputs["vqa_logits"], inputs["vqa_labels"]),
    }
    scores = inputs["scores"].view(batch, num_options)
    outputs |= dict.fromkeys(("multiple_choice_loss", "mc_vqa_loss"), choice_loss(scores, inputs["answer"]))
    outputs["irtr_loss"] = choice_loss(scores, torch.zeros(batch, dtype=torch.int64))
    all_seen = torch.ones(inputs["image_feats"].shape[:2], dtype=torch.bool)
    for name, deit in (("itm_wpa_loss", False), ("itm_wpa_loss_deit", True)):
        features = Features(inputs["text_feats"], inputs["image_feats"], inputs["text_feats"][:, 0], torch.zeros(0))
        aligner = create_model("test_all_in_one", deit=deit)
        distances = aligner.alignment(features, Tokens(labels, mask), Tokens(all_seen, all_seen))
        outputs[name] = aligner.config.transport_weight * torch.where(matches, distances, -distances).mean()
    seen = all_seen.clone()
    seen[:, -2:] = False
    outputs["ot_dist"] = word_patch_distance(
        inputs["text_feats"], inputs["image_feats"], words_real=mask, patches_real=seen
    )
    for loss, given, named in (
        ("mlm_loss", "mlm_logits", "grad.mlm_logits"),
        ("itm_loss", "itm_logits", "grad.itm_logits"),
        ("itm_wpa_loss", "text_feats", "grad.wpa.text_feats"),
        ("itm_wpa_loss", "image_feats", "grad.wpa.image_feats"),
        ("ind_itc_loss", "text_emb", "grad.text_emb"),
        ("ind_itc_loss", "video_emb", "grad.video_emb"),
        ("multiple_choice_loss", "scores", "grad.scores"),
        ("openend_vqa_loss", "vqa_logits", "grad.vqa_logits"),
    ):
        (gradient,) = torch.autograd.grad(outputs[loss], inputs[given], retain_graph=True)
        outputs[named] = gradient[:, 0] if loss == "ind_itc_loss" else gradient
    return arrays(case, outputs)


ADAPTERS = {
    "AllinoneTransformerSS.infer": infer,
    "AllinoneTransformerSS.training_step": train_step,
    "CoTrainTransformerSS.training_step": cotraining_step,
    "VisionTransformer.visual_embed": visual_embed,
    "TemporalRoll": temporal_roll,
    "Pooler, MLMHead, MPPHead, ITMHead, VCOPHeader and the classifiers": heads,
    "compute_vcop": frame_order,
    "compute_multiple_choice, compute_mc_vqa_q2a, compute_openend_vqa": downstream,
    "linear probe: AllinoneTransformerSS": linear_probe,
    "compute_mlm, compute_itm_wpa, compute_ind_itc": losses,
}
