"""A frozen network that reads one text: what CLIP's text tower and the BERT family have in common.

A member gives its specification, its network and its tokenizer, and how the network's output becomes rows; cutting long
texts, precision, devices and the check of the values are here.

Legend: N tokens, special ones included; R rows; D width of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status, WeightsSource
from ..._weights import SUFFIXES
from ..options import check_choice
from ..types import DecodedAudio, DecodedFrames
from ..weights import read_state_dict, weights_file
from .frozen import FrozenNetwork, checked_rows, seeded_network

if TYPE_CHECKING:
    import torch


def text_spec(
    name: str,
    *,
    dim: int,
    max_tokens: int,
    tokens: str,
    seeded_tokens: str,
    pooling: str,
    poolings: Collection[str],
    network: Mapping[str, Any],
    paper: str,
    weights: Collection[WeightsSource] = (),
) -> FeatureSpec:
    """The specification of a backbone over texts.

    Args:
        name: its registered name.
        dim: D.
        max_tokens: tokens that the network reads of a text, special ones included; the rest is left out.
        tokens: what cuts a text, with the vocabulary in the weights' folder.
        seeded_tokens: what cuts a text where there are no weights.
        pooling: how tokens become rows.
        poolings: which ways there are.
        network: what decides the network's numbers, as plain data.
        paper: where it was published.
        weights: published weights that can be had by tag.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """
    check_choice(name, "pooling", pooling, tuple(poolings))
    return FeatureSpec(
        name=name,
        modality=Modality.TEXT,
        dim=dim,
        rate_hz=None,
        sampling={
            "tokens": tokens,
            "tokens_without_weights": seeded_tokens,
            "max_tokens": max_tokens,
            "truncation": "end",
            "pooling": pooling,
        },
        preprocessing={"l2_normalised": False, **network},
        paper=paper,
        weights=tuple(weights),
    )


class TextNetwork(FrozenNetwork):
    """A text backbone. Members also give `read_tokenizer` and `rows`.

    Attributes:
        tokenizer: transformers' tokenizer or `tokenizers`' own, whose vocabulary is the network's.
    """

    def __init__(
        self, spec: FeatureSpec, network: torch.nn.Module, *, tokenizer: Any, device: str, weights_digest: str
    ) -> None:
        super().__init__(spec, network, device=device, weights_digest=weights_digest)
        self.tokenizer = tokenizer
        self._pieces = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._pieces.no_padding()
        self._pieces.enable_truncation(spec.sampling["max_tokens"])

    @classmethod
    def build(cls, spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Self:
        if weights is not None:
            cls.check_weights(spec, weights)
        tokenizer = cls.read_tokenizer(spec, weights)
        if weights is None:
            network = seeded_network(lambda: cls.random_network(spec, tokenizer), seed=seed)
        else:
            network = cls.empty_network(spec, tokenizer)
        backbone = cls(spec, network, tokenizer=tokenizer, device=device, weights_digest=weights_digest)
        return backbone if weights is None else backbone.load_official(read_state_dict(weights_file(weights)))

    @classmethod
    def read_tokenizer(cls, spec: FeatureSpec, weights: Path | None) -> Any:
        """The tokenizer of a folder of weights, or one that needs no vocabulary."""
        raise NotImplementedError

    @classmethod
    def random_network(cls, spec: FeatureSpec, tokenizer: Any = None) -> Any:
        """The network of a specification and a tokenizer, with new random weights."""
        raise NotImplementedError

    @classmethod
    def empty_network(cls, spec: FeatureSpec, tokenizer: Any = None) -> Any:
        """The network of a specification, whose values do not matter: weights are loaded into it."""
        return cls.random_network(spec, tokenizer)

    def rows(self, tokens: torch.Tensor, is_of_text: torch.Tensor) -> torch.Tensor:
        """Token numbers (N,) to rows (R, D).

        Args:
            tokens: as the network reads them.
            is_of_text: (N,), False at special tokens.
        """
        raise NotImplementedError

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The rows of one text. Its times are NaN, for a text has none."""
        if not isinstance(item, str):
            raise InputError(f"the backbone {self.spec.name!r} reads text, not {type(item).__name__}")
        import torch

        read = self._pieces.encode(item.encode("utf-8", "replace").decode())  # half a surrogate pair cannot be encoded
        is_of_text = [not is_special for is_special in read.special_tokens_mask]
        if not any(is_of_text):
            return FeatureArray.empty(self.spec, Status.NO_TEXT, "the text holds no token")
        with self.computing():
            tokens = torch.tensor(read.ids, device=self._device)
            rows = self.rows(tokens, torch.tensor(is_of_text, device=self._device)).float()
        feature = checked_rows(self.spec, self.stored(rows), np.full((len(rows), 2), np.nan))
        if feature.status is not Status.OK or not read.overflowing:
            return feature
        limit = self.spec.sampling["max_tokens"]
        return FeatureArray(feature.values, feature.times, Status.OK, f"only the first {limit} tokens were read")


def read_tokenizer(kind: Any, folder: Path, *, needs: Collection[tuple[str, ...]], num_embeddings: int) -> Any:
    """The tokenizer whose vocabulary lies in a weights' folder. Nothing is fetched and no code of the folder is run.

    Args:
        kind: transformers' class; None for tokenizer.json as it is written, without importing transformers.
        folder: where the weights are.
        needs: sets of files, each of which is enough.
        num_embeddings: tokens that the network knows.

    Raises:
        ConfigError: not a folder, or the vocabulary is missing.
        InputError: the vocabulary is damaged, or larger than the network's.
    """
    if not any(all((folder / name).is_file() for name in names) for names in needs):
        files = " or ".join(" and ".join(names) for names in needs)
        raise ConfigError(
            f"no vocabulary in {folder}: the weights of a text backbone are a folder with {files} and the weights"
            f" ({', '.join(SUFFIXES)})"
        )
    try:
        if kind is None:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = (str(error) or repr(error)).split("\n", 1)[0]
        raise InputError(f"the vocabulary in {folder} is damaged: {reason}; fetch the folder again") from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= num_embeddings:
        raise InputError(f"the vocabulary in {folder} has token {largest}; the network knows {num_embeddings} tokens")
    return tokenizer
