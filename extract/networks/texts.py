"""A frozen network that reads one text: what CLIP's text tower and the BERT family have in common.

A member gives its specification, its network and its tokenizer, and how the network's output becomes rows; cutting long
texts, precision, devices and the check of the values are here.

Legend: N tokens, special ones included; R rows; D width of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..types import DecodedAudio, DecodedFrames
from ..weights import WEIGHTS_SUFFIXES, digest_of_weights, load_into
from .frozen import Dtype, Precision, check_choice, checked_rows

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
    precision: Precision,
    dtype: Dtype,
    paper: str,
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
        precision: what the network computes in.
        dtype: what the values are stored as.
        paper: where it was published.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """
    check_choice(name, "precision", precision, get_args(Precision))
    check_choice(name, "dtype", dtype, get_args(Dtype))
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
        precision=precision,
        dtype=dtype,
        paper=paper,
    )


class TextNetwork:
    """A text backbone. Members give `rows` and, where the authors' key names differ, `official_names`.

    Attributes:
        spec: what it computes.
        weights_digest: which weights it computes it with.
        network: the torch module.
        tokenizer: transformers' tokenizer, whose vocabulary is the network's.
    """

    ignored_keys: tuple[str, ...] = ()
    """Beginnings of official key names that the network has no use for."""

    def __init__(
        self, spec: FeatureSpec, network: torch.nn.Module, *, tokenizer: Any, device: str, weights_digest: str
    ) -> None:
        import torch

        self.spec = spec
        self.weights_digest = weights_digest
        self.tokenizer = tokenizer
        self._device = torch.device(device)
        if spec.precision == "float16" and self._device.type == "cpu":
            raise ConfigError(f"the backbone {spec.name!r} in float16 needs a GPU: use precision bfloat16 or float32")
        self.network = network.to(self._device).eval().requires_grad_(False)

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        """Take the authors' weights, by their key names.

        Args:
            state_dict: the authors' tensors, by their key names.
            config: the authors' constructor arguments, as models take them. Not read: a backbone's shape follows from
                its options, and every shape is checked.

        Raises:
            InputError: keys, shapes or values do not fit.
        """
        del config
        load_into(self.network, self.official_names(state_dict), ignored_prefixes=self.ignored_keys)
        self.weights_digest = digest_of_weights(state_dict)
        return self

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The authors' key names turned into the network's. By default they are the same."""
        return state_dict

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
        tokens, is_of_text, is_cut = self._tokenized(item)
        if not any(is_of_text):
            return FeatureArray.empty(self.spec, Status.NO_TEXT, "the text holds no token")
        values = self._computed(tokens, is_of_text)
        feature = checked_rows(self.spec, values, np.full((len(values), 2), np.nan))
        if feature.status is not Status.OK or not is_cut:
            return feature
        limit = self.spec.sampling["max_tokens"]
        return FeatureArray(feature.values, feature.times, Status.OK, f"only the first {limit} tokens were read")

    def _tokenized(self, text: str) -> tuple[list[int], list[bool], bool]:
        """Token numbers, which of them are the text's own, and whether something was left out."""
        read = self.tokenizer(
            text.encode("utf-8", "replace").decode(),  # half a surrogate pair is no character
            truncation=True,
            max_length=self.spec.sampling["max_tokens"],
            return_special_tokens_mask=True,
        )
        is_of_text = [not is_special for is_special in read["special_tokens_mask"]]
        return read["input_ids"], is_of_text, bool(read.encodings[0].overflowing)

    def _computed(self, tokens: list[int], is_of_text: list[bool]) -> NDArray[Any]:
        import torch

        precision = getattr(torch, self.spec.precision)
        mixed = torch.autocast(self._device.type, dtype=precision, enabled=precision is not torch.float32)
        with torch.inference_mode(), mixed:
            rows = self.rows(
                torch.tensor(tokens, device=self._device), torch.tensor(is_of_text, device=self._device)
            ).float()
        with np.errstate(over="ignore"):
            values: NDArray[Any] = rows.cpu().numpy().astype(self.spec.dtype)
        return values


def read_tokenizer(kind: Any, folder: Path, *, needs: Collection[tuple[str, ...]], num_embeddings: int) -> Any:
    """The tokenizer whose vocabulary lies in a weights' folder. Nothing is fetched and no code of the folder is run.

    Args:
        kind: transformers' class.
        folder: where the weights are.
        needs: sets of files, each of which is enough.
        num_embeddings: tokens that the network knows.

    Raises:
        ConfigError: not a folder, or the vocabulary is missing.
        InputError: the vocabulary is damaged, or larger than the network's.
    """
    if not any(all((folder / name).is_file() for name in names) for names in needs):
        files = " or ".join(" and ".join(names) for names in needs)
        kinds = ", ".join(WEIGHTS_SUFFIXES)
        raise ConfigError(
            f"no vocabulary in {folder}: the weights of a text backbone are a folder with {files} beside the weights"
            f" ({kinds})"
        )
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = (str(error) or repr(error)).split("\n", 1)[0]
        raise InputError(f"the vocabulary in {folder} is damaged: {reason}; fetch the folder again") from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= num_embeddings:
        raise InputError(f"the vocabulary in {folder} has token {largest}; the network knows {num_embeddings} tokens")
    return tokenizer
