"""Any dual encoder of transformers: rows of texts and of pictures, windows of frames, or sound in one space.

Tried families: CLIP, SigLIP, SigLIP 2 with NaFlex, MetaCLIP 2, AltCLIP, ChineseCLIP, BLIP (also as
`BlipForImageTextRetrieval`), ALIGN, X-CLIP and CLAP. The networks, tokenizers and processors are those of
transformers; width, size, crop, rate and lengths are read from the model's own files, so that weights must be given:
a folder as transformers saves a model, or ``hf://OWNER/NAME@REVISION``. Papers: Radford et al. (CLIP, ICML 2021), Zhai
et al. (SigLIP, ICCV 2023), Tschannen et al. (SigLIP 2, 2025), Jia et al. (ALIGN, ICML 2021), Li et al. (BLIP, ICML
2022), Ni et al. (X-CLIP, ECCV 2022), Wu et al. (CLAP, ICASSP 2023).

How inputs are prepared, where families differ:
- Texts of SigLIP and SigLIP 2 are padded to the length that they were trained with, and attention sees the padding,
  unless the tokenizer says otherwise. ALIGN reads 64 tokens. Everything else reads a text without padding.
- The option ``prompt`` goes around each text, which takes the place of its ``{}``; ``lower_case`` is for SigLIP 2,
  which was trained on lower case.
- Frames go through the model's own processor: the same numbers as transformers gives for the same frames.
- X-CLIP reads windows of its number of frames, one after another, at ``rate_hz`` frames a second. The text rows are
  those of `get_text_features`, which no video has changed.
- CLAP reads 10 s at 48 kHz, one window after another, each prepared by itself: with ``truncation: fusion`` the
  extractor marks one window of a batch, by chance. The last window is repeated until it is full, and left out if it
  is shorter than a second and not the only one.

Deviations, each on purpose:
- The decoder makes frames small before the processor sees them, by swscale's bicubic filter: to the short side that
  the processor scales to, and to its square where the processor would only cut it out. Where it squeezes pictures
  into a square (SigLIP, BLIP), or into a number of patches (NaFlex), it scales the decoder's frame once more.
- Sound is made one channel and the model's rate by FFmpeg.
- Rows are stored as the tower gives them, of whatever length; readers make them unit vectors before they are averaged.

Legend: B batch, N frames of a window, H height, W width, D width of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..networks import FrozenNetwork, TextNetwork, VisualNetwork, checked_rows, dual, still_windows, visual_spec
from ..registry import BACKBONES, BackboneEntry
from ..types import DecodedAudio, DecodedFrames
from ..weights import ModelFolder
from ..windows import Windows

if TYPE_CHECKING:
    import torch

_PAPER = "that of the model in the weights' folder"
_CLIP = f"{_PAPER}; shown as CLIP ViT-B/32 (Radford et al., ICML 2021)"
_CLAP = f"{_PAPER}; shown as CLAP (Wu et al., ICASSP 2023)"
_PADDED_FAMILIES = ("siglip", "siglip2")
_TOKENS_OF_FAMILY = {"align": 64}
# Their positions begin after that of the padding token.
_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "clap_text_model", "altclip_text_model")
_SHORTEST_SECONDS = 1.0
_BATCH_SOUND_WINDOWS = 8


class _Tower(FrozenNetwork):
    """One tower of a folder's model, tried once when it is built.

    Attributes:
        kind: text, image, video or audio.
        reader: what prepares its inputs, of transformers.
    """

    reader_class: str
    kind: str
    reader: Any

    @classmethod
    def build(cls, spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Self:
        """The tower of a folder.

        Raises:
            InputError: the folder is damaged, lacks weights that this tower needs, or has towers of several widths.
        """
        del seed
        assert weights is not None  # the registry sees to it
        folder = ModelFolder(weights, weights_digest.removeprefix("sha256:"))
        kind = dual.kind_for(folder, spec.modality)
        reader = dual.load_part(cls.reader_class, folder)
        backbone = cls._of(spec, dual.load_network(folder, kind), reader, device=device, weights_digest=weights_digest)
        backbone.kind, backbone.reader = kind, reader
        with dual.reading("model", weights):
            found = backbone.trial()
        if found.status is not Status.OK:
            raise InputError(f"the weights in {weights} are not whole: {found.message}; fetch the folder again")
        return backbone

    @classmethod
    def _of(cls, spec: FeatureSpec, network: Any, reader: Any, **how: Any) -> Self:
        del reader
        return cls(spec, network, **how)

    def trial(self) -> FeatureArray:
        """The rows of some input."""
        raise NotImplementedError

    def rows_of(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Prepared inputs to rows (B, D).

        Raises:
            InputError: rows of another width than the configuration says.
        """
        on_device = {name: value.to(self._device) for name, value in inputs.items()}
        rows = dual.rows_of(self.network, self.kind, on_device)
        if rows.shape[1:] != (self.spec.dim,):
            raise InputError(
                f"{type(self.network).__name__}: rows of {self.kind} are {tuple(rows.shape[1:])} wide, and its space"
                f" {self.spec.dim}: towers of several widths cannot be compared"
            )
        return rows


class TransformersVideo(_Tower, VisualNetwork):
    """The tower of pictures, frame by frame, or of windows of frames where the model reads those."""

    reader_class = "AutoImageProcessor"

    def prepare(self, frames: torch.Tensor) -> Any:
        """uint8 pictures (B, N, H, W, 3) to what the model's own processor makes of them."""
        windows = [list(window) for window in frames.permute(0, 1, 4, 2, 3)]
        images = windows if self.kind == "video" else [window[0] for window in windows]
        return self.reader(images, return_tensors="pt", input_data_format="channels_first")

    def embed(self, inputs: Any) -> torch.Tensor:
        """Prepared pictures to rows (B, D)."""
        return self.rows_of(inputs)

    def trial(self) -> FeatureArray:
        side = self.spec.preprocessing["short_side"]
        return self.encode(DecodedFrames(np.full((1, side, side, 3), 128, np.uint8), np.array([[0.0, 1.0]])))


class TransformersText(_Tower, TextNetwork):
    """The tower of texts: one row for a text."""

    reader_class = "AutoTokenizer"

    @classmethod
    def _of(cls, spec: FeatureSpec, network: Any, reader: Any, **how: Any) -> Self:
        return cls(spec, network, tokenizer=reader, **how)

    def rows(self, tokens: torch.Tensor, is_of_text: torch.Tensor) -> torch.Tensor:
        """Token numbers (N,) to the row of their text (1, D), padded as the model was trained."""
        del is_of_text
        sampling, known = self.spec.sampling, self.network.config.text_config.vocab_size
        if (largest := int(tokens.max())) >= known:
            raise InputError(
                f"the vocabulary of {self.spec.name} has token {largest}; the network knows {known} tokens"
            )
        padded = self.tokenizer.pad(
            {"input_ids": [tokens.tolist()]},
            padding=sampling["padding"],
            max_length=sampling["max_tokens"],
            return_tensors="pt",
        )
        return self.rows_of(padded)

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The row of one text, inside of the prompt. Its times are NaN, for a text has none."""
        if isinstance(item, str) and item.strip():
            text: str = self.spec.sampling["prompt"].replace("{}", item)
            item = text.lower() if self.spec.sampling["lower_case"] else text
        return super().encode(item)

    def trial(self) -> FeatureArray:
        return self.encode("a")


class TransformersAudio(_Tower):
    """The tower of sound: a row for each window."""

    reader_class = "AutoFeatureExtractor"

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """One row for each window of a whole track, with the time that it covers."""
        if not isinstance(item, DecodedAudio):
            raise InputError(f"the backbone {self.spec.name!r} reads sound, not {type(item).__name__}")
        sampling, num_samples = self.spec.sampling, len(item.samples)
        rate, size = sampling["sample_rate_hz"], sampling["window_samples"]
        if item.sample_rate_hz != rate:
            raise InputError(f"the sound has {item.sample_rate_hz} samples a second; {rate} are needed")
        if num_samples == 0:
            return FeatureArray.empty(self.spec, Status.NO_SAMPLES, "the sound track holds no sample")
        starts = [
            start
            for start in range(0, num_samples, size)
            if start == 0 or num_samples - start >= sampling["shortest_seconds"] * rate
        ]
        ends = [min(start + size, num_samples) for start in starts]
        rows = []
        for first in range(0, len(starts), _BATCH_SOUND_WINDOWS):
            batch = slice(first, first + _BATCH_SOUND_WINDOWS)
            windows = [item.samples[start:end] for start, end in zip(starts[batch], ends[batch], strict=True)]
            if not all(np.isfinite(window).all() for window in windows):
                return FeatureArray.empty(self.spec, Status.NON_FINITE, "the sound holds values that are not numbers")
            rows.append(self.stored(self.forward(windows)))
        times = np.stack([starts, ends], axis=1) / rate + item.start_seconds
        left = (num_samples - ends[-1]) / rate
        message = f"the last {left:.2f} s of sound are too short for a row" if left else ""
        found = checked_rows(self.spec, np.concatenate(rows), times)
        return found if found.status is not Status.OK else FeatureArray(found.values, found.times, Status.OK, message)

    def forward(self, windows: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """Windows of samples to rows (B, D), float32. Each window is prepared by itself."""
        import torch

        rate = self.spec.sampling["sample_rate_hz"]
        prepared = [self.reader(window, sampling_rate=rate, return_tensors="pt") for window in windows]
        inputs = {name: torch.cat([one[name] for one in prepared]) for name in prepared[0]}
        with self.computing():
            return self.rows_of(inputs).float()

    def trial(self) -> FeatureArray:
        return self.encode(DecodedAudio(np.full(1000, 0.1, np.float32), self.spec.sampling["sample_rate_hz"]))


def model_facts(folder: ModelFolder | None) -> dict[str, Any]:
    """What a specification says of the model besides its inputs. The digest of its weights is apart from it."""
    if folder is None:
        return {}
    return {"family": dual.model_config(folder).model_type, "revision": folder.revision}


def describe_video(name: str, folder: ModelFolder | None, *, rate_hz: float = 1.0) -> FeatureSpec:
    """`rate_hz` is the number of frames a second, also of windows."""
    windows = still_windows(name, rate_hz)
    if folder is None:
        size: dict[str, Any] = {"short_side": 224, "crop": 224, "scale": 1 / 255, "mean": (0, 0, 0), "std": (1, 1, 1)}
        return visual_spec(name, dim=512, windows=windows, **size, facts={}, paper=_CLIP)
    if dual.kind_for(folder, Modality.VIDEO) == "video":
        num_frames = dual.model_config(folder).vision_config.num_frames
        windows = Windows(
            frame_rate_hz=windows.frame_rate_hz, num_frames=num_frames, stride_frames=num_frames, end="repeat"
        )
    processor = dual.load_part("AutoImageProcessor", folder)
    short_side, crop = decoded_size(folder, processor)
    return visual_spec(
        name,
        dim=dual.width_of(folder),
        windows=windows,
        short_side=short_side,
        crop=crop,
        scale=processor.rescale_factor,
        mean=processor.image_mean if processor.do_normalize else (0, 0, 0),
        std=processor.image_std if processor.do_normalize else (1, 1, 1),
        facts={"resize": "swscale bicubic, then the model's processor", **model_facts(folder)},
        paper=_PAPER,
    )


def decoded_size(folder: ModelFolder, processor: Any) -> tuple[int, int | None]:
    """The short side of the decoder's picture, and its square where the processor would do nothing else than cut it."""
    patches = getattr(processor, "max_num_patches", None)
    if patches is not None:  # of any shape: this many patches of a square picture
        return math.isqrt(patches) * processor.patch_size, None
    size, crop = dict(processor.size or {}), dict(processor.crop_size or {})
    short_side = size.get("shortest_edge") or max(size.get("height") or 0, size.get("width") or 0)
    if not isinstance(short_side, int) or not 1 <= short_side <= 4096:
        raise InputError(
            f"the image processor in {folder.path} scales to {size}, which is not understood: see its files"
        )
    is_cut = (
        processor.do_center_crop and "shortest_edge" in size and crop == {"height": short_side, "width": short_side}
    )
    return short_side, short_side if is_cut else None


def describe_texts(
    name: str, folder: ModelFolder | None, *, prompt: str = "{}", lower_case: bool = False
) -> FeatureSpec:
    """`prompt` is a text around ``{}``, such as an instruction; `lower_case` makes small letters of all."""
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise ConfigError(f"the option prompt of the backbone {name!r} needs {{}} once, for the text: not {prompt!r}")
    if not isinstance(lower_case, bool):
        raise ConfigError(f"the option lower_case of the backbone {name!r} is true or false, not {lower_case!r}")
    dim, max_tokens, padding, paper = 512, 77, "longest", _CLIP
    if folder is not None:
        dim, paper = dual.width_of(folder), _PAPER
        config, tokenizer = dual.model_config(folder), dual.load_part("AutoTokenizer", folder)
        positions, limit = num_positions(config.text_config), int(tokenizer.model_max_length)
        is_padded = config.model_type in _PADDED_FAMILIES
        padding = "max_length" if is_padded else "longest"
        max_tokens = positions if is_padded else min(positions, limit, _TOKENS_OF_FAMILY.get(config.model_type, limit))
    return FeatureSpec(
        name=name,
        modality=Modality.TEXT,
        dim=dim,
        rate_hz=None,
        sampling={
            "tokens": "as the model's tokenizer says",
            "max_tokens": max_tokens,
            "truncation": "end",
            "padding": padding,
            "prompt": prompt,
            "lower_case": lower_case,
        },
        preprocessing={"l2_normalised": False, **model_facts(folder)},
        paper=paper,
    )


def num_positions(text: Any) -> int:
    """The tokens that a text tower has positions for."""
    shift = text.pad_token_id + 1 if text.model_type in _SHIFTED_POSITIONS else 0
    return int(text.max_position_embeddings) - shift


def describe_audio(name: str, folder: ModelFolder | None) -> FeatureSpec:
    """It has no options."""
    dim, rate, size, paper = 512, 48_000, 480_000, _CLAP
    facts: dict[str, Any] = {}
    if folder is not None:
        dim, paper = dual.width_of(folder), _PAPER
        dual.kind_for(folder, Modality.AUDIO)
        extractor = dual.load_part("AutoFeatureExtractor", folder)
        rate, size = int(extractor.sampling_rate), int(extractor.nb_max_samples)
        facts = {"truncation": extractor.truncation, "padding": extractor.padding}
    return FeatureSpec(
        name=name,
        modality=Modality.AUDIO,
        dim=dim,
        rate_hz=rate / size,
        sampling={
            "sample_rate_hz": rate,
            "window_samples": size,
            "shortest_seconds": _SHORTEST_SECONDS,
            "channels": "mean",
        },
        preprocessing={"l2_normalised": False, **facts, **model_facts(folder)},
        paper=paper,
    )


for _name, _describe, _tower in (
    ("transformers_video", describe_video, TransformersVideo),
    ("transformers_text", describe_texts, TransformersText),
    ("transformers_audio", describe_audio, TransformersAudio),
):
    BACKBONES.add(_name, BackboneEntry(partial(_describe, _name), _tower.build, weights="model", takes_folder=True))
