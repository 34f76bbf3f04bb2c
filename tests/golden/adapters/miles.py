"""Golden cases of MILES and of its base, Frozen in Time."""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

import numpy as np
import torch
from frameloom.fuse import Tokens, create_model, load_weights
from frameloom.fuse.layers import inflated_frames
from frameloom.fuse.layers.vit import SpaceTimeTransformer
from frameloom.fuse.miles import MILES, MILESConfig
from frameloom.fuse.miles.masks import block_mask, random_mask
from frameloom.fuse.miles.model import update_snapshot, video_encoder
from frameloom.fuse.miles.official import official_config, our_names
from frameloom.fuse.objectives import masked_regression
from frameloom.fuse.objectives.nce import cosine_similarities, norm_softmax, norm_softmax_loss
from frameloom.fuse.objectives.pairwise import max_margin
from frameloom.train.evaluate.metrics import best_caption_ranks, metrics_of_ranks, retrieval_metrics
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]
READINGS = {
    "eq4_literal": "sample_l2_sum",
    "batch_mean": "sample_l2_mean",
    "token_l2_mean": "token_l2_mean",
    "token_sq_mean": "token_square_mean",
    "mse": "square_mean",
}


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.make_inputs().items()}


def arrays(outputs: dict[str, Any]) -> Outputs:
    return {name: torch.as_tensor(value).detach().numpy() for name, value in outputs.items()}


def all_real(video: torch.Tensor) -> torch.Tensor:
    return torch.ones(video.shape[:2], dtype=torch.bool)


def official_arguments(case: Case) -> dict[str, Any]:
    """The configuration of a case of a whole model, as arguments of the authors' class."""
    config = case.config
    (text,) = (value for name, value in config.items() if name.startswith("text ("))
    names = ("projection_dim", "projection")
    return {
        "video_params": config["video"],
        "text_params": text,
        **{name: config[name] for name in names if name in config},
    }


def whole_model(case: Case, name: str = "test_miles", *, prefix: str = "") -> MILES:
    weights = {prefix + key: value for key, value in case.make_state_dict().items()}
    model = create_model(name).from_official(weights, official_arguments(case))
    assert isinstance(model, MILES)
    for key, value in model.to_official()["state_dict"].items():
        if prefix + key in weights and value.shape == weights[prefix + key].shape:
            assert torch.equal(value, weights[prefix + key]), key
    return model.train(case.facts["mode"] == "train")


def batch_of(case: Case) -> dict[str, Tokens]:
    """The attention mask is told with the outputs, being made by the harness."""
    inputs = tensors(case)
    mask = torch.from_numpy(case.outputs["attention_mask"]).bool()
    return {
        "text": Tokens(inputs["input_ids"], mask),
        "video": Tokens(inputs["video"], all_real(inputs["video"])),
    }


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """By the authors' names; zero where there is none."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def sums_of(found: dict[str, torch.Tensor], names: list[str]) -> NDArray:
    ours = {official: our for our, official in our_names({name: name for name in names}).items()}
    return np.array([float(found[ours[name]].abs().sum(dtype=torch.float64)) for name in names])


def whole(case: Case, name: str = "test_miles", prefix: str = "") -> Outputs:
    model, batch = whole_model(case, name, prefix=prefix), batch_of(case)
    seen: dict[str, torch.Tensor] = {}
    model.video_model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.setdefault("embed", inputs[0]))
    vectors = model.embeddings(batch).vectors
    loss, _ = model.loss(batch)
    video = batch["video"]
    outputs: dict[str, Any] = {
        "attention_mask": batch["text"].mask.float(),
        "text_embeds": vectors["text"],
        "video_embeds": vectors["video"],
        "sims": cosine_similarities(vectors["text"], vectors["video"]),
        "loss": loss,
        "embed": seen["embed"],
        "tokens": model.video_model(video.values, all_real(video.values)),
        "temporal_embed": model.video_model.temporal_embed,
    }
    found = gradients(model, loss)
    outputs |= {f"grad.{name}": value for name, value in found.items()}
    outputs["grad_abs_sum"] = sums_of(found, case.config.get("grad_names", []))
    return arrays({name: value for name, value in outputs.items() if name in case.facts["outputs"]})


def encoder_of(case: Case, *, mask_token: bool = False) -> SpaceTimeTransformer:
    config = MILESConfig(**official_config({"video_params": video_params(case)}))
    return video_encoder(config, mask_token=mask_token).train(case.facts["mode"] == "train")


def video_params(case: Case) -> dict[str, Any]:
    return {name: value for name, value in case.config.items() if name not in ("names", "lambda", "updates")}


def space_time_transformer(case: Case) -> Outputs:
    encoder = encoder_of(case)
    load_weights(encoder, case.make_state_dict())
    seen: dict[str, torch.Tensor] = {}
    first = encoder.blocks[0]
    first.register_forward_pre_hook(lambda _, inputs: seen.update(embed=inputs[0]))
    for name, module in {"block0_time": first.timeattn, "block0_space": first.attn, "block0": first}.items():
        module.register_forward_hook(lambda *each, name=name: seen.update({name: each[2]}))
    outputs = {}
    for name, video in tensors(case).items():
        tokens = encoder(video, all_real(video))
        outputs |= {f"{name}.{part}": value for part, value in seen.items()}
        outputs |= {f"{name}.tokens": tokens}
        places = torch.arange(len(video)) * tokens.shape[1]
        outputs[f"{name}.cls"] = encoder(video, all_real(video), rows=places)
    return arrays(outputs)


def masked_encoder(case: Case) -> Outputs:
    encoder, inputs = encoder_of(case, mask_token=True), tensors(case)
    load_weights(encoder, case.make_state_dict())
    seen: dict[str, torch.Tensor] = {}
    encoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.setdefault("embed", given[0]))
    video = inputs["video"]
    mask = random_mask(inputs["mask_noise"].numpy(), ratio=0.75)
    masked = torch.from_numpy(mask).expand(*video.shape[:2], -1)
    tokens = encoder(video, all_real(video), masked=masked)
    by_frame = tokens[:, 1:].unflatten(1, masked.shape[1:])
    return arrays(
        {
            "mask": mask.reshape(encoder.grid).astype(np.float32),
            "cls": tokens[:, 0],
            "tokens": tokens,
            "masked_tokens": by_frame[:, :, torch.from_numpy(mask)],
            "embed": seen["embed"],
        }
    )


def train_step(case: Case) -> Outputs:
    model, batch, names = whole_model(case), batch_of(case), case.config["grad_names"]
    video = batch["video"].values
    mask = random_mask(tensors(case)["mask_noise"].numpy(), ratio=0.75)
    masked = torch.from_numpy(mask).expand(*video.shape[:2], -1)
    frames, (_, places) = all_real(video), model.masked_places(masked)
    cls, _ = model.masked_pass(video, frames, masked)
    per_clip = (len(video), -1, model.config.width)
    raw = model.video_model(video, frames)
    outputs: dict[str, Any] = {
        "mask": mask.reshape(model.video_model.grid).astype(np.float32),
        "attention_mask": batch["text"].mask.float(),
        "v_mask": model.video_model(video, frames, masked=masked, rows=places).reshape(per_clip),
        "s_mask": model.snapshot(video, frames, rows=places).reshape(per_clip),
        "cls_masked": cls,
        "cls_raw": raw[:, 0],
        "text_embeds": model.embeddings(batch).vectors["text"],
    }

    def losses(name: str, loss: torch.Tensor) -> None:
        found = gradients(model, loss)
        outputs[f"loss.{name}"] = loss
        outputs[f"grad_abs_sum.{name}"] = sums_of(found, names)
        outputs[f"grad.mask_token.{name}"] = found["video_model.mask_token"]
        outputs[f"grad.temporal_embed.{name}"] = found["video_model.temporal_embed"]

    for clip in ("masked", "raw"):
        configured(model, contrast_video=clip, mvm_weight=0.0)
        losses(f"contrastive_{clip}", model.loss(batch, masked=masked)[0])
        for reading, how in READINGS.items():
            configured(model, contrast_video=clip, mvm_weight=1.0, mvm_loss=how)
            losses(f"mvm.{reading}", model.masked_pass(video, frames, masked)[1])
            outputs[f"total.contrastive_{clip}+mvm.{reading}"] = model.loss(batch, masked=masked)[0]
    return arrays({name: value for name, value in outputs.items() if name in case.facts["outputs"]})


def configured(model: MILES, **changes: Any) -> None:
    model.config = model.config.replaced(**changes)


def ema(case: Case) -> Outputs:
    state, names = case.make_state_dict(), case.config["names"]
    encoders = {}
    for name in ("snapshot", "video"):
        encoders[name] = encoder_of(case)
        part = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")}
        load_weights(encoders[name], part)
    outputs: dict[str, Any] = {}
    for update in range(1, case.config["updates"] + 1):
        update_snapshot(encoders["snapshot"], encoders["video"], momentum=case.config["lambda"])
        weights = {name: value.detach().clone() for name, value in encoders["snapshot"].named_parameters()}
        outputs |= {f"after{update}.{name}": value for name, value in weights.items()}
        outputs[f"after{update}.abs_sum"] = np.array(
            [float(weights[name].abs().sum(dtype=torch.float64)) for name in names]
        )
        with torch.no_grad():
            for parameter in encoders["video"].parameters():
                parameter.mul_(0.5)
    return arrays(outputs)


def mvm(case: Case) -> Outputs:
    outputs = {}
    for reading, how in READINGS.items():
        inputs = tensors(case)
        predicted = inputs["v_mask"].requires_grad_()
        num_samples, per_clip, _ = predicted.shape
        sample = torch.arange(num_samples).repeat_interleave(per_clip)
        loss = masked_regression(
            predicted.flatten(0, 1), inputs["s_mask"].flatten(0, 1), sample, num_samples=num_samples, how=how
        )
        loss.backward()
        outputs |= {f"loss.{reading}": loss, f"grad.{reading}": predicted.grad}
    return arrays(outputs)


def losses(case: Case) -> Outputs:
    """Where an output names other numbers than the configuration, they are in its text."""
    about = case.facts["outputs"]

    def number(name: str, word: str) -> float:
        return float(re.search(rf"{word}[= ]([\d.]+\d|\d+)", about[name])[1])

    inputs = {name: value.requires_grad_() for name, value in tensors(case).items()}
    outputs: dict[str, Any] = {
        "loss": norm_softmax(inputs["sims"], temperature=case.config["temperature"]),
        "loss_t007": norm_softmax(inputs["sims_u"], temperature=number("loss_t007", "temperature")),
        "loss_embeds": norm_softmax_loss(inputs["text"], inputs["video"], temperature=case.config["temperature"]),
    }
    for name in ("loss", "loss_t007", "loss_embeds"):
        outputs[name].backward()
    outputs |= {f"grad.{name}": value.grad.clone() for name, value in inputs.items()}
    inputs["sims"].grad = None
    # The authors take the mean of the two directions, which are added here.
    outputs["maxmargin"] = max_margin(inputs["sims"], margin=number("maxmargin", "margin"), diagonal=False) / 2
    outputs["maxmargin"].backward()
    outputs["grad.maxmargin.sims"] = inputs["sims"].grad
    outputs["maxmargin_nofix"] = max_margin(inputs["sims"], margin=number("maxmargin_nofix", "margin")) / 2
    return arrays(outputs)


def sim_matrix(case: Case) -> Outputs:
    inputs = tensors(case)
    a, b = (inputs[name].clone().requires_grad_() for name in ("a", "b"))
    sims = cosine_similarities(a, b)
    (sims * inputs["probe"]).sum().backward()
    clamped_a, clamped_b = inputs["a"].clone(), inputs["b"].clone()
    clamped_a[1], clamped_b[0] = 0.0, clamped_b[0] * 1e-10
    return arrays(
        {"sims": sims, "grad.a": a.grad, "grad.b": b.grad, "sims_clamped": cosine_similarities(clamped_a, clamped_b)}
    )


def projection(case: Case) -> Outputs:
    config = case.config
    options = {
        "width": config["embed_dim"],
        "text_width": config["hidden_size"],
        "projection_dim": config["projection_dim"],
    }
    model = create_model("test_miles", **options, heads=1, text_heads=1, target="none")
    assert isinstance(model, MILES)
    for name in ("text_proj", "vid_proj"):
        weights = {key.removeprefix(f"{name}."): value for key, value in case.make_state_dict().items()}
        load_weights(getattr(model, name), {key: value for key, value in weights.items() if "proj" not in key})
    inputs = {name: value.requires_grad_() for name, value in tensors(case).items()}
    text, video = model.project_text(inputs["text_hidden"]), model.vid_proj(inputs["video_cls"])
    loss = norm_softmax_loss(text, video, temperature=model.config.temperature)
    loss.backward()
    found = {f"grad.{name}": value.grad for name, value in inputs.items()}
    found |= {f"grad.{name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    sims = cosine_similarities(text, video)
    return arrays({"text_embeds": text, "video_embeds": video, "sims": sims, "loss": loss, **found})


def masking_generator(case: Case) -> Outputs:
    config, outputs = case.config, {}
    for index, options in enumerate(config["generators"]):
        size = options["input_size"]
        how = {
            "grid": (size, size) if isinstance(size, int) else tuple(size),
            "num_masked": options["num_masking_patches"],
            "min_patches": options["min_num_patches"],
            "max_patches": options["max_num_patches"],
            "aspect": tuple(options["aspect"]),
        }
        num_seeds = int(re.search(r"seeds 0\.\.(\d+)", case.facts["outputs"][f"g{index}.freq"])[1]) + 1
        drawn = np.stack([block_mask(random.Random(seed), **how) for seed in range(num_seeds)])
        counts = drawn.sum(axis=(1, 2))
        reached = (counts == how["num_masked"]).mean()
        outputs[f"g{index}.masks"] = drawn[config["exact_seeds"]].astype(np.float32)
        outputs[f"g{index}.count_stats"] = np.array([counts.mean(), counts.std(), counts.min(), counts.max(), reached])
        outputs[f"g{index}.freq"] = drawn.mean(axis=0)
    outputs["tube"] = np.stack([outputs["g0.masks"][0]] * config["frames"])
    return outputs


def metrics(case: Case) -> Outputs:
    config, inputs = case.config, case.make_inputs()
    per_clip, num_clips = config["captions_per_video"], config["videos"]
    targets = np.repeat(np.arange(num_clips), per_clip)
    sims = inputs["sims"].copy()
    sims[np.arange(len(targets)), targets] += np.float32(1.5)
    if config["rounded_to_half"]:
        sims = (sims * 2).round() / 2
    outputs, present = {}, np.ones(len(targets), bool)
    if config["masked"]:
        used = inputs["query_masks"] > 0.2
        used[:, 0] = True
        present, outputs["query_masks_used"] = used.ravel(), used.astype(np.float32)
    found = {
        "t2v_metrics": retrieval_metrics(sims[present], targets=targets[present], ties="optimistic"),
        "v2t_metrics": metrics_of_ranks(best_caption_ranks(sims, targets=targets, present=present)),
    }
    return outputs | {
        name: np.array([m.r1, m.r5, m.r10, m.r50, m.medr, m.meanr, m.geometric_mean]) for name, m in found.items()
    }


def inflated(case: Case) -> Outputs:
    """`4to6.interp` and the like; the tables are filled under the names of the case's state dict."""
    tables, outputs = case.make_state_dict(), {}
    for name in case.facts["outputs"]:
        loaded, wanted, how = re.fullmatch(r"(\d+)to(\d+)\.(\w+)", name).groups()
        table = tables[f"loaded_{loaded}.temporal_embed"]
        outputs[name] = inflated_frames(table, int(wanted), how={"interp": "nearest"}.get(how, how))
    return arrays(outputs)


def time_init_zeros(case: Case) -> Outputs:
    encoder = video_encoder(
        MILESConfig(**official_config({"video_params": {**video_params(case), "time_init": "zeros"}}))
    )
    load_weights(encoder, {**encoder.state_dict(), **case.make_state_dict()})
    video = tensors(case)["video"]
    tokens = encoder(video, all_real(video))
    alone = [encoder(video[:, [t]], all_real(video[:, [t]])) for t in range(video.shape[1])]
    return arrays(
        {
            "cls": tokens[:, 0],
            "tokens": tokens,
            "cls_single_frames": torch.stack([each[:, 0] for each in alone], dim=1),
            "tokens_frame0": alone[0],
        }
    )


ADAPTERS = {
    "snapshot update": ema,
    "MILES(video_params, text_params, projection_dim)": whole,
    "MVM l2 regression": mvm,
    "NormSoftmaxLoss, MaxMarginRankingLoss": losses,
    "MaskingGenerator, repeated over frames": masking_generator,
    "SpaceTimeTransformer": space_time_transformer,
    "SpaceTimeTransformer, mask token put in by the harness": masked_encoder,
    "t2v_metrics, v2t_metrics": metrics,
    "MILES.compute_text / compute_video / forward": projection,
    "sim_matrix": sim_matrix,
    "one training step's losses": train_step,
    "FrozenInTime._inflate_positional_embeds": inflated,
    "AllinoneTransformerSS._inflate_positional_embeds": inflated,
    "SpaceTimeTransformer(time_init='zeros')": time_init_zeros,
    "FrozenInTime, built with a checkpoint of another frame number": partial(
        whole, name="test_miles", prefix="module."
    ),
}
