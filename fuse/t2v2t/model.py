"""T2V2T: text-to-video-to-text fusion for retrieval, and VindLU, on which it is built.

Papers: Kim et al., "T2V2T: Text-to-Video-to-Text Fusion for Text-to-Video Retrieval", whose equations are named below;
Cheng et al., "VindLU: A Recipe for Effective Video-and-Language Pretraining", CVPR 2023 (arXiv 2212.05051). Authors'
code of VindLU: klauscc/VindLU@3046548 (models/vindlu.py, models/criterions.py); T2V2T published none. Its video encoder
is in `fuse/layers/beit.py`, the joint encoder in `fusion.py`, the losses in `fuse/objectives/matching.py`.

Frames go through BEiT with attention over time and are normalised; a text goes through the first nine layers of BERT;
the last three, with cross-attention, are the rounds of the joint encoder, whose [CLS] says whether both belong
together.

What follows the code of VindLU where its paper, or T2V2T's, says less or something else:
* Similarity is the mean over frames of cosines, not the cosine with the mean. `embeddings` gives vectors whose products
  are that; `encode` gives unit vectors, as a vector database needs them, whose order of videos can differ a little.
* The score is the logit of "match" alone, not added to a similarity.
* [SEP] can be masked. The text encoder runs on the masked text as well; its other run sees the text itself.
* Negatives of matching come from the process's own samples; contrast is with those of all processes.

What the paper of T2V2T leaves open are fields of `T2V2TConfig`; their defaults are the reading of the golden cases.
Deviations: samples without a text or a video take no part in a loss; padded frames are seen by nobody; a batch in which
a sample has no negative leaves out that pair (the authors' code fails). In evaluation mode `loss` draws as for step 0.

Legend: B batch, T frames, P tokens of a frame, L tokens of a text, D width, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..._vocabulary import ConfigError, InputError
from ..base import ModelConfig, Tokens
from ..layers import Bert, Linear, MaskedWordHead, VideoBeit, initialise_as_bert
from ..objectives import (
    contrast_with_targets,
    drawn_negatives,
    first_sample,
    focal_loss,
    frame_mean,
    gathered,
    mask_tokens,
    matching_loss,
    negative_weights_by_similarity,
    shared_targets,
    unit,
    zero_of,
)
from ..pixels import PixelModel, nonempty_of
from ..registry import create_model, register_model
from .config import T2V2TConfig
from .fusion import FusionLayer, fuse
from .official import (
    initialised_from,
    loaded_weights,
    official_config,
    official_weights,
    to_official_config,
    unpacked_checkpoint,
)

TEMPERATURES = (0.001, 0.5)
"""Between which the learned temperature stays."""
CLS_ID = 101
"""[CLS] of BERT's vocabularies, which is never masked."""
IGNORED = -100
"""The answer where no word is hidden."""
VINDLU = {
    "fusion": "unidirectional",
    "fusion_order": "self_cross",
    "temporal": "last",
    "frame_class_tokens": True,
}
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 6,
    "vocab_size": 120,
    "max_words": 12,
    "video_width": 16,
    "video_depth": 2,
    "video_heads": 2,
    "video_hidden": 24,
    "temporal_heads": 2,
    "drop_path": 0.0,
    "temporal_drop_path": 0.0,
    "text_width": 16,
    "text_depth": 3,
    "first_fusion": 1,
    "text_heads": 2,
    "text_hidden": 24,
    "text_positions": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "projection_dim": 20,
}


class Negatives(NamedTuple):
    """The pairs of matching that do not belong together.

    Attributes:
        videos: (R, 2), a text's number and that of a video drawn for it.
        texts: (S, 2), a video's number and that of a text drawn for it.
    """

    videos: Int[Tensor, "R 2"]
    texts: Int[Tensor, "S 2"]


def joint_bert(config: T2V2TConfig) -> Bert:
    """BERT, whose layers from `first_fusion` on are the rounds of the joint encoder."""
    spec = config.text_spec()
    bert = Bert(spec)
    if config.fusion != "none":
        num_layers = 1 if config.shared_rounds else config.num_rounds
        bert.encoder.layer.extend(FusionLayer(spec).apply(initialise_as_bert) for _ in range(num_layers))
    return bert


class JointModel(PixelModel):
    """BEiT, BERT, and the joint encoder that the last layers of BERT are."""

    config_type: ClassVar[type[ModelConfig]] = T2V2TConfig
    paper: ClassVar[str] = "Kim et al., T2V2T; Cheng et al., VindLU, CVPR 2023 (arXiv 2212.05051)"
    config: T2V2TConfig
    head_names: ClassVar[tuple[str, ...]] = ("text_encoder.cls.",)
    start_from = initialised_from

    def __init__(self, config: T2V2TConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.projection_dim
        self.vision_encoder = VideoBeit(config.video_spec())
        self.text_encoder = nn.ModuleDict({"bert": joint_bert(config)})
        if config.fusion != "none":
            self.vision_layernorm = nn.LayerNorm(config.video_width, eps=1e-12) if config.video_norm else nn.Identity()

    @property
    def bert(self) -> Bert:
        """The text encoder; its last layers are the rounds of the joint encoder."""
        return cast(Bert, self.text_encoder["bert"])

    @property
    def rounds(self) -> list[FusionLayer]:
        """The rounds of the joint encoder, in their order."""
        layers = list(self.bert.encoder.layer[self.config.first_fusion :])
        return cast(list[FusionLayer], layers * self.config.num_rounds if self.config.shared_rounds else layers)

    # --- encoders ----------------------------------------------------------------------------------------------------

    def text_states(self, text: Tokens) -> Float[Tensor, "B L D"]:
        """F_T, the states of a text after the layers of the text encoder alone."""
        states: Tensor = self.bert(text.values, text.mask, last=self.config.first_fusion)
        return states

    def video_states(self, video: Tokens) -> tuple[Float[Tensor, "B T P D"], Float[Tensor, "B T D"]]:
        """F_V, the tokens of the frames as the joint encoder takes them, and a pooled vector of each frame."""
        hidden, pooled = self.vision_encoder(video.values, video.mask)
        if self.config.fusion == "none":
            return hidden, pooled
        return self.vision_layernorm(hidden if self.config.frame_class_tokens else hidden[:, :, 1:]), pooled

    # --- the joint encoder -------------------------------------------------------------------------------------------

    def fused(self, text: Tokens, video: Tokens, videos: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B L D"]:
        """The joint encoder's states of pairs: F_T2V2T of the last round."""
        masks = {"text_mask": text.mask, "frame_mask": video.mask}
        return fuse(self.rounds, text.values, video.values, **masks, videos=videos)[-1].text


@register_model("t2v2t", summary="T2V2T: frames look at the text and the text at the frames, candidates are re-ranked")
@register_model("vindlu", summary="VindLU (CVPR 2023): text looks at frames, candidates are re-ranked", defaults=VINDLU)
@register_model("test_t2v2t", summary="T2V2T with random weights, for tests", defaults=TINY)
@register_model("test_vindlu", summary="VindLU with random weights, for tests", defaults={**TINY, **VINDLU})
class T2V2T(JointModel):
    """Two encoders, contrasted, and a joint encoder that matches pairs and fills in masked words."""

    scores: ClassVar[bool] = True

    def __init__(self, config: T2V2TConfig | None = None) -> None:
        config = config or T2V2TConfig()
        super().__init__(config)
        self.name = "t2v2t"
        if config.fusion != "none":
            self.itm_head = Linear(config.text_width, 2)
        if config.has_word_head:
            head = MaskedWordHead(self.bert.spec, tied_to=self.bert.embeddings.word_embeddings)
            self.text_encoder["cls"] = nn.ModuleDict({"predictions": head})
        self.vision_proj = Linear(config.video_width, self.dim)
        self.text_proj = Linear(config.text_width, self.dim)
        self.temp = nn.Parameter(torch.tensor(config.temperature))
        # Kept with the weights, so that a training that is resumed draws what it would have drawn.
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.num_steps: Tensor

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """What contrast compares: the unit vector of a text, or the mean of the unit vectors of a video's frames."""
        if modality == "text":
            return unit(self.text_proj(self.text_states(tokens)[:, 0]))
        return frame_mean(self.vision_proj(self.video_states(tokens)[1]), tokens.mask)

    # --- re-ranking --------------------------------------------------------------------------------------------------

    def states(self, modality: str, tokens: Tokens) -> Tokens:
        """What `score` makes of one side alone, to be given to it in the place of the tokens, as often as wanted.

        Args:
            modality: "text" or "video".
            tokens: of a batch; for a video bytes or normalised pictures.

        Returns:
            Text: (B, L, D). Video: (B, T, P, D). The mask as it was given, up to the length that the model reads.

        Raises:
            InputError: no rows at all, or wrong shapes.
        """
        given = self.given({modality: tokens})[modality]
        encoded = self.text_states(given) if modality == "text" else self.video_states(given)[0]
        return Tokens(encoded, given.mask)

    def score(self, *, text: Tokens, video: Tokens) -> Float[Tensor, " B"]:
        """The logit that text i and video i belong together, of the joint encoder's [CLS]; see the base.

        Args:
            text: token ids (B, L), or what `states` made of them (B, L, D).
            video: pictures (B, T, 3, S, S), or what `states` made of them (B, T, P, D).

        Raises:
            ConfigError: a model without a joint encoder.
            InputError: wrong shapes, or other numbers of texts and videos.
        """
        self.check_scores()
        text = text if text.values.dim() == 3 else self.states("text", text)
        video = video if video.values.dim() == 4 else self.states("video", video)
        num_texts, num_videos = len(text.mask), len(video.mask)
        if num_texts != num_videos and 1 not in (num_texts, num_videos):
            raise InputError(
                f"a score needs as many texts as videos, or one of either; got {num_texts} and {num_videos}"
            )
        if num_texts < num_videos:
            text = Tokens(*(each.expand(num_videos, *each.shape[1:]) for each in text))
        every = torch.zeros(num_texts, dtype=torch.long, device=video.mask.device)
        return self.match_logits(text, video, every if num_videos < num_texts else None)[:, 1]

    def check_scores(self) -> None:
        """See the base."""
        if self.config.fusion == "none":
            raise ConfigError("fusion='none' has no joint encoder to score with; use another one")

    def match_logits(
        self, text: Tokens, video: Tokens, videos: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B 2"]:
        """The joint head of pairs of states: text i with video i, or with video `videos[i]`."""
        logits: Tensor = self.itm_head(self.fused(text, video, videos)[:, 0])
        return logits

    # --- objectives --------------------------------------------------------------------------------------------------

    def loss(
        self,
        batch: Mapping[str, Tokens | None],
        *,
        ids: Int[Tensor, " B"] | None = None,
        negatives: Negatives | None = None,
        masked: tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of contrast, matching and masked words, over the samples that have both modalities.

        Args:
            batch: see `given_pixels`.
            ids: samples of one id are each other's answers, such as captions of one video; None: each has its own.
            negatives: of matching, by place in the batch; None: drawn from the seed and the step.
            masked: ids with some words hidden, and which; None: drawn likewise.

        Returns:
            The loss, and of its terms "text|video", "vtm" and "mlm" those that there are.
        """
        given, config = self.given(batch), self.config
        with torch.no_grad():
            self.temp.clamp_(*TEMPERATURES)
        nonempty = nonempty_of(given)
        if len(given) < 2:
            return zero_of([self.embed(name, tokens) for name, tokens in given.items()]), {}
        text, video = given["text"], given["video"]
        generator = self._generator(len(text.mask))
        if config.has_word_head:
            masked = self._masked_words(text, generator) if masked is None else masked
            # The text and the masked text go through the text encoder together.
            text = Tokens(torch.cat([text.values, masked[0]]), text.mask.repeat(2, 1))
        states = Tokens(self.text_states(text), text.mask)
        frames, pooled = self.video_states(video)
        vectors = {
            "text": unit(self.text_proj(states.values[: len(frames), 0])),
            "video": frame_mean(self.vision_proj(pooled), video.mask),
        }
        first = first_sample(len(frames))
        ids = torch.arange(first, first + len(frames), device=frames.device) if ids is None else ids.to(frames.device)
        losses = self._contrast(vectors, nonempty, ids)
        present = (nonempty["text"] & nonempty["video"]).nonzero().flatten()
        if config.fusion != "none" and len(present):
            if negatives is None:
                negatives = self._negatives(vectors, present, ids, generator)
            answers = None if masked is None else torch.where(masked[1], given["text"].values, IGNORED)
            losses |= self._joint_losses(states, Tokens(frames, video.mask), present, negatives, answers)
        if self.training:
            self.num_steps += 1
        total = zero_of([*vectors.values(), states.values]) + sum(losses.values())
        return total, {name: term.detach() for name, term in losses.items()}

    def _contrast(
        self, vectors: Mapping[str, Tensor], nonempty: Mapping[str, Tensor], ids: Int[Tensor, " B"]
    ) -> dict[str, Tensor]:
        """VTC, over the samples of all processes."""
        whole = gathered({**vectors, "ids": ids.double()[:, None]}, nonempty)
        rows = torch.stack([whole.nonempty[name] for name in vectors]).all(dim=0).nonzero().flatten()
        if not len(rows) or not self.config.vtc_weight:
            return {}
        similarities = self._similarities({name: whole.vectors[name][rows] for name in vectors})
        targets = shared_targets(whole.vectors["ids"][rows, 0].long())
        return {"text|video": self.config.vtc_weight * contrast_with_targets(similarities, targets)}

    def _similarities(self, vectors: Mapping[str, Tensor]) -> Float[Tensor, "V C"]:
        """Of videos and texts, over the temperature, in float32 under mixed precision too."""
        with torch.autocast(self.temp.device.type, enabled=False):
            similarities: Tensor = vectors["video"].float() @ vectors["text"].float().T / self.temp
            return similarities

    def _joint_losses(
        self,
        text: Tokens,
        video: Tokens,
        present: Int[Tensor, " R"],
        negatives: Negatives,
        answers: Int[Tensor, "B L"] | None,
    ) -> dict[str, Tensor]:
        """VTM and MLM: one pass of the joint encoder over matching pairs, others, and masked texts with their videos.

        Args:
            text: the states of all texts, and behind them those of the masked ones where words are predicted.
            video: the states of all videos.
            present: the samples that have both.
            negatives: the pairs that do not belong together.
            answers: the ids of hidden words, -100 elsewhere.
        """
        own = present[:, None].expand(-1, 2)
        pairs = torch.cat([own, negatives.videos, negatives.texts.flip(1)]) if self.config.vtm_weight else own[:0]
        num_matched = len(pairs)
        if answers is not None:
            pairs = torch.cat([pairs, torch.stack([present + len(video.mask), present], dim=1)])
        if not len(pairs):
            return {}
        rows, videos = pairs.unbind(dim=1)
        fused = self.fused(Tokens(text.values[rows], text.mask[rows]), video, videos)
        losses = {}
        if num_matched:
            logits = self.itm_head(fused[:num_matched, 0])
            losses["vtm"] = self.config.vtm_weight * matching_loss(logits, num_matching=len(present))
        if answers is not None:
            chosen = answers[present] != IGNORED
            guesses = cast(nn.ModuleDict, self.text_encoder["cls"])["predictions"](fused[num_matched:][chosen])
            losses["mlm"] = self.config.mlm_weight * focal_loss(guesses, answers[present][chosen], gamma=0.0)
        return losses

    # --- what is drawn -----------------------------------------------------------------------------------------------

    def _generator(self, num_samples: int) -> torch.Generator:
        """Of this step's draws on this process."""
        step = int(self.num_steps) if self.training else 0
        seed = np.random.SeedSequence([self.config.seed, step, first_sample(num_samples)]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed[0]) >> 1)

    def _masked_words(self, text: Tokens, generator: torch.Generator) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """A text with words hidden, and which: any but [CLS] and padding."""
        draw = torch.rand(text.mask.shape, generator=generator).to(text.mask.device)
        chosen = (draw < self.config.mask_probability) & text.mask.bool() & (text.values != CLS_ID)
        return mask_tokens(text.values, chosen, vocabulary=self.config.vocab_size, generator=generator), chosen

    def _negatives(
        self, vectors: Mapping[str, Tensor], present: Tensor, ids: Tensor, generator: torch.Generator
    ) -> Negatives:
        """A video for each text and a text for each video of this process, where there is one that does not belong."""
        weights = self.negative_weights({name: each[present] for name, each in vectors.items()}, ids[present])
        drawn = []
        for each in weights:
            rows = (each.sum(dim=1) > 0).nonzero().flatten()
            columns = drawn_negatives(each[rows], generator=generator) if len(rows) else rows
            drawn.append(torch.stack([present[rows], present[columns]], dim=1))
        return Negatives(*drawn)

    def negative_weights(
        self, vectors: Mapping[str, Tensor], ids: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B B"], Float[Tensor, "B B"]]:
        """What negatives are drawn by: of videos for each text, and of texts for each video."""
        same = ids[:, None] == ids
        if not self.config.hard_negatives:
            return (~same).float(), (~same).float()
        with torch.no_grad():
            similarities = self._similarities(vectors)
        return (
            negative_weights_by_similarity(similarities.T, same),
            negative_weights_by_similarity(similarities, same),
        )

    # --- the authors' checkpoints ------------------------------------------------------------------------------------

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> T2V2T:
        """Take VindLU's published weights, or our own under their names.

        A checkpoint of another number of frames fits: new frames have a position of 0, as in the authors' code. A model
        without a head for masked words leaves out that of the checkpoint.

        Args:
            state_dict: their whole checkpoint, or its "model" alone; the prefix "module." is taken off.
            config: see `official.py`; None: the checkpoint's own where `to_official` wrote it. A new model of that
                shape is returned. Without one the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a key that the authors' configurations do not have, or what this model cannot be.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        weights, theirs = unpacked_checkpoint(state_dict, config)
        model = self
        if theirs is not None:
            has_word_head = any(name.startswith("text_encoder.cls.") for name in weights)
            options = official_config(theirs, has_word_head=has_word_head)
            name = "vindlu" if options["fusion"] == "unidirectional" else "t2v2t"
            model = cast(T2V2T, create_model(name, **options))
        loaded_weights(model, weights, has_word_head=model.config.has_word_head)
        return model

    def to_official(self) -> dict[str, Any]:
        """A checkpoint that the authors' code reads where the model is VindLU, and `from_official`.

        Returns:
            "model" (weights under their names, the tensors being the model's own) and "config".
        """
        return {
            "model": official_weights(self.state_dict(), self.config),
            "config": to_official_config(self.config),
        }
