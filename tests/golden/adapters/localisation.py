"""Golden cases of step localisation: the windows of every second, the labelling, the recalls."""

from __future__ import annotations

import re

import numpy as np
from frameloom.train.evaluate import Localised, label_steps, localisation_recall, predict_steps
from frameloom.train.evaluate.localisation import step_windows, window_audio
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]


def windows(case: Case) -> Outputs:
    config, mel = case.config, case.make_inputs()["mel"]
    limit = config["num_audio_STFT_frames"]
    found = step_windows(config["T"], radius=config["radius"], context_seconds=config["padding"])
    values, mask = window_audio(mel.T, found, max_frames=limit)
    mask = np.pad(mask, ((0, 0), (0, limit - mask.shape[1])))
    return {
        "mask": mask,
        "mask_sums": mask.sum(axis=1),
        "mask_first": mask.argmax(axis=1),
        "nframes": np.array([len(mel.T[window.frames][:limit]) for window in found]),
        "starts": np.array([window.start_seconds for window in found]),
        "ends": np.array([window.end_seconds for window in found]),
        "audio_abs_sums": np.abs(values.astype(np.float64)).sum(axis=(1, 2)),
    }


def labelling(case: Case) -> Outputs:
    inputs, outputs = case.make_inputs(), {}
    for name in case.facts["outputs"]:
        if parts := re.fullmatch(r"Y_(cost\d+)_(one|many)_bg(-?[\d.]+)", name):
            cost, how, background = parts.groups()
            outputs[name] = label_steps(inputs[cost], seconds_per_step=how, background_cost=float(background))
    return outputs | recalls(case, inputs)


def recalls(case: Case, inputs: dict[str, NDArray]) -> Outputs:
    videos, outputs = [], {}
    for i, about in enumerate(case.config.get("videos", [])):
        predicted = outputs[f"pred{i}"] = predict_steps(inputs[f"scores{i}"])
        truth = inputs[f"label{i}"].astype(int)[:, None] == np.arange(about["K"])
        videos.append(Localised(video=str(i), task=f"{about['task']:04}", truth=truth, predicted=predicted))
    if not videos:
        return {}
    pooled, per_video = (localisation_recall(videos, protocol=p) for p in ("crosstask", "crosstask_per_video"))
    singles = [localisation_recall([video], protocol="miningyoutube").recall / 100 for video in videos]
    return outputs | {
        "crosstask_recall_per_task": np.array(list(pooled.by_task.values())) / 100,
        "crosstask_recall": np.array(pooled.recall / 100),
        "mcn_recall_per_task": np.array(list(per_video.by_task.values())) / 100,
        "mcn_recall": np.array(per_video.recall / 100),
        "per_video_recall": np.array(singles),
    }


ADAPTERS = {"_get_audio": windows, "dp": labelling, "get_recalls": labelling, "cvpr19_predict": labelling}
