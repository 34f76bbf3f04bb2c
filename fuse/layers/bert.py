"""BERT: embeddings, post-norm layers with or without cross-attention, and the head that predicts masked words.

Paper: Devlin et al., NAACL 2019 (arXiv 1810.04805). With cross-attention: VindLU (arXiv 2212.05051), authors' code
klauscc/VindLU@3046548, file xbert. Attributes keep the names of HuggingFace's state dicts, so that published weights
load without a table of names. Their integer buffers (`position_ids`) are no weights here: `without_counters` takes them
out of a state dict.

The stack serves BERT, DistilBERT (no types; its names are mapped by the model that uses it), the first layers of BERT
over vectors of another kind (Clover), and its embeddings and head alone (All-in-one).

Legend: B batch, L tokens of a text, K keys, D width, H heads, V words of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ..._settings import Settings
from ..._vocabulary import ConfigError
from .attention import attention
from .products import Linear

PADDING_ID = 0
"""The id of [PAD]: looking it up teaches its vector nothing."""
_COUNTERS = re.compile(r"(^|\.)(position_ids|relative_position_index)$")


class BertSpec(Settings):
    """The shape of a BERT; the defaults are bert-base-uncased."""

    vocabulary: PositiveInt = 30522
    """Words V."""
    width: PositiveInt = 768
    """Width D of a token."""
    depth: NonNegativeInt = 12
    """Layers."""
    heads: PositiveInt = 12
    """Attention heads."""
    hidden: PositiveInt = 3072
    """Hidden width of the MLP."""
    max_positions: PositiveInt = 512
    """Tokens that a text has at most."""
    num_types: NonNegativeInt = 2
    """Kinds of segments; 0 leaves out their embedding (DistilBERT)."""
    eps: PositiveFloat = 1e-12
    """Of the layer normalisations."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of embeddings and of what an attention and an MLP give."""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of attention weights."""
    first_cross: NonNegativeInt | None = None
    """The first layer, from 0, with cross-attention (it and all after it have one); None: no layer has."""
    context_width: PositiveInt | None = None
    """Width of the rows that cross-attention looks at; None: D."""
    order: Literal["self_cross", "cross_self"] = "self_cross"
    """Which attention comes first in a layer that has both."""
    norm: Literal["post", "pre"] = "post"
    """Where attentions and MLPs normalise: behind the residual, as BERT does, or their input."""
    pooler: bool = False
    """Whether there is the layer that HuggingFace puts behind [CLS]; `Bert.forward` does not apply it."""

    @model_validator(mode="after")
    def _check_heads(self) -> BertSpec:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads; use a multiple of heads")
        return self


class KeysValues(NamedTuple):
    """What an attention looks at, projected: made once where several queries look at the same rows.

    Attributes:
        keys: (B, H, K, D/H).
        values: (B, H, K, D/H).
    """

    keys: Float[Tensor, "B H K d"]
    values: Float[Tensor, "B H K d"]

    def rows(self, samples: Int[Tensor, " C"]) -> KeysValues:
        """Those of some samples of the batch, in this order; one may come several times."""
        return KeysValues(self.keys.index_select(0, samples), self.values.index_select(0, samples))


def visible_keys(mask: Shaped[Tensor, "B K"]) -> Bool[Tensor, "B 1 1 K"]:
    """What each query of a sample may attend to: the real keys, and the first one where none is real.

    Attention over no key at all would be 0/0. The authors add -10000 to the scores of padding, which in float32 is the
    same as leaving it out as long as one key is real.
    """
    visible = mask.bool().clone()
    visible[:, :1] |= ~visible.any(dim=1, keepdim=True)
    return visible[:, None, None, :]


def visible_before(mask: Shaped[Tensor, "B L"]) -> Bool[Tensor, "B 1 L L"]:
    """`visible_keys` of a decoder: the real keys up to and including the query's own place."""
    length = mask.shape[1]
    return visible_keys(mask) & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()


class _Projections(nn.Module):
    """Queries, keys and values."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.query = Linear(width, width)
        self.key = Linear(context_width, width)
        self.value = Linear(context_width, width)


class BertOutput(nn.Module):
    """LayerNorm(dropout(dense(y)) + x): how attentions and MLPs of BERT end.

    Of a spec that normalises inputs, `before` does, and the end is dropout(dense(y)) + x.
    """

    def __init__(self, width_in: int, spec: BertSpec) -> None:
        super().__init__()
        self.dense = Linear(width_in, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)
        self.is_pre = spec.norm == "pre"

    def before(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """What the attention or MLP reads."""
        y: Tensor = self.LayerNorm(x) if self.is_pre else x
        return y

    def forward(self, y: Float[Tensor, "*B E"], x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        added = self.dropout(self.dense(y)) + x
        normed: Tensor = added if self.is_pre else self.LayerNorm(added)
        return normed


class BertAttention(nn.Module):
    """Attention of a text to itself or to other rows: LayerNorm(dense(softmax(q k^T / sqrt(D/H)) v) + x)."""

    def __init__(self, spec: BertSpec, *, context_width: int | None = None) -> None:
        super().__init__()
        self.heads, self.attention_dropout = spec.heads, spec.attention_dropout
        self.self = _Projections(spec.width, context_width or spec.width)
        self.output = BertOutput(spec.width, spec)

    def keys_values(self, context: Float[Tensor, "B K C"]) -> KeysValues:
        """Project the rows that are looked at."""
        return KeysValues(self.by_head(self.self.key(context)), self.by_head(self.self.value(context)))

    def weights(
        self,
        x: Float[Tensor, "B L D"],
        context: Float[Tensor, "B K C"] | KeysValues | None = None,
        *,
        visible: Bool[Tensor, "B 1 _ K"] | None = None,
    ) -> Float[Tensor, "B H L K"]:
        """The attention weights alone: what each query looks at."""
        queries, (keys, _) = self._projected(x, context)
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        seen: Tensor = scores if visible is None else scores.masked_fill(~visible, -torch.inf)
        return seen.softmax(dim=-1)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        context: Float[Tensor, "B K C"] | KeysValues | None = None,
        *,
        visible: Bool[Tensor, "B 1 _ K"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Attend from `x` to `context`, or to itself.

        Args:
            x: the queries.
            context: the rows looked at, or what `keys_values` made of them; None: `x`.
            visible: see `visible_keys`; None: every key is.
        """
        queries, (keys, values) = self._projected(x, context)
        dropout = self.attention_dropout if self.training else 0.0
        attended = attention(queries, keys, values, mask=visible, dropout=dropout)
        out: Tensor = self.output(attended.transpose(1, 2).flatten(2), x)
        return out

    def _projected(self, x: Tensor, context: Tensor | KeysValues | None) -> tuple[Tensor, KeysValues]:
        x = self.output.before(x)
        looked_at = context if isinstance(context, KeysValues) else self.keys_values(x if context is None else context)
        return self.by_head(self.self.query(x)), looked_at

    def by_head(self, rows: Float[Tensor, "B K D"]) -> Float[Tensor, "B H K d"]:
        """Projected rows, shared out among the heads."""
        return rows.view(*rows.shape[:-1], self.heads, rows.shape[-1] // self.heads).transpose(1, 2)


class BertIntermediate(nn.Module):
    """The first half of the MLP: exact (erf) GELU of a linear layer."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.dense = Linear(spec.width, spec.hidden)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return functional.gelu(self.dense(x))


class BertLayer(nn.Module):
    """Self-attention, cross-attention where it has one (in the order of the spec), MLP; each normalised at its end."""

    def __init__(self, spec: BertSpec, *, cross: bool = False) -> None:
        super().__init__()
        self.cross_first = spec.order == "cross_self"
        self.attention = BertAttention(spec)
        self.crossattention = BertAttention(spec, context_width=spec.context_width) if cross else None
        self.intermediate = BertIntermediate(spec)
        self.output = BertOutput(spec.hidden, spec)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        *,
        visible: Bool[Tensor, "B 1 _ L"] | None = None,
        context: Float[Tensor, "B K C"] | KeysValues | None = None,
        context_visible: Bool[Tensor, "B 1 _ K"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """One layer.

        Args:
            x: the text.
            visible: which of its tokens are attended to.
            context: what cross-attention looks at; without it (or without cross-attention) the layer leaves it out.
            context_visible: which rows of it are.
        """
        across = None if context is None else self.crossattention
        if across is not None and self.cross_first:
            x = across(x, context, visible=context_visible)
        x = self.attention(x, visible=visible)
        if across is not None and not self.cross_first:
            x = across(x, context, visible=context_visible)
        return self.after_attention(x)

    def after_attention(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The MLP."""
        y: Tensor = self.output(self.intermediate(self.output.before(x)), x)
        return y


class BertEmbeddings(nn.Module):
    """LayerNorm(word + position + type), where the BERT has types."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(spec.vocabulary, spec.width, padding_idx=PADDING_ID)
        self.position_embeddings = nn.Embedding(spec.max_positions, spec.width)
        if spec.num_types:
            self.token_type_embeddings = nn.Embedding(spec.num_types, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)
        self.has_types = bool(spec.num_types)

    def forward(self, ids: Int[Tensor, "B L"], *, types: Int[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """Embed ids; `types` None is type 0 everywhere."""
        x = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]
        if self.has_types:
            x = x + (self.token_type_embeddings.weight[0] if types is None else self.token_type_embeddings(types))
        normed: Tensor = self.dropout(self.LayerNorm(x))
        return normed


class BertEncoder(nn.Module):
    """Layers one after the other."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        first_cross = spec.depth if spec.first_cross is None else spec.first_cross
        self.layer = nn.ModuleList(BertLayer(spec, cross=index >= first_cross) for index in range(spec.depth))

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        *,
        visible: Bool[Tensor, "B 1 _ L"] | None = None,
        context: Float[Tensor, "B K C"] | None = None,
        context_visible: Bool[Tensor, "B 1 _ K"] | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Layers `first` up to but without `last` (None: to the end). See `BertLayer.forward`."""
        for layer in self.layer[first:last]:
            x = layer(x, visible=visible, context=context, context_visible=context_visible)
        return x


class _Pooler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        """Tanh of a linear layer of the first token."""
        return torch.tanh(self.dense(x[:, 0]))


class Bert(nn.Module):
    """Embeddings and layers: HuggingFace's BertModel."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = BertEmbeddings(spec)
        self.encoder = BertEncoder(spec)
        self.pooler = _Pooler(spec.width) if spec.pooler else None
        self.apply(initialise_as_bert)

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        mask: Shaped[Tensor, "B L"],
        *,
        context: Float[Tensor, "B K C"] | None = None,
        last: int | None = None,
    ) -> Float[Tensor, "B L D"]:
        """The last hidden states of a text, or those after layer `last` - 1; see `BertEncoder.forward`."""
        hidden: Tensor = self.encoder(self.embeddings(ids), visible=visible_keys(mask), context=context, last=last)
        return hidden


class _Transform(nn.Module):
    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.dense = Linear(spec.width, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.eps)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        normed: Tensor = self.LayerNorm(functional.gelu(self.dense(x)))
        return normed


class MaskedWordHead(nn.Module):
    """The scores of all words at a place: dense, GELU, LayerNorm, decoder, bias. HuggingFace calls it "predictions".

    Args:
        spec: of the BERT.
        tied_to: word embeddings whose weights the decoder shares; None: weights of its own.
        bias_of_decoder: whether the bias is in the state dict a second time, as HuggingFace's "decoder.bias".
    """

    def __init__(self, spec: BertSpec, *, tied_to: nn.Embedding | None = None, bias_of_decoder: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary))
        self.transform = _Transform(spec)
        self.decoder = Linear(spec.width, spec.vocabulary, bias=bias_of_decoder)
        self.apply(initialise_as_bert)
        if bias_of_decoder:
            self.decoder.bias = self.bias
        if tied_to is not None:
            self.decoder.weight = tied_to.weight

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        scores: Tensor = self.decoder(self.transform(x))
        return scores if self.decoder.bias is not None else scores + self.bias


def initialise_as_bert(module: nn.Module) -> None:
    """Weights from N(0, 0.02), biases and the vector of [PAD] 0: what `nn.Module.apply` takes."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx] = 0.0


def without_counters(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A HuggingFace state dict without its integer buffers, which follow from shapes alone."""
    return {key: value for key, value in state_dict.items() if not _COUNTERS.search(str(key))}
