"""Clover: video, text and the pairs of both aligned in one space, from pixels.

Paper: Huang et al., CVPR 2023 (arXiv 2207.07885); section and equation numbers below are its. Authors' code:
LeeYN-43/Clover@fa05f2e, mmaction/models/recognizers, whose numbers this file gives and whose state-dict names its
attributes keep.

What follows the code where paper and code differ (the rest is in `config.py`, `masking.py`, `heads.py`, `fusion.py`,
`objectives/ranking.py` and `layers/swin.py`):
* M_Vmf and M_Tmf are read off at the text's [CLS] of a pair, each by a head of its own. The released head of M_Vmf does
  not run on its input; the paper's reading does.
* The blank is filled in by the state at [MASK].

Deviations, none of which changes a number: complete and masked inputs go through each encoder as one batch, and their
patches are embedded once; words are scored at masked places alone. Clips of fewer frames are encoded apart: the
authors' encoder would attend to padding.

Draws of masks follow from the seed and from the token ids of the batch: the same batch has the same masks in every
process, in a training that was resumed, and in evaluation, and batches of one epoch are others in the next.

Batches are RGB as those of every model; the authors' are BGR, and `given` turns them. A batch of pre-training may hold
"tags": a `WordTag` for each token, (B, L) int64; one of questions "answer": (B, 1) int64, its mask 0 where the answer
is not among those that can be given.

Legend: B batch, F frames, T times, P patches at a time, C channels of the video encoder, L tokens, D width of a text,
E width of an embedding, N masked words, A answers, O options of a question.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import ConfigError, InputError
from ..base import ModelConfig, Tokens, load_weights, paired
from ..layers import Bert, MaskedWordHead, VideoSwin
from ..miles import block_mask
from ..objectives import (
    MASK_ID,
    exclusive_nce,
    focal_loss,
    gathered,
    mask_tokens,
    norm_softmax_loss,
    ranking_loss,
    tokens_at_random,
    unit,
    zero_of,
)
from ..pixels import PixelModel, nonempty_of
from ..registry import create_model, register_model
from .clips import encoded_clips
from .config import CloverConfig
from .fusion import CrossModalEncoder, Fused
from .heads import ChoiceHead, FusedTextHead, FusedVideoHead, MatchHead, OpenAnswerHead, ProjectionHeads
from .masking import words_by_tags
from .official import initialised_from, official_weights, our_weights, resolved_config

TINY = {
    "image_size": 32,
    "patch_size": 4,
    "num_frames": 6,
    "vocab_size": 128,
    "max_words": 12,
    "swin_width": 12,
    "swin_depths": (2, 2),
    "swin_heads": (2, 2),
    "window": (2, 3, 3),
    "drop_path": 0.0,
    "text_width": 16,
    "text_depth": 2,
    "text_heads": 2,
    "text_hidden": 32,
    "max_positions": 16,
    "dropout": 0.0,
    "fusion_depth": 2,
    "projection_dim": 20,
    "video_hidden": 24,
    "fused_hidden": 24,
    "masked_cells": 3,
    "min_block": 1,
    "answer_dropout": 0.0,
}


class Masks(NamedTuple):
    """What is hidden of a batch.

    Attributes:
        words: (B, L), which tokens are to be guessed.
        ids: (B, L), the text that is read, something else in their places.
        cells: (B, 1, h, w), 1 where a cell of the video's grid is hidden.
    """

    words: Bool[Tensor, "B L"]
    ids: Int[Tensor, "B L"]
    cells: Float[Tensor, "B 1 h w"]


class Aligned(NamedTuple):
    """What pre-training compares.

    Attributes:
        vectors: (B, E) under V_e, T_e, and where they are compared V_m, T_m, M_Vmf, M_Tmf.
        cls: (B, D), the states at [CLS] of the pairs, under the names of the pairs.
        word_scores: (N, V), of the hidden words in the order of reading.
    """

    vectors: dict[str, Tensor]
    cls: dict[str, Tensor]
    word_scores: Float[Tensor, "N V"]


@register_model("clover", summary="Clover (CVPR 2023): tri-modal alignment of video, text and their pairs, from pixels")
@register_model(
    "test_clover", summary="Clover with random weights, for tests", defaults={**TINY, "word_masking": "random"}
)
class Clover(PixelModel):
    """Section 3: Video Swin, BERT, and a few layers of BERT that read both."""

    config_type: ClassVar[type[ModelConfig]] = CloverConfig
    paper: ClassVar[str] = "Huang et al., Clover, CVPR 2023 (arXiv 2207.07885)"
    scores: ClassVar[bool] = True
    extra_inputs: ClassVar[tuple[str, ...]] = ("tags", "answer", "options")
    head_names: ClassVar[tuple[str, ...]] = ("qa_head.",)
    config: CloverConfig
    start_from = initialised_from

    def __init__(self, config: CloverConfig | None = None) -> None:
        super().__init__()
        self.name = "clover"
        self.config = config = config or CloverConfig()
        self.dim = config.projection_dim
        tri_modal = config.task == "pretraining" and config.alignment == "tri_modal"
        self.backbone = VideoSwin(
            patch=(config.patch_frames, config.patch_size, config.patch_size),
            stride=(config.frame_step, config.patch_size, config.patch_size),
            width=config.swin_width,
            depths=config.swin_depths,
            heads=config.swin_heads,
            window=(config.window[0], config.window[1], config.window[2]),
            mlp_ratio=config.swin_mlp_ratio,
            drop_path=config.drop_path,
            mask_token=tri_modal,
            small_grid=config.small_grid,
        )
        spec = config.text_spec()
        bert = Bert(spec)
        cast(nn.Module, bert.pooler).requires_grad_(requires_grad=False)  # in the weights of BERT, and not read
        self.text_backbone = nn.ModuleDict({"bert": bert})
        self.multimodal_backbone = CrossModalEncoder(
            spec.replaced(depth=config.fusion_depth, pooler=False),
            video_dim=self.backbone.dim,
            num_times=config.num_times,
            num_places=config.grid_size**2,
            text_cls=config.text_cls,
        )
        width = config.text_width
        if config.embeds:
            self.ssl_head = ProjectionHeads(self.backbone.dim, width, hidden=config.video_hidden, dim=self.dim)
            self.ssl_head.requires_grad_(requires_grad=config.compares_pairs)
        if config.task == "retrieval":
            self.multimodal_backbone.requires_grad_(requires_grad=False)
        elif config.task == "pretraining":
            predictions = MaskedWordHead(spec)
            del predictions.bias  # the authors' weights have it once, as the decoder's
            self.mlm_head = nn.ModuleDict({"predictions": predictions})
        elif config.task == "multiple_choice":
            self.qa_head: nn.Module = ChoiceHead(width, dropout=config.answer_dropout)
        else:
            self.qa_head = OpenAnswerHead(width, num_answers=config.num_answers, dropout=config.answer_dropout)
        if config.match_head:
            self.itm_head = MatchHead(width).requires_grad_(requires_grad=False)
        if tri_modal:
            self.mlm_ssl_V_head = FusedVideoHead(width, hidden=config.fused_hidden, dim=self.dim)
            self.mlm_ssl_T_head = FusedTextHead(width, dim=self.dim, dropout=config.dropout)

    # --- section 3.1: the two encoders -------------------------------------------------------------------------------

    def given(self, batch: Mapping[str, Tokens | None]) -> dict[str, Tokens]:
        """What a batch holds, checked, its pictures normalised and in the authors' order of colours."""
        given = super().given(batch)
        if "video" in given:
            given["video"] = given["video"]._replace(values=given["video"].values.flip(2))
        return given

    def grids(self, video: Tokens, cells: Float[Tensor, "B 1 h w"] | None = None) -> list[Tokens]:
        """The patches of clips (B, T, P, C) and the times that are real (B, T); with cells, of masked clips too."""
        grids = encoded_clips(self.backbone, video, cells=cells, num_views=self.config.num_views)
        return [Tokens(grid.values.flatten(2, 3), grid.mask) for grid in grids]

    def text_states(self, text: Tokens) -> Float[Tensor, "B L D"]:
        """The last hidden states of the text encoder."""
        return cast(Tensor, self.text_backbone["bert"](text.values, text.mask))

    def project_video(self, grid: Tokens) -> Float[Tensor, "B E"]:
        """V_e: the projected mean over a clip's patches."""
        weights = grid.mask[..., None, None].to(grid.values.dtype)
        num_patches = grid.mask.sum(dim=1).clamp(min=1) * grid.values.shape[2]
        return self.ssl_head.video((grid.values * weights).sum(dim=(1, 2)) / num_patches[:, None])

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """V_e or T_e, not normalised.

        Raises:
            ConfigError: a model of answers without projections.
        """
        if not self.config.embeds:
            raise ConfigError(
                f"Clover for {self.config.task} has no embeddings of its own to search with; use task='retrieval' or "
                "'pretraining', or projections=True"
            )
        if modality == "video":
            return self.project_video(self.grids(tokens)[0])
        return self.ssl_head.text(self.text_states(tokens)[:, 0])

    def fused(self, grid: Tokens, states: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Fused:
        """The multi-modal encoder over clips and encoded texts."""
        return cast(Fused, self.multimodal_backbone(grid.values, states, times=grid.mask, mask=mask))

    # --- section 3.2: pre-training -----------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 6, the contrast of retrieval, or the cross entropy of answers, as the task is.

        Samples that lack the video or the text, or an answer, take no part.
        """
        if not self.config.compares_pairs:
            return self._answer_loss(batch)
        extra = {name: batch.get(name) for name in self.extra_inputs}
        given = self.given({name: tokens for name, tokens in batch.items() if name not in extra})
        if self.config.task == "pretraining" and len(given) == len(self.modalities):
            return self.pretraining_loss(given, self.drawn_masks(given, extra["tags"]))
        vectors = {name: self.embed(name, tokens) for name, tokens in given.items()}
        vectors, nonempty = gathered(vectors, nonempty_of(given))
        total = zero_of(vectors.values())
        if len(vectors) < len(self.modalities) or not (both := torch.stack(list(nonempty.values())).all(dim=0)).any():
            return total, {}
        term = norm_softmax_loss(vectors["video"][both], vectors["text"][both], temperature=self.config.temperature)
        return total + term, {"text|video": term.detach()}

    def drawn_masks(self, given: Mapping[str, Tokens], tags: Tokens | None = None) -> Masks:
        """Masks of a batch's words and videos, see above where they are drawn from.

        Raises:
            InputError: words are masked by their part of speech, and the batch has no tags that fit.
        """
        config, text = self.config, given["text"]
        seed = f"{config.seed}/{zlib.crc32(text.values.cpu().numpy().tobytes())}"
        draws = random.Random(seed)  # noqa: S311 - masks, not secrets
        generator = torch.Generator().manual_seed(draws.getrandbits(63))
        if config.word_masking == "random":
            words = tokens_at_random(text.mask, share=config.mask_share, generator=generator)
        else:
            words = words_by_tags(
                text.mask,
                None if tags is None else tags.values,
                share=config.mask_share,
                phrases=config.mask_phrases,
                adjectives=config.mask_adjectives,
                draws=draws,
            )
        ids = mask_tokens(
            text.values, words, vocabulary=config.vocab_size, replacement=config.mask_replacement, generator=generator
        )
        side = config.grid_size
        blocks = [
            block_mask(draws, grid=(side, side), num_masked=config.masked_cells, min_patches=config.min_block)
            for _ in text.values
        ]
        cells = torch.from_numpy(np.stack(blocks) if blocks else np.zeros((0, side, side), bool))[:, None].float()
        return Masks(words, ids, cells.to(text.values.device))

    def aligned(self, given: Mapping[str, Tokens], masks: Masks) -> Aligned:
        """Both encoders over complete and masked inputs, and the pairs <V_m, T_e> and <V_e, T_m>."""
        text, tri_modal = given["text"], self.config.alignment == "tri_modal"
        twice = torch.cat([text.mask, text.mask])
        complete, hidden = self.text_states(Tokens(torch.cat([text.values, masks.ids]), twice)).chunk(2)
        grids = self.grids(given["video"], masks.cells if tri_modal else None)
        vectors = {"V_e": self.project_video(grids[0]), "T_e": self.ssl_head.text(complete[:, 0])}
        if not tri_modal:
            of_text = self.fused(grids[0], hidden, text.mask).text
            return Aligned(vectors, {"V_e T_m": of_text[:, 0]}, self._scored_words(of_text, masks))
        both = Tokens(torch.cat([grids[1].values, grids[0].values]), torch.cat([grids[1].mask, grids[0].mask]))
        with_video, with_text = self.fused(both, torch.cat([complete, hidden]), twice).text.chunk(2)
        cls = {"V_m T_e": with_video[:, 0], "V_e T_m": with_text[:, 0]}
        vectors |= {
            "V_m": self.project_video(grids[1]),
            "T_m": self.ssl_head.text(hidden[:, 0]),
            "M_Vmf": self.mlm_ssl_V_head(cls["V_m T_e"]),
            "M_Tmf": self.mlm_ssl_T_head(cls["V_e T_m"]),
        }
        return Aligned(vectors, cls, self._scored_words(with_text, masks))

    def _scored_words(self, states: Float[Tensor, "B L D"], masks: Masks) -> Float[Tensor, "N V"]:
        return cast(Tensor, self.mlm_head["predictions"](states[masks.words]))

    def pretraining_loss(self, given: Mapping[str, Tokens], masks: Masks) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 6."""
        text, own = given["text"], torch.stack(list(nonempty_of(given).values())).all(dim=0)
        masks = masks._replace(words=masks.words & own[:, None])
        aligned = self.aligned(given, masks)
        vectors, nonempty = gathered(aligned.vectors, {"both": own})
        total = zero_of([*vectors.values(), aligned.word_scores])
        if not nonempty["both"].any():
            return total, {}
        terms = self.alignment_terms({name: vector[nonempty["both"]] for name, vector in vectors.items()})
        if masks.words.any():
            terms["words"] = self.word_loss(aligned.word_scores, text.values[masks.words], num_samples=int(own.sum()))
        total = total + torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()}

    def alignment_terms(self, vectors: Mapping[str, Float[Tensor, "B E"]]) -> dict[str, Tensor]:
        """Equations 2 to 4: L_V, L_T and both halves of the ranking; or the contrast of video and text alone."""
        config, v, t = self.config, vectors["V_e"], vectors["T_e"]
        tau, reading = config.temperature, config.reading
        if config.alignment == "pair":
            return {"text|video": norm_softmax_loss(v, t, temperature=tau)}
        positives = {
            "video": (v, [t, vectors["T_m"], vectors["M_Vmf"]]),
            "text": (t, [v, vectors["V_m"], vectors["M_Tmf"]]),
        }
        terms = {
            f"align_{side}": exclusive_nce(anchor, others, temperature=tau, reading=reading)
            for side, (anchor, others) in positives.items()
        }
        if config.ranking:
            terms |= {
                f"rank_{side}": ranking_loss(
                    anchor, others[0], others[1], margin=config.margin, temperature=tau, reading=reading
                )
                for side, (anchor, others) in positives.items()
            }
        return terms

    def word_loss(
        self, scores: Float[Tensor, "N V"], words: Int[Tensor, " N"], *, num_samples: int
    ) -> Float[Tensor, ""]:
        """Equation 5, in the reading of the configuration."""
        if self.config.word_loss == "code":
            return focal_loss(scores, words, gamma=self.config.gamma)
        printed = focal_loss(scores, words, gamma=self.config.gamma, factor="probability", reduction="sum")
        return printed / max(num_samples, 1)

    # --- answers, and how well a pair goes together ------------------------------------------------------------------

    def answers(self, *, text: Tokens, video: Tokens) -> Float[Tensor, "B A"]:
        """The scores of all answers to a question, or of its options.

        Args:
            text: the questions, (B, L). Of "fill_blank" with one [MASK]. Of "multiple_choice" the O options of each
                question in turn, (B O, L), each with its question before it.
            video: the clips, (B, F, 3, H, W).

        Raises:
            ConfigError: a model without answers.
            InputError: wrong shapes, a text without [MASK], options that are not the same number for each clip.
        """
        task = self.config.task
        if self.config.compares_pairs:
            raise ConfigError(
                f"Clover for {task} gives no answers; use task open_answer, multiple_choice or fill_blank"
            )
        words, clips = self.given({"text": text})["text"], self.given({"video": video})["video"]
        num_options, rest = divmod(len(words.values), max(len(clips.values), 1))
        if rest or (task != "multiple_choice" and len(words.values) != len(clips.values)):
            raise InputError(f"{len(words.values)} texts for {len(clips.values)} clips: give the same number for each")
        grid = self.grids(clips)[0]
        if num_options != 1:
            grid = Tokens(*(part.repeat_interleave(num_options, dim=0) for part in grid))
        fused = self.fused(grid, self.text_states(words), words.mask)
        if task == "fill_blank":
            blank = (words.values == MASK_ID) & words.mask.bool()
            lacking = words.mask.bool().any(dim=1) & ~blank.any(dim=1)
            if bool(lacking.any()):
                missing = int(lacking.nonzero()[0])
                raise InputError(f"text {missing} of the batch (counted from 0) has no [MASK] to fill in")
            read = fused.text[torch.arange(len(blank), device=blank.device), blank.int().argmax(dim=1)]
        else:
            read = fused.cls
        scores = cast(Tensor, self.qa_head(read))
        return scores.view(len(clips.values), num_options) if task == "multiple_choice" else scores

    def question_scores(self, batch: Mapping[str, Tokens]) -> Float[Tensor, "B A"]:
        """See the base; options are for a model of "multiple_choice"."""
        options, video = batch.get("options"), batch["video"]
        if options is None:
            return self.answers(text=batch["text"], video=video)
        scores = self.answers(text=Tokens(*(part.flatten(0, 1) for part in options)), video=video)
        return scores.masked_fill(~options.mask.bool().any(dim=2), -torch.inf)

    def _answer_loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the right answer, over the samples that have a video, a text and an answer."""
        options, video, answer = (batch.get(name) for name in ("options", "video", "answer"))
        words = options or batch.get("text")
        if answer is None or words is None or video is None:
            raise InputError(
                f'Clover for {self.config.task} is trained on "text" or "options", "video" and "answer"; one is missing'
            )
        scores = self.question_scores({name: one for name, one in batch.items() if one is not None})
        labels, has_words = answer.values[:, 0], words.mask.bool().any(dim=-1).view(len(scores), -1)
        rows = has_words.gather(1, labels.clamp(0, has_words.shape[1] - 1)[:, None])[:, 0]
        rows &= video.mask.bool().any(dim=1) & answer.mask.bool()[:, 0]
        if bool(((labels < 0) | (labels >= scores.shape[1]))[rows].any()):
            raise InputError(f"an answer is not from 0 to {scores.shape[1] - 1}; set its mask to 0 where it is unknown")
        if not rows.any():
            return zero_of([scores.masked_fill(scores.isinf(), 0.0)]), {}
        term = functional.cross_entropy(scores[rows].float(), labels[rows])
        return term, {"answer": term.detach()}

    def states(self, modality: str, tokens: Tokens) -> Tokens:
        """What `score` makes of one side alone, to be given to it in the place of the tokens, as often as wanted.

        Returns:
            Text: (B, L, D). Video: (B, T, P, C).

        Raises:
            InputError: no rows at all, or wrong shapes.
        """
        given = self.given({modality: tokens})[modality]
        return Tokens(self.text_states(given), given.mask) if modality == "text" else self.grids(given)[0]

    def score(self, *, text: Tokens, video: Tokens) -> Float[Tensor, " B"]:
        """How well text i and video i go together, from the multi-modal encoder.

        Clover's pre-training has no head that says whether a pair matches. What it draws together are a video, its text
        and the pair: the score is the mean of the three cosines s(V, T), s(V, M_V) and s(T, M_T) over tau, M_V and M_T
        being the pair's projections on either side, of the complete video and text. A model of "multiple_choice" has a
        head for exactly this, whose logit is the score.

        Args:
            text: of B samples, or one that goes with every video; token ids, or what `states` made of them.
            video: of B samples, or one that goes with every text; pictures, or what `states` made of them.

        Raises:
            ConfigError: a model of another task.
            InputError: wrong shapes, or other numbers of texts and videos.
        """
        self.check_scores()
        states, grid = paired(
            text if text.values.dim() == 3 else self.states("text", text),
            video if video.values.dim() == 4 else self.states("video", video),
        )
        fused = self.fused(grid, states.values, states.mask)
        if self.config.task == "multiple_choice":
            return cast(Tensor, self.qa_head(fused.cls))[:, 0]
        cls = fused.text[:, 0]
        v, t = self.project_video(grid), self.ssl_head.text(states.values[:, 0])
        pairs = [(v, t), (v, self.mlm_ssl_V_head(cls)), (t, self.mlm_ssl_T_head(cls))]
        cosines = torch.stack([(unit(x) * unit(y)).sum(dim=1) for x, y in pairs])
        return cosines.mean(dim=0) / self.config.temperature

    def check_scores(self) -> None:
        """See the base."""
        if self.config.task != "multiple_choice" and not hasattr(self, "mlm_ssl_V_head"):
            raise ConfigError(
                f"Clover for {self.config.task} has no score of a pair; models of task 'pretraining' with "
                "alignment='tri_modal' and of 'multiple_choice' have one"
            )

    # --- the authors' weights ----------------------------------------------------------------------------------------

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Clover:
        """Take weights of the authors' CloverPretrain or CloverFinetune, or our own.

        Args:
            state_dict: the whole checkpoint, or its "state_dict" alone; the prefix "module." is taken off. Indices,
                which follow from shapes, are left aside.
            config: the authors' configuration, or its "model" alone; "BertConfig" in it has the sizes of the BERT where
                it is not bert-base. None: what `to_official` wrote. A new model of that shape is returned; without any
                the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a key of `config` that the authors' code does not have, or that this model cannot have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        weights, options = resolved_config(state_dict, config)
        model = self if options is None else cast(Clover, create_model("clover", **options))
        load_weights(model, our_weights(weights))
        return model

    def to_official(self) -> dict[str, Any]:
        """A checkpoint that the authors' code reads, and `from_official`.

        Returns:
            "state_dict" (under their names, the tensors being the model's own, with the indices that their code keeps
            among the weights) and "meta", whose "frameloom" is this model's configuration.
        """
        return {
            "meta": {"frameloom": self.config.as_dict()},
            "state_dict": official_weights(self.state_dict(), window=self.config.window),
        }
