"""All-in-one: one transformer for text, video, and both, on raw pixels.

Paper: Wang et al., "All in One: Exploring Unified Video-Language Pre-training", CVPR 2023 (arXiv 2203.07303), whose
sections are named below. Authors' code: showlab/all-in-one@ae0e288 (AllInOne/ and CoTraining/), whose numbers this
folder gives and whose names of weights the attributes keep.

Legend: B batch, T frames, W tokens of a text, L visual tokens of a frame, D width, E width of an embedding, K options.

What follows the code where paper and code differ:
* Rolling is cyclic and goes both ways (`rolling.py`), before every block, in the joint pass alone.
* Each frame is a sequence of its own with the whole text; after the last normalisation tokens are averaged over frames.
* The matching loss has a word-patch alignment by optimal transport in it (`fuse/objectives/transport.py`), times 0.1.
* Size S is a distilled DeiT: its distillation token rolls, and it has no temporal embedding.
* The contrast reads the first token of each side before the pooler, and has a fixed temperature.

Deviations: the order of patches is that of reading unless `patch_order` says otherwise; frames that are padding are
seen by nobody, roll nowhere and are not averaged; false clips of the matching loss come from the batch, where the
authors' data set draws another video. timm's dropouts between the two layers of an MLP and of attention weights are not
there. In evaluation mode `loss` draws what it draws at step 0. Several processes draw masks and false clips each from
its own samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..._vocabulary import ConfigError, InputError, digest_of
from ..base import ModelConfig, Tokens, paired
from ..heads import UNKNOWN, AnswerHead, FrameOrderHead, Pooler, choice_loss
from ..layers import BertEmbeddings, BertSpec, Linear, MaskedWordHead, initialise_as_bert, visible_keys
from ..objectives import (
    combinatorial_loss,
    first_sample,
    focal_loss,
    gathered,
    mask_tokens,
    norm_softmax_loss,
    tokens_at_random,
    zero_of,
)
from ..pixels import PixelModel, nonempty_of
from ..registry import create_model, register_model
from .alignment import alignment_costs, transported_words
from .backbone import Backbone
from .captions import caption_loss, captions_of
from .config import AllInOneConfig
from .draws import Drawn, drawn_orders, matching_draws, order_labels
from .official import continued_from, initialised_from, loaded_weights, resolved_config, to_official_config
from .parts import Features, Fully, PixelHead, averaged, chosen, first_frames

NO_LABEL, ORDERED_FRAMES = -100, 3
SMALL = {"width": 384, "heads": 6, "distilled": True, "deit": True}
TINY = {"width": 192, "heads": 3, "deit": True}


@register_model("all_in_one", summary="All-in-one (CVPR 2023) of size B: one transformer for text, video and both")
@register_model("all_in_one_s", summary="All-in-one of size S (distilled DeiT)", defaults=SMALL)
@register_model("all_in_one_ti", summary="All-in-one of size Ti (DeiT)", defaults=TINY)
@register_model(
    "test_all_in_one",
    summary="All-in-one with random weights, for tests",
    defaults={
        "image_size": 32,
        "patch_size": 8,
        "num_frames": 6,
        "vocab_size": 120,
        "max_words": 12,
        "width": 24,
        "depth": 2,
        "heads": 2,
        "dropout": 0.0,
        "drop_path": 0.0,
        "projection_dim": 20,
        "mask_probability": 0.5,
    },
)
class AllInOne(PixelModel):
    """Section 3: every pass is one of the same backbone; objectives differ in what goes in."""

    config_type: ClassVar[type[ModelConfig]] = AllInOneConfig
    paper: ClassVar[str] = "Wang et al., All in One, CVPR 2023 (arXiv 2203.07303)"
    scores: ClassVar[bool] = True
    extra_inputs: ClassVar[tuple[str, ...]] = ("answer", "options")
    head_names: ClassVar[tuple[str, ...]] = ("vqa_classifier.", "mc_vqa_classifier.")
    config: AllInOneConfig
    num_steps: Tensor
    start_from = initialised_from
    continue_from = continued_from

    def __init__(self, config: AllInOneConfig | None = None) -> None:
        super().__init__()
        self.name = "all_in_one"
        self.config = config = config or AllInOneConfig()
        width, has_contrast = config.width, config.contrast_weight > 0
        self.dim = config.projection_dim if has_contrast else width
        spec = BertSpec(
            vocabulary=config.vocab_size,
            width=width,
            depth=0,
            heads=config.heads,
            max_positions=config.max_words,
            dropout=config.dropout,
        )
        self.text_embeddings = BertEmbeddings(spec)
        self.text_embeddings.apply(initialise_as_bert)
        self.token_type_embeddings = nn.Embedding(2, width)
        nn.init.normal_(self.token_type_embeddings.weight, std=0.02)
        self.transformer = Backbone(config)
        self.pooler = Pooler(width)
        if config.mlm_weight or config.caption_weight:
            self.mlm_score = MaskedWordHead(spec, bias_of_decoder=False)
        if has_contrast:
            self.txt_proj, self.vid_proj = Linear(width, self.dim), Linear(width, self.dim)
        if config.matches:
            setattr(self, self.matching_name, Fully(width, 2))
        if config.rank_head:
            self.rank_output = Linear(width, 1)
            self.begin_ranking()
        if config.num_answers:
            self.vqa_classifier = AnswerHead(width, hidden=width // 2, num_answers=config.num_answers, dropout=0.5)
        if config.option_head:
            self.mc_vqa_classifier = AnswerHead(width, hidden=256, num_answers=1, dropout=0.1)
        if config.frame_order_head:
            self.vcop_classifier = FrameOrderHead(width)
        if config.pixel_head:
            pixels = BertSpec(vocabulary=3 * 256, width=width, depth=0, heads=config.heads)
            self.mpp_score = PixelHead(pixels)
        # Kept with the weights, so that a training that is resumed draws what it would have drawn.
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    @property
    def matching_name(self) -> str:
        """Of the matching head, which the authors' two programs call differently."""
        return "vtm_score" if self.config.cotraining else "itm_score"

    @torch.no_grad()
    def begin_ranking(self) -> None:
        """Let the head that ranks texts begin as the "match" row of the matching head, as published."""
        matching = getattr(self, self.matching_name).fc
        self.rank_output.weight.copy_(matching.weight[1:])
        self.rank_output.bias.copy_(matching.bias[1:])

    # --- sections 3.1 and 3.2: the pass ------------------------------------------------------------------------------

    def features(
        self,
        *,
        text: Tokens | None = None,
        video: Tokens | None = None,
        order: Int[Tensor, "B T N"] | None = None,
        causal: bool = False,
    ) -> Features:
        """What the backbone gives of what is given; see `Features`.

        Args:
            text: token ids.
            video: normalised pictures.
            order: of the patches of each frame; None: as configured.
            causal: whether a word sees the words before it and the clip alone, and the clip no word.
        """
        words = real = visual = frames = None
        if text is not None:
            real = visible_keys(text.mask)[:, 0, 0]
            words = self.text_embeddings(text.values) + self.token_type_embeddings.weight[0]
        if video is not None:
            frames = video.mask.bool()
            if order is None and self.config.patch_order == "random":
                order = self.drawn_orders(frames)
            tokens = self.transformer.visual_tokens(video.values, order=order)
            visual = tokens + self.token_type_embeddings.weight[1]
        each = self.transformer(text=words, text_real=real, video=visual, frames=frames, causal=causal)
        num_words = 0 if words is None else words.shape[1]
        if visual is None or frames is None:
            return Features(each[:, 0], None, each[:, 0, 0], each)
        if each.shape[1] == frames.shape[1]:
            whole = averaged(each, frames)
            seen = whole[:, num_words:]
        else:  # flattened
            whole = each[:, 0]
            seen = averaged(whole[:, num_words:].reshape(visual.shape), frames)
        return Features(whole[:, :num_words] if num_words else None, seen, whole[:, 0], each)

    def joint(self, *, text: Tokens, video: Tokens) -> Float[Tensor, "B D"]:
        """The pooled first token of the joint pass: what the heads read."""
        return cast(Tensor, self.pooler(self.features(text=text, video=video).first[:, None]))

    def drawn_orders(self, frames: Tensor) -> Int[Tensor, "B T N"]:
        """An order of patches for every frame, drawn as the authors draw it."""
        h, w = self.transformer.grid
        return drawn_orders(frames.shape[:2], h * w, generator=self._generator("orders")).to(frames.device)

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The projected first token of a text or a clip alone; without contrast the token itself."""
        first = (self.features(text=tokens) if modality == "text" else self.features(video=tokens)).first
        if not self.config.contrast_weight:
            return first
        return cast(Tensor, (self.txt_proj if modality == "text" else self.vid_proj)(first))

    # --- heads -------------------------------------------------------------------------------------------------------

    def score(self, *, text: Tokens, video: Tokens) -> Float[Tensor, " B"]:
        """See the base; the logit of the ranking head where there is one, else of matching."""
        self.check_scores()
        text, video = paired(text, video)
        return self._scores(self.joint(**self.given({"text": text, "video": video})))

    def check_scores(self) -> None:
        """See the base."""
        if not self.config.matches:
            raise ConfigError(
                f"{self.name} was built without a matching head: set vtm_weight above 0, or rank_head=True"
            )

    def _scores(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        if self.config.rank_head:
            return cast(Tensor, self.rank_output(pooled)[:, 0])
        return cast(Tensor, getattr(self, self.matching_name)(pooled)[:, 1])

    def choice_scores(self, options: Sequence[Tokens], video: Tokens, *, head: str = "rank") -> Float[Tensor, "B K"]:
        """Scores of K texts for each clip: of the ranking head, or of the head of a question's options ("option")."""
        columns = []
        for option in options:
            pooled = self.joint(**self.given({"text": option, "video": video}))
            columns.append(self._scores(pooled) if head == "rank" else self.mc_vqa_classifier(pooled)[:, 0])
        return torch.stack(columns, dim=1)

    def answer_scores(self, *, text: Tokens, video: Tokens) -> Float[Tensor, "B A"]:
        """Scores of all answers to a question about a clip, or of all classes after a fixed sentence.

        Raises:
            ConfigError: a model without such a head.
            InputError: wrong shapes.
        """
        if not self.config.num_answers:
            raise ConfigError(f"the model {self.name} was built without answers: set num_answers")
        return cast(Tensor, self.vqa_classifier(self.joint(**self.given({"text": text, "video": video}))))

    def question_scores(self, batch: Mapping[str, Tokens]) -> Float[Tensor, "B A"]:
        """Scores of all answers to questions ("text"), or of their options ("options": (B, O, L)), about clips.

        Options are scored by their own head, else by the one that ranks or matches texts; -inf without a word.

        Raises:
            ConfigError: a model without such a head.
            InputError: wrong shapes.
        """
        options, video = batch.get("options"), batch["video"]
        if options is None:
            return self.answer_scores(text=batch["text"], video=video)
        if options.values.dim() != 3 or options.mask.shape != options.values.shape:
            raise InputError(
                f"options have shape {tuple(options.values.shape)}; this model takes (batch, options, tokens)"
            )
        num_clips, num_options = options.values.shape[:2]
        rows = torch.arange(num_clips, device=options.mask.device).repeat_interleave(num_options)
        text = Tokens(options.values.flatten(0, 1), options.mask.flatten(0, 1))
        text, clips = self.given({"text": text})["text"], self.given({"video": video})["video"]
        pooled = self.joint(text=text, video=chosen(clips, rows))
        scores = self.mc_vqa_classifier(pooled)[:, 0] if self.config.option_head else self._scores(pooled)
        return scores.view(num_clips, num_options).masked_fill(~options.mask.bool().any(dim=2), -torch.inf)

    def captions(self, video: Tokens) -> Tokens:
        """A caption for each clip, [CLS] and [SEP] around it: word after word the likeliest (see `captions.py`).

        Raises:
            ConfigError: a model without the head of words.
            InputError: wrong shapes.
        """
        if not (self.config.mlm_weight or self.config.caption_weight):
            raise ConfigError(f"the model {self.name} was built without the head of words: set caption_weight above 0")
        return captions_of(self, self.given({"video": video})["video"])

    def train_probe(self) -> list[str]:
        """Freeze all but the pooler, the projections and the head of answers, as the authors' linear evaluation does.

        Returns the names of the weights that are trained, which are not one linear layer's.
        """
        trained = ("pooler.", "txt_proj.", "vid_proj.", "vqa_classifier.", "mc_vqa_classifier.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad = name.startswith(trained)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    # --- section 3.3: objectives -------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of masked words, matching and contrast, each with its own pass, of the samples that have both.

        With `cotraining`, clips and pictures of a batch apart, and the two sums added (section 3.4).

        Args:
            batch: text and video, and of questions "answer": (B, 1) int64, its mask 0 where the answer is unknown. Of
                questions with options these take the place of the text, see `question_scores`.

        Returns:
            The loss, and its terms: "mlm", "vtm", "transport", "order", "rank", "answer", "text|video"; of pictures
            "picture mlm", ...; of captions "caption".

        Raises:
            InputError: the batch has shapes or modalities that this model does not take, or an answer that it lacks.
        """
        if batch.get("options") is not None:
            return self._choice_loss({name: tokens for name, tokens in batch.items() if tokens is not None})
        given = self.given({name: tokens for name, tokens in batch.items() if name not in self.extra_inputs})
        num_samples = len(next(iter(given.values())).mask)
        answers = self._answers(batch.get("answer"), num_samples=num_samples, num_answers=self.config.num_answers)
        nonempty = nonempty_of(given)
        groups = {"": torch.ones_like(next(iter(nonempty.values())))}
        if self.config.cotraining and "video" in given:
            is_picture = given["video"].mask.bool().sum(dim=1) == 1
            groups = {"": ~is_picture, "picture ": is_picture}
        losses: dict[str, Tensor] = {}
        for prefix, members in groups.items():
            rows = members.nonzero().flatten()
            part = {name: chosen(tokens, rows) for name, tokens in given.items()}
            if prefix:
                part["video"] = first_frames(part["video"])
            has = {name: flags & members for name, flags in nonempty.items()}
            found = self._contrast(part, rows, has) if self.config.contrast_weight else {}
            both = torch.stack(list(has.values())).all(dim=0)[rows].nonzero().flatten()
            if len(given) == len(self.modalities) and len(both):
                text, video = (chosen(part[name], both) for name in self.modalities)
                found |= self.joint_losses(text, video, self.drawn(text, video))
                if answers is not None:
                    scores = self.vqa_classifier(self.joint(text=text, video=video))
                    found["answer"] = self.config.answer_weight * choice_loss(scores, answers[rows][both])
            losses |= {f"{prefix}{name}": value for name, value in found.items()}
        self.num_steps += int(self.training)
        total = sum(losses.values(), start=zero_of([self.token_type_embeddings.weight]))
        return total, {name: value.detach() for name, value in losses.items()}

    def _choice_loss(self, batch: Mapping[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the right option of each question; nothing of a clip without frames."""
        scores = self.question_scores(batch)
        answers = self._answers(batch.get("answer"), num_samples=len(scores), num_answers=scores.shape[1])
        if answers is None:
            raise InputError("a batch of options needs the numbers of the right ones as its answer")
        known = (answers >= 0) & batch["video"].mask.bool().any(dim=1)
        if bool(scores.gather(1, answers.clamp(min=0)[:, None])[known].isinf().any()):
            raise InputError("the right option of a question holds no word")
        self.num_steps += int(self.training)
        loss = self.config.answer_weight * choice_loss(scores[known], answers[known])
        return loss if known.any() else zero_of([self.token_type_embeddings.weight]), {"answer": loss.detach()}

    def _answers(self, answer: Tokens | None, *, num_samples: int, num_answers: int) -> Int[Tensor, " B"] | None:
        """The number of each sample's answer, -1 where it is unknown; None where nothing is asked."""
        if answer is None or not (num_answers and self.config.answer_weight):
            return None
        if answer.values.shape != (num_samples, 1) or answer.mask.shape != (num_samples, 1):
            raise InputError(f"answer has shape {tuple(answer.values.shape)}; this batch takes ({num_samples}, 1)")
        numbers = answer.values[:, 0].where(answer.mask[:, 0].bool(), UNKNOWN)
        if bool((numbers >= num_answers).any()):
            raise InputError(f"answer {int(numbers.max())} is not one of this model's {num_answers}")
        return numbers

    def _contrast(self, part: Mapping[str, Tokens], rows: Tensor, has: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """BVTC of the samples in `rows`; zeros take the place of the others, so that processes gather equal shapes."""
        vectors = {}
        for name, tokens in part.items():
            embedded = self.embed(name, tokens)
            vectors[name] = embedded.new_zeros(len(has[name]), self.dim).index_copy(0, rows, embedded)
        whole = gathered(vectors, has)
        value, found = combinatorial_loss(
            whole.vectors,
            whole.nonempty,
            weights={("text", "video"): 1.0},
            contrast=partial(norm_softmax_loss, temperature=self.config.temperature),
        )
        return {"text|video": self.config.contrast_weight * value} if found else {}

    def joint_losses(self, text: Tokens, video: Tokens, drawn: Drawn) -> dict[str, Tensor]:
        """Masked words, matching with its alignment, and the order of frames where that is wanted; weighted.

        Args:
            text: token ids.
            video: normalised pictures of the same samples.
            drawn: what is masked, mixed and put in another order.
        """
        config, losses = self.config, {}
        if config.caption_weight:
            losses["caption"] = config.caption_weight * caption_loss(self, text, video, self._generator("caption"))
        if config.mlm_weight:
            places = drawn.labels >= 0
            words = self.features(text=text._replace(values=drawn.masked), video=video).text
            assert words is not None
            logits = self.mlm_score(words[places])
            losses["mlm"] = config.mlm_weight * focal_loss(logits, drawn.labels[places], gamma=0.0)
        if config.vtm_weight:
            mixed = self.features(text=text, video=drawn.mixed)
            logits = getattr(self, self.matching_name)(self.pooler(mixed.first[:, None]))
            losses["vtm"] = config.vtm_weight * choice_loss(logits, drawn.matches.long())
            if config.transport_weight:
                distances = self.alignment(mixed, text, drawn.mixed)
                signed = torch.where(drawn.matches, distances, -distances)
                losses["transport"] = config.vtm_weight * config.transport_weight * signed.mean()
        if config.order_weight and drawn.order is not None:
            logits = self.order_scores(text, video, drawn.order)
            losses["order"] = config.order_weight * choice_loss(logits, order_labels(drawn.order))
        if config.rank_weight and drawn.ranked is not None:
            num_clips, num_texts = drawn.ranked.shape
            clips = torch.arange(num_clips, device=drawn.ranked.device).repeat_interleave(num_texts)
            pooled = self.joint(text=chosen(text, drawn.ranked.flatten()), video=chosen(video, clips))
            scores = self.rank_output(pooled).view(num_clips, num_texts)
            losses["rank"] = config.rank_weight * choice_loss(scores, torch.zeros_like(clips[:num_clips]))
        return losses

    def alignment(self, features: Features, text: Tokens, video: Tokens) -> Float[Tensor, " B"]:
        """What it costs to move the words onto the patches, without [CLS], [SEP] and the class token.

        Of a DeiT the second visual token is left out too, as in the code: the distillation token, or the first patch.
        """
        return alignment_costs(features, text.mask, video.mask, num_left_out=2 if self.config.deit else 1)

    def word_patches(self, *, text: Tokens, video: Tokens) -> Float[Tensor, "B L T N"]:
        """Figure 7: of each word of a text the shares that optimal transport moves to the patches of each frame."""
        given, (h, w) = self.given({"text": text, "video": video}), self.transformer.grid
        reading = torch.arange(h * w, device=video.mask.device).expand(*video.mask.shape, -1)
        found = self.features(text=given["text"], video=given["video"], order=reading)
        return transported_words(found, given["text"].mask, given["video"].mask, num_patches=h * w)

    def order_scores(self, text: Tokens, video: Tokens, order: Int[Tensor, "B T"]) -> Float[Tensor, "B orders"]:
        """Scores of the orders of three frames, from the text's first token in the sequence of each."""
        first = self.features(text=text, video=video).frames[:, :, 0]
        return cast(Tensor, self.vcop_classifier(first.gather(1, order[..., None].expand_as(first))))

    def drawn(self, text: Tokens, video: Tokens) -> Drawn:
        """What a step draws: masked words, false clips for half of the texts, an order of three frames."""
        generator = self._generator("step", first_sample(len(text.mask)))
        mask, num = text.mask.bool(), len(text.mask)
        places = tokens_at_random(mask, share=self.config.mask_probability, generator=generator)
        masked = mask_tokens(
            text.values,
            places,
            vocabulary=self.config.vocab_size,
            mask_id=self.config.mask_id,
            generator=generator,
        )
        matches, false = matching_draws(num, generator=generator)
        rows = torch.where(matches, torch.arange(num), false).to(mask.device)
        order = None
        if self.config.order_weight and video.mask.shape[1] == ORDERED_FRAMES and bool(video.mask.bool().all()):
            order = torch.stack([torch.randperm(ORDERED_FRAMES, generator=generator) for _ in range(num)])
            order = order.to(mask.device)
        ranked = None
        if self.config.rank_weight and num > 1:
            away = [torch.randperm(num - 1, generator=generator)[: self.config.num_false_texts] + 1 for _ in range(num)]
            others = (torch.arange(num)[:, None] + torch.stack(away)) % num
            ranked = torch.cat([torch.arange(num)[:, None], others], dim=1).to(mask.device)
        return Drawn(
            masked=masked,
            labels=text.values.masked_fill(~places, NO_LABEL),
            mixed=chosen(video, rows),
            matches=matches.to(mask.device),
            order=order,
            ranked=ranked,
        )

    def _generator(self, what: str, first: int = 0) -> torch.Generator:
        """Draws of one purpose in this step: by seed, step and the place of the first sample."""
        step = int(self.num_steps) if self.training else 0
        name = digest_of([self.config.seed, step, what, first])
        return torch.Generator().manual_seed(int(name[:15], 16))

    # --- the authors' checkpoints ------------------------------------------------------------------------------------

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> AllInOne:
        """Take weights of All-in-one, of either program of the authors, or our own.

        A checkpoint of another number of frames fits: its temporal embedding is cut, or filled up with zeros, as the
        authors do. One of another length of texts keeps the positions that both have, where the authors begin anew.

        Args:
            state_dict: the whole checkpoint, or its "state_dict" alone.
            config: the authors' configuration, see `official.py`; None: the checkpoint's own where `to_official` wrote
                it. A new model of that shape is returned, with the heads that the checkpoint has. Without one
                the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a key that the authors do not have, or what this model cannot be.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        weights, options = resolved_config(state_dict, config)
        model = self if options is None else cast(AllInOne, create_model("all_in_one", **options))
        loaded_weights(model, weights)
        return model

    def to_official(self) -> dict[str, Any]:
        """A checkpoint that the authors' code reads, and `from_official`.

        Returns:
            "state_dict" (under their names, the model's own tensors, and our count of steps) and "config".
        """
        return {"state_dict": dict(self.state_dict()), "config": to_official_config(self.config)}
