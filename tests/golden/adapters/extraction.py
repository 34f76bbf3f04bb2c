"""Golden cases of the frozen feature extractors: ResNet-152, AVLnet's spectrogram, word vectors."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from frameloom.extract import create_backbone
from frameloom.extract.backbones.logmel import log_mel, mel_filters, power_spectrum, pre_emphasised
from frameloom.extract.networks.word_vectors import WordVectors, tokenize, write_word_vectors
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]


def resnet_2d(case: Case) -> Outputs:
    backbone = create_backbone("resnet152").from_official(case.make_state_dict())
    frames = torch.from_numpy(case.make_inputs()["frames"].astype(np.uint8)).permute(0, 2, 3, 1).unsqueeze(1)
    preprocessed = backbone.prepare(frames)
    features = backbone.forward(frames)
    normalised = torch.nn.functional.normalize(features)
    outputs = {
        "preprocessed": preprocessed,
        "features": features,
        "features_normalised": normalised,
        "features_half": normalised.half().float(),
        **_maps(backbone.network, preprocessed),
    }
    return {name: value.contiguous().numpy() for name, value in outputs.items()}


def _maps(network: torch.nn.Module, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """The map after each stage, to tell in which one a difference begins."""
    maps = {}
    with torch.inference_mode():
        maps["map_maxpool"] = network.maxpool(network.act1(network.bn1(network.conv1(pictures))))
        value = maps["map_maxpool"]
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            value = maps[f"map_{stage}"] = getattr(network, stage)(value)
    return maps


def spectrogram(case: Case) -> Outputs:
    waveform = case.make_inputs()["waveform"]
    emphasised = pre_emphasised(waveform)
    power = power_spectrum(emphasised)
    outputs = {
        "preemphasised_first_400": emphasised[:400],
        "power_frame_0": power[0],
        "power_frame_5": power[5],
        "mel_basis": np.ascontiguousarray(mel_filters().T),
    }
    silence, empty = np.zeros(3000, np.float32), np.zeros(0, np.float32)
    for name, samples in (("waveform", waveform), ("silence", silence), ("empty", empty)):
        bands = log_mel(samples).T
        for target in case.config["target_lengths"]:
            length = bands.shape[1] if target == "use_raw_length" else target
            suffix = "raw" if target == "use_raw_length" else target
            outputs[f"{name}_{suffix}"] = _fitted(bands, length)
            outputs[f"{name}_{suffix}_nframes"] = np.array(min(bands.shape[1], length))
    return outputs


def _fitted(bands: NDArray, length: int) -> NDArray:
    """Cut or padded with 0 to a number of frames, as a data set does it."""
    kept = bands[:, :length]
    return np.pad(kept, ((0, 0), (0, length - kept.shape[1])))


def word_vectors(case: Case) -> Outputs:
    config, vectors = case.config, case.make_inputs()["word_vectors"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.bin"
        write_word_vectors(WordVectors(config["vocabulary"], vectors), path)
        backbone = create_backbone("word2vec", weights=path, dim=config["we_dim"])
    outputs = {}
    for index, sentence in enumerate(config["sentences"]):
        assert tokenize(sentence) == config["tokens"][index]
        values = backbone.encode(sentence).values[: config["max_words"]]
        rest = config["max_words"] - len(values)
        outputs[f"text_{index}"] = np.pad(values, ((0, rest), (0, 0)))
        outputs[f"mask_{index}"] = np.pad(np.ones(len(values), np.float32), (0, rest))
    return outputs


ADAPTERS = {
    "get_model(type='2d')": resnet_2d,
    "LoadAudio": spectrogram,
    "_tokenize_text, create_text_features": word_vectors,
}
