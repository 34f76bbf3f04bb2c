"""Golden cases of which frames, spans and parts of a video are read: published sampling rules, clips of narrations."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from frameloom.extract import create_backbone
from frameloom.extract.networks.word_vectors import WordVectors, write_word_vectors
from frameloom.train.data.frame_indices import Draws, clover_indices, frozen_in_time_indices, vindlu_indices
from frameloom.train.data.narration import NarratedClip, audio_frames_of, grown_clip, random_clip
from frameloom.train.evaluate import retrieval_metrics
from frameloom.train.evaluate.long_videos import equal_parts, frames_of_parts
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]


def frozen_in_time(case: Case) -> Outputs:
    outputs = {}
    for name in case.facts["outputs"]:
        rule, num_frames, length, seed = re.fullmatch(r"(uniform|rand)\.(\d+)_(\d+)(?:_(\d+))?", name).groups()
        how = {} if rule == "uniform" else {"at": "random", "draws": Draws(int(seed))}
        outputs[name] = frozen_in_time_indices(int(length), num_frames=int(num_frames), **how)
    return outputs


def seed_of(case: Case, name: str) -> int:
    return int(re.search(r"random\.seed\((\d+)\)", case.facts["outputs"][name])[1])


def vindlu(case: Case) -> Outputs:
    outputs = {}
    for row, (num_frames, length) in enumerate(case.make_inputs()["table"].astype(int).tolist()):
        outputs[f"middle_{row}"] = vindlu_indices(length, num_frames=num_frames)
        draws = Draws(seed_of(case, f"rand_{row}"))
        outputs[f"rand_{row}"] = vindlu_indices(length, num_frames=num_frames, at="random", draws=draws)
    return outputs


def clover(case: Case) -> Outputs:
    outputs: Outputs = {}
    for row, (length, num_clips, clip_frames, interval) in enumerate(case.make_inputs()["table"].astype(int).tolist()):
        how: dict[str, Any] = {"num_clips": num_clips, "clip_frames": clip_frames, "frame_interval": interval}
        outputs[f"test_{row}"] = clover_indices(length, **how)
        draws = Draws(seed_of(case, f"train_{row}"))
        outputs[f"train_{row}"] = clover_indices(length, **how, at="random", draws=draws)
    return outputs | ({"metrics": clover_metrics(case)} if "metrics" in case.facts["outputs"] else {})


def clover_metrics(case: Case) -> NDArray:
    """Text to video: recalls, the median rank, and the sum of the recalls less that rank."""
    inputs = case.make_inputs()
    factor = float(re.search(r"([\d.]+)\*text_noise", case.facts["inputs"]["text_noise"]["note"])[1])
    video = inputs["video_embd"]
    text = video + np.float32(factor) * inputs["text_noise"]
    video, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (video, text))
    m = retrieval_metrics(text @ video.T)
    return np.array([m.r1, m.r5, m.r10, m.medr, m.r1 + m.r5 + m.r10 - m.medr])


def cut_into_clips(case: Case) -> Outputs:
    inputs, num_parts = case.make_inputs(), case.config["n_clips"]
    outputs = {name: equal_parts(inputs[name], num_parts=num_parts) for name in ("video", "video_mask", "audio_mask")}
    outputs["audio"] = equal_parts(inputs["audio"].T, num_parts=num_parts).swapaxes(1, 2)
    outputs |= {name: np.stack([inputs[name]] * num_parts) for name in ("text", "text_mask")}
    per_part = outputs["audio"].shape[2]
    frames, counts = frames_of_parts(case.config["audio_STFT_nframes"], num_parts=num_parts, frames_per_part=per_part)
    assert [part != "-1" for part in case.config["ids_out"]] == counts.tolist()
    return outputs | {"audio_STFT_nframes": frames}


def narrated_clips(case: Case) -> Outputs:
    config, inputs = case.config, case.make_inputs()
    starts, ends, least = config["caption"]["start"], config["caption"]["end"], config["min_time"]
    outputs = {}
    for index in range(len(starts)):
        clip = grown_clip(starts, ends, index=index, min_seconds=least)
        for is_shifted, shift in {False: "none", True: "later"}.items():
            outputs[f"caption_{index}_shift_{is_shifted}"] = facts_of(clip, case, shift=shift)
    for index, draw in enumerate(config["uniform_draws"]):
        num_frames = inputs["mel"].shape[1]
        clip = random_clip(starts, ends, num_frames=num_frames, min_seconds=least, draw=draw)
        outputs[f"sampled_{index}"] = facts_of(clip, case, shift="none")
    return outputs


def facts_of(clip: NarratedClip, case: Case, *, shift: Any) -> NDArray:
    """Start, end, frames kept (twice), the sum of their absolute values, words kept, the sum of their vectors."""
    frames = audio_frames_of(
        clip, min_seconds=case.config["min_time"], max_frames=case.config["num_audio_STFT_frames"], shift=shift
    )
    audio = case.make_inputs()["mel"][:, frames]
    words = words_of(clip, case)
    loudness = np.abs(audio.astype(np.float64)).sum()
    span = [clip.start_seconds, clip.end_seconds]
    return np.array([*span, audio.shape[1], audio.shape[1], loudness, len(words), words.sum(dtype=np.float64)])


def words_of(clip: NarratedClip, case: Case) -> NDArray:
    config, vectors = case.config, case.make_inputs()["word_vectors"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.bin"
        write_word_vectors(WordVectors(config["vocabulary"], vectors), path)
        backbone = create_backbone("word2vec", weights=path, dim=vectors.shape[1])
    text = " ".join(config["caption"]["text"][sentence] for sentence in clip.sentences)
    return backbone.encode(text).values[: config["max_words"]]


ADAPTERS = {
    "sample_frames": frozen_in_time,
    "get_frame_indices": vindlu,
    "recall_for_video_text_retrieval, SampleFrames": clover,
    "SampleFrames": clover,
    "cut_into_clips": cut_into_clips,
    "_get_text_and_audio_by_ind": narrated_clips,
    "_get_single_random_audio_and_text": narrated_clips,
}
