"""Questions about a video, answered by ranking given answers: VindLU's QA model.

Paper: Cheng et al., VindLU, CVPR 2023 (arXiv 2212.05051), after ALBEF (arXiv 2107.07651). Authors' code:
klauscc/VindLU@3046548, models/vindlu_qa.py.

The question goes through all layers of the text encoder, looking at the video; a decoder of as many layers as the joint
encoder has looks at the question's states and says how probable an answer is, word by word. Nothing is generated: of
all answers the most probable is chosen. An oddity of the authors' code that is followed by default: the probability of
an answer's first word counts twice, once where candidates are chosen and once as part of the whole answer.

Legend: B questions, A answers, L tokens, K candidates, D width, V words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import ConfigError, InputError
from ..base import Tokens
from ..layers import PADDING_ID, Bert, BertSpec, MaskedWordHead, visible_before, visible_keys
from .config import T2V2TConfig
from .model import T2V2T, JointModel
from .official import loaded_weights, official_config, official_weights, to_official_config, unpacked_checkpoint


class RankedAnswers(NamedTuple):
    """The candidates of each question, the most probable first.

    Attributes:
        indices: (B, K), which of the answers.
        probabilities: (B, K); they sum to 1 over the candidates.
    """

    indices: Int[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]


class AnswerDecoder(nn.Module):
    """A decoder that looks at the states of a question, and its head: HuggingFace's BertLMHeadModel."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.bert = Bert(spec)
        head = MaskedWordHead(spec, tied_to=self.bert.embeddings.word_embeddings)
        self.cls = nn.ModuleDict({"predictions": head})

    def forward(self, answer: Tokens, question: Tokens) -> Float[Tensor, "A L V"]:
        """The scores of all words behind each word of an answer.

        Args:
            answer: ids (A, L); padding is behind.
            question: the states (A, M, D) of the question of each answer.
        """
        hidden = self.bert.encoder(
            self.bert.embeddings(answer.values),
            visible=visible_before(answer.mask),
            context=question.values,
            context_visible=visible_keys(question.mask),
        )
        logits: Tensor = self.cls["predictions"](hidden)
        return logits

    def losses(self, answer: Tokens, question: Tokens) -> Float[Tensor, " A"]:
        """Of each answer minus its log probability given its first token ([CLS])."""
        targets = answer.values[:, 1:]
        logits = self(answer, question)[:, :-1].transpose(1, 2).float()
        return functional.cross_entropy(logits, targets, ignore_index=PADDING_ID, reduction="none").sum(dim=1)

    def ranked(
        self,
        question: Tokens,
        answers: Tokens,
        *,
        num_candidates: int = 128,
        first_word: Literal["twice", "once"] = "twice",
    ) -> RankedAnswers:
        """The answers to every question by their probability.

        Args:
            question: the states (B, M, D) of the questions.
            answers: ids (A, L), [CLS] first.
            num_candidates: how many are scored whole, chosen by their first word; all where there are fewer.
            first_word: how often its probability counts ("twice": the authors' code).

        Raises:
            InputError: no answer, or answers without a word behind [CLS].
        """
        if not len(answers.values) or answers.values.shape[1] < 2:
            raise InputError(f"answers have shape {tuple(answers.values.shape)}; give one or more, of a word or more")
        start = answers.values[:1, :1].expand(len(question.mask), 1)
        logits = self(Tokens(start, torch.ones_like(start)), question)[:, 0].float()
        of_first = logits.log_softmax(dim=1).index_select(1, answers.values[:, 1])
        num_candidates = min(num_candidates, len(answers.values))
        chosen = of_first.topk(num_candidates, dim=1)
        rows = torch.arange(len(start), device=start.device).repeat_interleave(num_candidates)
        places = chosen.indices.flatten()
        candidates = Tokens(answers.values[places], answers.mask[places])
        log_probability = -self.losses(candidates, Tokens(question.values[rows], question.mask[rows]))
        total = log_probability.view(chosen.indices.shape) + (chosen.values if first_word == "twice" else 0.0)
        probabilities, order = total.softmax(dim=1).sort(dim=1, descending=True)
        return RankedAnswers(chosen.indices.gather(1, order), probabilities)


class VindLUQA(JointModel):
    """The encoders and the joint encoder of a model, and a decoder of answers."""

    def __init__(self, config: T2V2TConfig | None = None) -> None:
        config = config or T2V2TConfig()
        if config.fusion == "none":
            raise ConfigError("fusion='none' has no joint encoder for a question to look at a video; use another one")
        super().__init__(config.replaced(mlm_weight=0.0))
        self.name = "vindlu_qa"
        spec = config.text_spec().replaced(
            depth=config.num_rounds, first_cross=0, context_width=config.text_width, order="self_cross", norm="post"
        )
        self.text_decoder = AnswerDecoder(spec)

    @classmethod
    def of(cls, joint: T2V2T) -> VindLUQA:
        """A QA model that starts from a trained one: its encoders, and its rounds, words and head as the decoder's."""
        model = cls(joint.config)
        own, trained = model.state_dict(), joint.state_dict()
        first = joint.config.first_fusion
        for name in own:
            source = name
            if name.startswith("text_decoder.bert.encoder.layer."):
                number, rest = name.removeprefix("text_decoder.bert.encoder.layer.").split(".", 1)
                shared = joint.config.shared_rounds
                source = f"text_encoder.bert.encoder.layer.{first + (0 if shared else int(number))}.{rest}"
            elif name.startswith("text_decoder."):
                source = name.replace("text_decoder.", "text_encoder.")
            if source in trained and trained[source].shape == own[name].shape:
                own[name] = trained[source]
        model.load_state_dict(own)
        return model

    def question_states(self, question: Tokens, video: Tokens) -> Tokens:
        """The states (B, L, D) of questions that have looked at their videos; both as `given_pixels` checks them."""
        given = self.given({"text": question, "video": video})
        if len(given) < 2:
            raise InputError("a question needs words and a video")
        return self.joint_states(given["text"], given["video"])

    def joint_states(self, text: Tokens, video: Tokens) -> Tokens:
        """`question_states` of what is checked already."""
        frames, _ = self.video_states(video)
        states = Tokens(self.text_states(text), text.mask)
        return Tokens(self.fused(states, Tokens(frames, video.mask)), text.mask)

    def loss(
        self,
        batch: Mapping[str, Tokens | None],
        *,
        num_answers: Int[Tensor, " B"] | None = None,
        weights: Float[Tensor, " A"] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the log probability of the answers, times their weights, summed and divided by the questions.

        Args:
            batch: "text" (the questions), "video", and "answer": ids (A, L) of the answers of all questions in turn.
            num_answers: how many each question has; None: one.
            weights: of each answer; None: 1.
        """
        answer = batch.get("answer")
        given = self.given({name: tokens for name, tokens in batch.items() if name != "answer"})
        if answer is None or len(given) < 2:
            raise InputError("a batch of questions needs text, video and answer")
        question = self.joint_states(given["text"], given["video"])
        counts = torch.ones_like(question.mask[:, 0], dtype=torch.long) if num_answers is None else num_answers
        if int(counts.sum()) != len(answer.values):
            raise InputError(
                f"the questions have {int(counts.sum())} answers in all, and the batch {len(answer.values)}"
            )
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        losses = self.text_decoder.losses(answer, Tokens(question.values[rows], question.mask[rows]))
        total = (losses if weights is None else weights * losses).sum() / max(len(counts), 1)
        return total, {"answer": total.detach()}

    def answer(self, question: Tokens, video: Tokens, answers: Tokens, *, num_candidates: int = 128) -> RankedAnswers:
        """The answers to each question by their probability, see `AnswerDecoder.ranked`."""
        return self.text_decoder.ranked(self.question_states(question, video), answers, num_candidates=num_candidates)

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> VindLUQA:
        """Take VindLU's published QA weights, or our own; see `T2V2T.from_official`.

        Args:
            state_dict: their whole checkpoint, or its "model" alone.
            config: "BeitConfig", "BertConfig (encoder)" or "BertConfig", and "BertConfig (decoder)", which follows from
                it. None: the weights go into this model.
        """
        weights, theirs = unpacked_checkpoint(state_dict, config)
        model = self if theirs is None else VindLUQA(T2V2TConfig(**_qa_config(theirs)))
        loaded_weights(model, weights, has_word_head=False)
        return model

    def to_official(self) -> dict[str, Any]:
        """A checkpoint that the authors' code reads where the joint encoder is VindLU's, and `from_official`."""
        weights = official_weights(self.state_dict(), self.config)
        weights["text_decoder.bert.embeddings.position_ids"] = torch.arange(self.config.text_positions)[None]
        return {"model": weights, "config": to_official_config(self.config)}


def _qa_config(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the encoder; the decoder must be the one that follows from it."""
    theirs = {name: value for name, value in theirs.items() if name != "k"}
    decoder = theirs.pop("BertConfig (decoder)", None)
    if "BertConfig (encoder)" in theirs:
        theirs["BertConfig"] = theirs.pop("BertConfig (encoder)")
    options = official_config(theirs, has_word_head=False)
    if decoder is not None:
        encoder = theirs["BertConfig"]
        depth = encoder["num_hidden_layers"] - encoder["fusion_layer"]
        expected = {**encoder, "num_hidden_layers": depth, "fusion_layer": 0, "encoder_width": encoder["hidden_size"]}
        for name, value in decoder.items():
            if value != expected.get(name, value):
                raise ConfigError(f"BertConfig (decoder).{name} is {value!r}; of this encoder it is {expected[name]!r}")
    return options
