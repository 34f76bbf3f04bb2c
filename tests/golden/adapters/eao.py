"""Golden cases of Everything at Once, its audio CNN, its losses, metrics and clip preparation."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import torch
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.everything_at_once.model import EverythingAtOnce, reduce_audio_tokens
from frameloom.fuse.layers.davenet import DAVEnet
from frameloom.fuse.layers.packed import Sequences, join, pack, real_rows
from frameloom.fuse.layers.transformer import FusionBlock, FusionTransformer, GatedUnit
from frameloom.fuse.objectives.nce import (
    combinatorial_loss,
    cosine_similarities,
    margin_softmax,
    margin_softmax_loss,
    norm_softmax,
    norm_softmax_loss,
)
from frameloom.train.data.tokens import average_by_id, frames_of_span, join_streams, max_over_time, rows_of_span
from frameloom.train.evaluate import retrieval_metrics, retrieval_ranks
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]
SHORT = {
    "text": "text",
    "video": "video",
    "audio": "audio",
    "text+video": "tv",
    "text+audio": "ta",
    "video+audio": "va",
}


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.make_inputs().items()}


def arrays(outputs: dict[str, torch.Tensor]) -> Outputs:
    return {name: value.detach().numpy() for name, value in outputs.items()}


def filled(module: torch.nn.Module, case: Case) -> torch.nn.Module:
    module.load_state_dict(case.make_state_dict())
    return module.eval()


def batch_of(inputs: dict[str, torch.Tensor]) -> dict[str, Tokens]:
    """The official batch in our shapes: the official audio is (B, mel, T)."""
    batch = {name: Tokens(inputs[name], inputs[f"{name}_mask"]) for name in ("text", "video", "audio")}
    batch["audio"] = batch["audio"]._replace(values=batch["audio"].values.transpose(1, 2))
    return batch


def model(case: Case, **told_apart: object) -> Outputs:
    """The published model, through the same door as a published checkpoint."""
    built = create_model("test_everything_at_once").from_official(case.make_state_dict(), case.config | told_apart)
    assert isinstance(built, EverythingAtOnce)
    batch = {name: tokens for name, tokens in batch_of(tensors(case)).items() if name in built.modalities}
    with torch.no_grad():
        wants_late = any("+" in name for name in case.outputs)  # force_cross_modal, which forces joint pairs as well
        vectors, nonempty = built.eval().embeddings(batch, fusion="joint" if wants_late else None)
        late = built.embeddings(batch, fusion="late").vectors if wants_late else {}
    outputs = {f"{name}_nonempty_input_mask": present.float() for name, present in nonempty.items()}
    # The TV-only class still reports which clips have audio.
    outputs.setdefault("audio_nonempty_input_mask", batch_of(tensors(case))["audio"].mask.any(dim=1).float())
    outputs |= {f"{SHORT[name]}_embed": vector for name, vector in vectors.items()}
    outputs |= {f"{x[0]}+{y[0]}_embed": late[f"{x}+{y}"] for x, y in combinations(built.modalities, 2) if late}
    return arrays(outputs)


def gated_unit(case: Case) -> Outputs:
    unit = filled(GatedUnit(case.config["input_dimension"], case.config["output_dimension"]), case)
    return arrays({f"out_{name}": unit(value) for name, value in tensors(case).items()})


def fusion_block(case: Case) -> Outputs:
    config, inputs = case.config, tensors(case)
    block = FusionBlock(
        config["dim"], heads=config["num_heads"], mlp_ratio=float(config["mlp_ratio"]), qkv_bias=config["qkv_bias"]
    )
    filled(block, case)
    x, mask = inputs["x"].flatten(0, 1), inputs["attention_mask"]
    masked, unmasked = Sequences.padded(mask), Sequences.padded(torch.ones_like(mask))
    outputs = {
        "masked": block(x, masked),
        "unmasked": block(x, unmasked),
        "attention_masked": block.attn(block.norm1(x), masked),
    }
    return arrays({name: value.view_as(inputs["x"]) for name, value in outputs.items()})


def fusion_transformer(case: Case) -> Outputs:
    config, inputs = case.config, tensors(case)
    transformer = FusionTransformer(
        config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=float(config["mlp_ratio"]),
        qkv_bias=config["qkv_bias"],
        cls_token=config["use_cls_token"],
    )
    filled(transformer, case)
    outputs = {}
    for passed in {name.split("__")[0] for name in case.outputs}:
        names = passed.split("+")
        given = {name: Tokens(inputs[name], inputs[f"{name}_mask"]) for name in names}
        for name, tokens in all_tokens(transformer, given).items():
            outputs[f"{passed}__{name}__all_tokens"] = tokens
        packed = {name: pack(real_rows(*each), each.mask, transformer.masking_token) for name, each in given.items()}
        joined = join(packed, [passed], class_token=transformer.cls_token)
        pooled = joined.by_part(transformer(joined.values, joined.sequences, joined.pool))
        for name, by_context in pooled.items():
            outputs[f"{passed}__{'_'.join(names) if name == 'cls' else name}__embed"] = by_context[passed]
    return arrays({name: value for name, value in outputs.items() if name in case.outputs})


def all_tokens(transformer: FusionTransformer, given: dict[str, Tokens]) -> dict[str, torch.Tensor]:
    """Every place of a padded batch after the blocks, padding too."""
    parts = dict(given)
    if transformer.cls_token is not None:
        cls = transformer.cls_token.expand(len(next(iter(given.values())).mask), -1, -1)
        parts = {"cls": Tokens(cls, torch.ones_like(cls[..., 0])), **given}
    x = torch.cat([part.values for part in parts.values()], dim=1)
    sequences = Sequences.padded(torch.cat([part.mask for part in parts.values()], dim=1))
    flat = x.flatten(0, 1)
    for block in transformer.blocks:
        flat = block(flat, sequences)
    pieces = flat.view_as(x).split([part.mask.shape[1] for part in parts.values()], dim=1)
    return {name: piece for name, piece in zip(parts, pieces, strict=True) if name in given}


def davenet(case: Case) -> Outputs:
    config = case.config
    network = DAVEnet(
        mel_bands=config["feat_dim"],
        blocks=config["layers"],
        widths=config["layer_widths"],
        kernel=config["convsize"],
    )
    filled(network, case)
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, _module: object, _args: object, output: torch.Tensor | tuple) -> None:
        outputs[name] = (output[0] if isinstance(output, tuple) else output).clone()

    for name, mel in tensors(case).items():
        hooks = [network.bn1.register_forward_hook(partial(keep, f"bn1_{name}"))]
        hooks += [
            getattr(network, f"layer{stage}")[-1].register_forward_hook(partial(keep, f"layer{stage}_{name}"))
            for stage in range(1, network.num_stages + 1)
        ]
        outputs[f"out_{name}"] = network(mel.transpose(1, 2)).transpose(1, 2)
        for hook in hooks:
            hook.remove()
    return arrays(outputs)


def losses(case: Case) -> Outputs:
    outputs = {}
    contrasts = {
        "norm_softmax": partial(norm_softmax, temperature=case.config["temperature"]),
        "mms": partial(margin_softmax, margin=case.config["margin"]),
    }
    for name, contrast in contrasts.items():
        inputs = {key: value.requires_grad_() for key, value in tensors(case).items()}
        outputs[f"{name}_x_loss"] = contrast(inputs["x"])
        similarities = cosine_similarities(inputs["text"], inputs["video"])
        outputs[f"{name}_embed_loss"] = contrast(similarities)
        (outputs[f"{name}_x_loss"] + outputs[f"{name}_embed_loss"]).backward()
        outputs |= {f"{name}_{key}_grad": value.grad for key, value in inputs.items()}
    return arrays(outputs | {"sim_matrix": similarities})


def combinatorial(case: Case) -> Outputs:
    inputs, config = tensors(case), case.config
    vectors = {name: inputs[f"{short}_embed"].requires_grad_() for name, short in SHORT.items()}
    nonempty = {name: inputs[f"{name}_nonempty_input_mask"] for name in ("text", "video", "audio")}
    pairs = {
        "tv": ("text", "video"),
        "ta": ("text", "audio"),
        "va": ("video", "audio"),
        "t_va": ("text", "video+audio"),
        "v_ta": ("video", "text+audio"),
        "a_tv": ("audio", "text+video"),
    }
    weights = {pair: float(config[f"{name}_weight"]) for name, pair in pairs.items()}
    contrast = {
        "NormSoftmax": partial(norm_softmax_loss, temperature=config["temperature"]),
        "MMS": margin_softmax_loss,
    }[config["contrastive_loss"]]
    loss, terms = combinatorial_loss(vectors, nonempty, weights=weights, contrast=contrast)
    loss.backward()
    outputs = {"loss": loss, "info_Retrieval": loss}
    # Terms of no weight are left out, and give their embeddings no gradient.
    outputs |= {f"info_{name}": terms[key] for name, pair in pairs.items() if (key := "|".join(pair)) in terms}
    grads = {short: vectors[name].grad for name, short in SHORT.items()}
    outputs |= {f"grad_{short}_embed": grad for short, grad in grads.items() if grad is not None}
    return arrays(outputs)


def metrics(case: Case) -> Outputs:
    inputs = case.make_inputs()
    given = {
        "sims": inputs["sims"] + np.float32(2.0) * np.eye(case.config["N"], dtype=np.float32),
        "sims_ties": np.round(inputs["sims_ties"] / case.config["tie_step"]) * np.float32(case.config["tie_step"]),
    }
    outputs = {}
    for name, sims in given.items():
        kinds = {
            "averaging": retrieval_metrics(sims),
            "optimistically": retrieval_metrics(sims, ties="optimistic"),
            "complete": retrieval_metrics(sims, num_queries=case.config["complete_dataset_size"]),
            "transposed": retrieval_metrics(sims.T),
        }
        for kind, m in kinds.items():
            outputs[f"{name}_{kind}"] = np.array([m.r1, m.r5, m.r10, m.r50, m.medr, m.meanr, m.geometric_mean])
        outputs[f"{name}_ranks_averaging"] = retrieval_ranks(sims)
    return outputs


def audio_tokens(case: Case) -> Outputs:
    inputs, limit = tensors(case), case.config["n_tokens"]
    outputs = {}
    for how in ("clip", "nearest", "max_pool", "avg_pool", "none"):
        for num_real in case.config["audio_STFT_nframes"]:
            tokens = reduce_audio_tokens(inputs["audio"], num_real=num_real, num_tokens=limit, how=how)
            outputs[f"{how}_{num_real}_audio"] = tokens
            outputs[f"{how}_{num_real}_mask"] = inputs["audio_mask"][: len(tokens)].float()
    return arrays(outputs)


def padded(rows: NDArray, num_rows: int) -> tuple[NDArray, NDArray]:
    """Zeros after the rows, and the mask."""
    mask = (np.arange(num_rows) < len(rows)).astype(np.float32)
    return np.concatenate([rows, np.zeros((num_rows - len(rows), rows.shape[1]), rows.dtype)]), mask


def video_features(case: Case) -> Outputs:
    inputs, limit = case.make_inputs(), case.config["n_tokens"]
    outputs = {}
    for num_2d, num_3d in zip(case.config["rows_2d"], case.config["rows_3d"], strict=True):
        two, three = inputs["feat_2d"][:num_2d], inputs["feat_3d"][:num_3d]
        for how in ("clip", "nearest", "max_pool"):
            for kind, streams in {"both": [two, three], "only3d": [three], "only2d": [two]}.items():
                values, mask = padded(join_streams(streams, max_tokens=limit, how=how), limit)
                name = f"{how}_{kind}_{num_2d}_{num_3d}"
                if kind == "only2d" and case.facts["outputs"][name]["shape"][1] == 2 * values.shape[1]:
                    values = np.concatenate([values, values], axis=1)  # the official quirk, which we do not copy
                outputs |= {name: values, f"{name}_mask": mask}
    pooled = max_over_time([inputs["feat_2d"], inputs["feat_3d"]])
    return outputs | {"pooled": pooled, "pooled_mask": np.ones(1, np.float32)}


def clip_slices(case: Case) -> Outputs:
    inputs, config = case.make_inputs(), case.config
    outputs: Outputs = {}
    spans = list(zip(config["starts"], config["ends"], strict=True))
    for accurate, rounding in {False: "inherited", True: "accurate"}.items():
        clips = []
        for start, end in spans:
            streams = [
                inputs["feat_2d"][rows_of_span(start, end, rate_hz=1.0, rounding=rounding)],
                inputs["feat_3d"][rows_of_span(start, end, rate_hz=1.5, rounding=rounding)],
            ]
            rows = join_streams(streams, max_tokens=config["n_video_tokens"])
            clips.append(padded(rows, config["n_video_tokens"]))
        outputs[f"video_accurate_{accurate}"] = np.stack([values for values, _ in clips])
        outputs[f"mask_accurate_{accurate}"] = np.stack([mask for _, mask in clips])
    crops = [inputs["mel"].T[frames_of_span(start, end)] for start, end in spans]
    for i, crop in enumerate(crops):
        kept = crop[: config["max_audio_STFT_nframes"]]
        outputs[f"audio_{i}_first_column"] = kept[0]
        outputs[f"audio_{i}_mask_sum"] = np.array(float(len(kept)))
        outputs[f"audio_{i}_abs_sum"] = np.abs(kept.astype(np.float64)).sum()
    return outputs | {"crop_lengths": np.array([[len(crop)] for crop in crops], np.float64)}


def average_embeddings(case: Case) -> Outputs:
    ids = case.config["ids_arr"]
    return {name: average_by_id(ids, value)[1] for name, value in case.make_inputs().items()}


ADAPTERS = {
    "EverythingAtOnceModel.forward": model,
    "EverythingAtOnceModel_TV_Only.forward": partial(model, modalities=["text", "video"]),
    "TransformerPerModalityModel.forward": partial(model, transformer="per_modality", cross_modal=False),
    "GatedEmbeddingUnit": gated_unit,
    "FusionBlock": fusion_block,
    "FusionTransformer": fusion_transformer,
    "ResDavenet": davenet,
    "load_DAVEnet": davenet,
    "NormSoftmaxLoss, MMS_Loss": losses,
    "CombinatorialLoss": combinatorial,
    "retrieval_metrics": metrics,
    "create_audio_tokens": audio_tokens,
    "create_video_features": video_features,
    "_get_video, _crop_audio_from_mel_spec, create_audio_features": clip_slices,
    "average_embeddings": average_embeddings,
}
