"""Ragged batches without padding: only real tokens are computed, and what several passes share is computed once.

Everything at Once sends every sample through its transformer in six contexts: text, video, audio, and each pair. As
six padded passes, B samples of 20 + 12 + 12 places cost 3 * 44 B tokens. Of these a third to a half is padding, and a
token enters the first block three times with the same value. Packed, a batch is three things:

    Packed      (S_m + 1, D)   of each modality: the S_m real tokens of the whole batch one below the other, and last
                               the masking token, used where a sample has no real one
    Sequences   Q sequences    one for each context and sample, T tokens in all. A sequence holds row numbers and no
                               tokens, so that a token (and the one masking token) is in three sequences and one row
    Pool        P segments     the tokens of one modality in one sequence, whose mean is wanted

and a transformer block goes (`transformer.py: FusionBlock`)

    norm1, queries, keys, values    (S, D) -> (S, 3 D)               once for each row; S is the sum of S_m + 1
    attention                       (Q, N, 3, H, D / H) -> (T, D)    gathered by row number, N the longest sequence
    output layer, norm2, MLP        (T, D)                           each token of each sequence
    means                           (T, D) -> (P, D)                 of the last block, before the MLP's last layer,
                                                                     which is linear: it is P rows then, and not T

Only attention itself sees padding, and it is less than a hundredth of the products. After the first block a token
differs from context to context: rows and tokens are then the same thing (`Sequences.settled`).

Legend: B samples, N_m places of modality m, S rows, T tokens in sequences, Q sequences, N the longest of them,
P segments, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

CLASS_TOKEN = "cls"  # noqa: S105


class Packed(NamedTuple):
    """The tokens of one modality of a batch.

    Attributes:
        values: (S + 1, D), the real tokens sample by sample, then the masking token for samples without any.
        rows: (B, N), which of them is at each place; without meaning where the mask is false.
        mask: (B, N), true where there is a token. Every sample has one.
    """

    values: Float[Tensor, "S D"]
    rows: Int[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]


class Pool(NamedTuple):
    """Which tokens of sequences are averaged.

    Attributes:
        tokens: (T2,), those that count, or None for all T in order.
        segments: (T2,), the segment of each.
        sizes: (P,), how many tokens each segment has.
    """

    tokens: Int[Tensor, " T2"] | None
    segments: Int[Tensor, " T2"]
    sizes: Int[Tensor, " P"]

    def mean(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "P D"]:
        """The mean of each segment. (The paper prints a bare sum; the authors' code divides.)"""
        x = x if x.dtype == torch.float64 else x.float()
        chosen = x if self.tokens is None else x.index_select(0, self.tokens)
        sums = x.new_zeros(len(self.sizes), x.shape[1]).index_add(0, self.segments, chosen)
        return sums / self.sizes[:, None]


@dataclass(frozen=True)
class Sequences:
    """Q sequences over S rows.

    Attributes:
        source: (T,), the row of each token, sequence by sequence.
        grid: (Q, N), the row at each place of each sequence; row 0 behind its end.
        visible: (Q, N), true where a place holds a token that others may look at.
        cells: (T,), the place of each token in the flattened grid.
    """

    source: Int[Tensor, " T"]
    grid: Int[Tensor, "Q N"]
    visible: Bool[Tensor, "Q N"]
    cells: Int[Tensor, " T"]

    @classmethod
    def of(cls, rows: Int[Tensor, "Q M"], real: Bool[Tensor, "Q M"]) -> Sequences:
        """Sequences of the real places of a grid, moved together."""
        lengths = real.sum(dim=1)
        longest = int(lengths.max()) if lengths.numel() else 0
        places = torch.arange(longest, device=rows.device)
        starts = torch.arange(len(rows), device=rows.device)[:, None] * longest
        source, cells = rows[real], (starts + real.cumsum(dim=1) - 1)[real]
        grid = _laid_out(source, cells, (len(rows), longest))
        return cls(source=source, grid=grid, visible=places < lengths[:, None], cells=cells)

    @classmethod
    def padded(cls, mask: Shaped[Tensor, "B N"]) -> Sequences:
        """Those of a padded batch whose rows are its B * N places: padding is hidden, and yet computed."""
        rows = torch.arange(mask.numel(), device=mask.device)
        return cls(source=rows, grid=rows.view(mask.shape), visible=mask.bool(), cells=rows)

    def settled(self) -> Sequences:
        """The same sequences over their own T tokens."""
        rows = torch.arange(len(self.cells), device=self.cells.device)
        grid = _laid_out(rows, self.cells, tuple(self.grid.shape))
        return Sequences(source=rows, grid=grid, visible=self.visible, cells=self.cells)


def _laid_out(rows: Tensor, cells: Tensor, shape: tuple[int, ...]) -> Tensor:
    grid = rows.new_zeros(shape).flatten()
    grid[cells] = rows
    return grid.view(shape)


def real_rows(values: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"]) -> Float[Tensor, "S D"]:
    """The rows where `mask` is nonzero, sample by sample."""
    return values.flatten(0, 1).index_select(0, mask.flatten().nonzero().squeeze(1))


def pack(real: Float[Tensor, "S D"], mask: Shaped[Tensor, "B N"], stand_in: Float[Tensor, " D"]) -> Packed:
    """Pack the tokens made of `real_rows`; a sample without any has the masking token `stand_in` at place 0."""
    mask = mask.bool()
    rows = (mask.flatten().cumsum(dim=0) - 1).view(mask.shape)
    empty = ~mask.any(dim=1)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    stood_in = empty[:, None] & first
    return Packed(torch.cat([real, stand_in[None]]), rows.masked_fill(stood_in, len(real)), mask | stood_in)


def add_positions(tokens: Packed, positions: Float[Tensor, "N2 D"]) -> Packed:
    """Add to every token the position of its place; the masking token gets that of place 0."""
    places = torch.arange(tokens.mask.shape[1], device=tokens.mask.device).expand_as(tokens.mask)
    place_of_row = places.new_zeros(len(tokens.values))
    place_of_row[tokens.rows[tokens.mask]] = places[tokens.mask]
    return tokens._replace(values=tokens.values + positions.index_select(0, place_of_row))


class Joined(NamedTuple):
    """The layout of a batch in several contexts, as a transformer needs it.

    Attributes:
        values: (S, D), the rows of all modalities.
        sequences: one for each context and sample.
        pool: one segment for each of `parts` and sample, in this order.
        parts: (context, modality or class token, number of samples).
    """

    values: Float[Tensor, "S D"]
    sequences: Sequences
    pool: Pool
    parts: list[tuple[str, str, int]]

    def by_part(self, pooled: Float[Tensor, "P D"]) -> dict[str, dict[str, Tensor]]:
        """Segments (b, D) under the modality whose tokens they average, then under their context."""
        found: dict[str, dict[str, Tensor]] = {}
        pieces = torch.split(pooled, [num_samples for _, _, num_samples in self.parts])
        for (context, part, _), piece in zip(self.parts, pieces, strict=True):
            found.setdefault(part, {})[context] = piece
        return found


def join(
    tokens: Mapping[str, Packed],
    contexts: Sequence[str],
    *,
    samples: Mapping[str, Int[Tensor, " b"]] | None = None,
    class_token: Float[Tensor, "1 1 D"] | None = None,
) -> Joined:
    """The sequences of every context, all of them over one set of rows.

    Args:
        tokens: the modalities that occur in `contexts`.
        contexts: names such as "video+audio": which modalities are embedded together.
        samples: the positions of those that are wanted of each context that is not wanted of all.
        class_token: where given, it is the first token of every sequence, and the only one that is pooled.
    """
    with_class = class_token is not None
    if class_token is not None:
        mask = next(iter(tokens.values())).mask
        first = mask.new_ones(len(mask), 1)
        tokens = {CLASS_TOKEN: Packed(class_token[0], torch.zeros_like(first, dtype=torch.long), first), **tokens}
    rows, offset = {}, 0  # the rows of all modalities below each other, and where each modality's places find theirs
    for name, each in tokens.items():
        rows[name] = each.rows + offset
        offset += len(each.values)
    values = torch.cat([each.values for each in tokens.values()])
    places, parts, num_segments = [], list[tuple[str, str, int]](), 0
    for context in contexts:
        members = [CLASS_TOKEN] * with_class + context.split("+")
        pooled = members[:1] if with_class else members
        chosen = (samples or {}).get(context)
        at = _Places.of(
            [rows[name] if chosen is None else rows[name].index_select(0, chosen) for name in members],
            [tokens[name].mask if chosen is None else tokens[name].mask.index_select(0, chosen) for name in members],
            pooled=len(pooled),
            first_segment=num_segments,
        )
        places.append(at)
        parts += [(context, name, len(at.rows)) for name in pooled]
        num_segments += len(pooled) * len(at.rows)
    grid = _Places(*(_under_each_other(each) for each in zip(*places, strict=True)))
    segments = grid.segments[grid.real]
    chosen_tokens = (segments >= 0).nonzero().squeeze(1) if with_class else None
    segments = segments if chosen_tokens is None else segments[chosen_tokens]
    pool = Pool(chosen_tokens, segments, torch.bincount(segments, minlength=num_segments))
    return Joined(values, Sequences.of(grid.rows, grid.real), pool, parts)


class _Places(NamedTuple):
    """The padded places of one context: row, whether there is a token, segment (-1: not pooled). (b, M) each."""

    rows: Int[Tensor, "b M"]
    real: Bool[Tensor, "b M"]
    segments: Int[Tensor, "b M"]

    @classmethod
    def of(cls, rows: list[Tensor], masks: list[Tensor], *, pooled: int, first_segment: int) -> _Places:
        """Join the parts of a context; the first `pooled` of them have a segment for each sample."""
        sample = torch.arange(len(rows[0]), device=rows[0].device)[:, None]
        segments = [
            (
                first_segment + number * len(each) + sample if number < pooled else sample.new_full(sample.shape, -1)
            ).expand_as(each)
            for number, each in enumerate(rows)
        ]
        return cls(torch.cat(rows, dim=1), torch.cat(masks, dim=1), torch.cat(segments, dim=1))


def _under_each_other(grids: Sequence[Tensor]) -> Tensor:
    width = max(grid.shape[1] for grid in grids)
    return torch.cat([functional.pad(grid, (0, width - grid.shape[1])) for grid in grids])
