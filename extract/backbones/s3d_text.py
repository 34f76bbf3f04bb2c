"""The text tower of MIL-NCE's S3D: one vector for a caption, in the space of the video tower's ``joint`` output.

Miech et al., "End-to-End Learning of Visual Representations from Uncurated Instructional Videos" (CVPR 2020).
Followed: antoine77340/S3D_HowTo100M at b8cd0bb (s3dg.py). Words are runs of word characters and apostrophes of the
lower-cased text; unknown ones are dropped *before* the rest is cut to 16. A word's number is its position in the
vocabulary, counted from 1; 0 fills up, has a vector like any word, and takes part in the maximum over the 16 places.
The embedding is compared with the video's by dot product, without normalisation. MIL-NCE_HowTo100M, which trains the
model, keeps the case and more words: options `lower_case` and `max_words`.

Weights: the checkpoint of the video tower, which holds both. The vocabulary is a file of its own, published with it
as ``s3d_dict.npy``: an array of strings, since the official code reads it with a call that has refused pickled objects
since NumPy 1.16.3. A text file with a word on each line will do as well; its words count in the fingerprint, its name
does not. Without weights and without a vocabulary a word's number comes from its CRC-32: enough to try out a project.
Weights need the vocabulary that they were trained with.

Deviations, each on purpose:
- A text without a known word is the status ``no_text``, where the official code gives it the embedding of 16 fillers.
- A vocabulary may have fewer words than the table has rows; one with more is refused, where the official code would
  fail at the first such word.

Legend: B texts, N places for words, V words, D width of the feature.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status, digest_of
from ..networks import FrozenNetwork, checked_rows, seeded_network, tokenize
from ..options import checked_whole
from ..registry import register
from ..types import Backbone, DecodedAudio, DecodedFrames
from ..weights import read_state_dict
from .s3d import HOWTO100M_WEIGHTS

if TYPE_CHECKING:
    import torch

_PREFIX = "text_module."
_HASHED = "CRC-32 of the word"
_PAPER = "Miech et al., End-to-End Learning of Visual Representations (MIL-NCE), CVPR 2020"
WordNumber = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Rows and width of the table of word vectors, and the width between the linear layers."""

    num_rows: int
    word_dim: int
    hidden_dim: int
    dim: int


_VARIANTS = {
    "s3d_howto100m_text": _Sizes(66_250, 300, 2048, 512),
    "test_s3d_text": _Sizes(500, 12, 32, 64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceSpec(FeatureSpec):
    """A specification that knows where its vocabulary lies. Only the words count: a renamed file changes nothing.

    Attributes:
        vocabulary_path: the file; None where words are hashed.
    """

    vocabulary_path: Path | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the numbers."""
        fields = FeatureSpec.identity(self)
        del fields["vocabulary_path"]
        return fields


def read_vocabulary(path: Path) -> list[str]:
    """The words of a ``.npy`` file that holds an array of strings, or of a text file with a word on each line.

    Raises:
        ConfigError: there is no such file.
        InputError: the file is damaged, empty, not UTF-8, or holds Python objects, which can run code when read.
    """
    if not path.is_file():
        raise ConfigError(f"the vocabulary {path} does not exist; give a .npy file of strings or a text file of words")
    words = _read_npy(path) if path.suffix == ".npy" else _read_lines(path)
    if not words:
        raise InputError(f"the vocabulary {path} holds no word")
    return words


def _read_npy(path: Path) -> list[str]:
    try:
        # Mapped, because then a header that promises more than the file holds is refused and not believed.
        array = np.lib.format.open_memmap(path, mode="r")
        words: list[str] | None = array.tolist() if array.dtype.kind == "U" and array.ndim == 1 else None
        "".join(words or ()).encode()  # half a surrogate pair cannot be encoded
    except (ValueError, TypeError, OSError, OverflowError, SyntaxError, TokenError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the vocabulary {path} is damaged, or holds Python objects, which can run code when they are read"
            f" ({reason}); where it came from, write it with numpy.save(path, words.astype(str))"
        ) from error
    if words is None:
        raise InputError(
            f"the vocabulary {path} must be a list of strings, not an array of {array.ndim} x {array.dtype}"
        )
    return words


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the vocabulary {path} is not UTF-8: {error}; write one word on each line") from error
    return [line.strip() for line in text.rstrip("\n").split("\n")] if text.strip() else []


class S3DText(FrozenNetwork):
    """The text tower as a backbone: a text to one row (1, D); its times are NaN.

    Official weights have its keys behind ``text_module.``; where no key is so, all are its own.
    """

    def __init__(
        self, spec: FeatureSpec, network: Any, *, vocabulary: Sequence[str] | None, device: str, weights_digest: str
    ) -> None:
        self._vocabulary = vocabulary
        super().__init__(spec, network, device=device, weights_digest=weights_digest)

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        return super().from_official(self.official_names(state_dict), config)  # the digest is of the tower alone

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        given = {key.removeprefix("module."): value for key, value in state_dict.items()}
        ours = {key.removeprefix(_PREFIX): value for key, value in given.items() if key.startswith(_PREFIX)}
        return ours or given

    def fitted(self, weights: Mapping[str, Any]) -> Any:
        from ..networks.s3d import SentenceTower

        sizes = sizes_of(weights)
        if sizes is None or sizes == sizes_of(self.network.state_dict()):
            return self.network
        if sizes.dim != self.spec.dim:
            raise InputError(
                f"the embedding of these weights is {sizes.dim} wide, not {self.spec.dim}; "
                f"give the backbone {self.spec.name!r} the option dim: {sizes.dim}"
            )
        numbering(self._vocabulary, sizes.num_rows)
        return seeded_network(lambda: SentenceTower(**asdict(sizes)), seed=0)

    def after_load(self) -> None:
        super().after_load()
        self._number = numbering(self._vocabulary, self.network.word_embd.num_embeddings)

    def token_ids(self, texts: Sequence[str]) -> torch.Tensor:
        """The numbers of the texts' known words (B, N), 0 where there are no more."""
        import torch

        num_places = int(self.spec.sampling["max_words"])
        ids = torch.zeros(len(texts), num_places, dtype=torch.int64)
        for row, text in enumerate(texts):
            known = self._known(text)[:num_places]
            ids[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
        return ids

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Word numbers (B, N) to embeddings (B, D), float32."""
        with self.computing():
            embeddings: torch.Tensor = self.network(ids.to(self._device))
        return embeddings

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """One row for a text that has a known word."""
        if not isinstance(item, str):
            raise InputError(f"the backbone {self.spec.name!r} reads text, not {type(item).__name__}")
        if not self._known(item):
            words = self._words(item)
            unknown = f"{', '.join(words[:5])}{', ...' if len(words) > 5 else ''}"
            message = f"none of the words is in the vocabulary: {unknown}" if words else "the text holds no word"
            return FeatureArray.empty(self.spec, Status.NO_TEXT, message)
        rows = self.stored(self.forward(self.token_ids([item])))
        return checked_rows(self.spec, rows, np.full((1, 2), np.nan))

    def _known(self, text: str) -> list[int]:
        numbers = map(self._number, self._words(text))
        return [number for number in numbers if number is not None]

    def _words(self, text: str) -> list[str]:
        return tokenize(text.lower() if self.spec.sampling["case"] == "lower" else text)


def numbering(vocabulary: Sequence[str] | None, num_rows: int) -> WordNumber:
    """Words to their numbers, from 1 to the number of rows less one."""
    if vocabulary is None:
        return lambda word: 1 + zlib.crc32(word.encode()) % (num_rows - 1)
    if len(vocabulary) >= num_rows:
        raise InputError(
            f"the vocabulary has {len(vocabulary)} words, and the table of word vectors has room for {num_rows - 1};"
            " give the vocabulary that these weights were trained with"
        )
    return {word: position + 1 for position, word in enumerate(vocabulary)}.get


def sizes_of(weights: Mapping[str, Any]) -> _Sizes | None:
    """The sizes of a tower by its weights; None where they are not a tower's, which loading them will say."""
    table, last = weights.get("word_embd.weight"), weights.get("fc2.weight")
    if table is None or last is None or table.ndim != 2 or last.ndim != 2:
        return None
    return _Sizes(num_rows=len(table), word_dim=table.shape[1], hidden_dim=last.shape[1], dim=len(last))


def describe(
    name: str,
    sizes: _Sizes,
    *,
    vocabulary: str | Path = "",
    max_words: int = 16,
    lower_case: bool = True,
    dim: int | None = None,
) -> FeatureSpec:
    """The options of the text tower. Its values are float32, if the option dtype does not say otherwise."""
    if not isinstance(lower_case, bool):
        raise ConfigError(f"the option lower_case of the backbone {name!r} must be true or false, not {lower_case!r}")
    if not isinstance(vocabulary, str | Path):
        raise ConfigError(f"the option vocabulary of the backbone {name!r} must be a path, not {vocabulary!r}")
    path = Path(vocabulary) if str(vocabulary) else None
    return SentenceSpec(
        name=name,
        modality=Modality.TEXT,
        dim=checked_whole(name, "dim", sizes.dim if dim is None else dim, lowest=1, highest=65_536),
        rate_hz=None,
        sampling={
            "tokens": r"[\w']+",
            "case": "lower" if lower_case else "kept",
            "unknown": "dropped",
            "max_words": checked_whole(name, "max_words", max_words, lowest=1, highest=10_000),
            "vocabulary": _HASHED if path is None else digest_of(read_vocabulary(path)),
        },
        preprocessing={"pooling": "maximum over all places", "l2_normalised": False},
        dtype="float32",
        paper=_PAPER,
        weights=(HOWTO100M_WEIGHTS,) if name == "s3d_howto100m_text" else (),
        vocabulary_path=path,
    )


def build(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    """The tower of a specification, with the words of its vocabulary."""
    from ..networks.s3d import SentenceTower

    vocabulary = None
    if isinstance(spec, SentenceSpec) and spec.vocabulary_path is not None:
        vocabulary = read_vocabulary(spec.vocabulary_path)
        if digest_of(vocabulary) != spec.sampling["vocabulary"]:
            raise InputError(f"the vocabulary {spec.vocabulary_path} changed while it was used; start again")
    if weights is not None and vocabulary is None:
        raise ConfigError(
            f"the weights of the backbone {spec.name!r} need the vocabulary that they were trained with;"
            " give the option vocabulary: FILE (published with them as s3d_dict.npy)"
        )
    sizes = replace(_VARIANTS[spec.name], dim=spec.dim)
    if weights is not None and vocabulary is not None:  # their own table takes this one's place, and may be larger
        sizes = replace(sizes, num_rows=max(sizes.num_rows, len(vocabulary) + 1))
    network = seeded_network(lambda: SentenceTower(**asdict(sizes)), seed=seed)
    backbone = S3DText(spec, network, vocabulary=vocabulary, device=device, weights_digest=weights_digest)
    return backbone if weights is None else backbone.load_official(read_state_dict(weights))


register(_VARIANTS, describe, build, path_options=("vocabulary",), number_types=("dtype",))
