"""What Clover reads off its encoders: projections into the space of retrieval, words, matches and answers.

Source: Clover (arXiv 2207.07885); LeeYN-43/Clover@fa05f2e, mmaction/models/heads. Attributes keep the names of its
state dict. The released head of pairs with a masked video averages over an axis that its input does not have; here it
takes the [CLS] of the pair, as the paper says. GELU is exact, layer normalisation has eps 1e-5.

Legend: B batch, C channels of the video encoder, D width of a text, E width of an embedding, A answers.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..heads import AnswerHead
from ..layers import Linear

CHOICE_HIDDEN = 256


class ProjectionHeads(nn.Module):
    """Video and text into one space: Linear, LayerNorm, GELU, Linear, LayerNorm; a text without the norms."""

    def __init__(self, video_dim: int, text_dim: int, *, hidden: int, dim: int) -> None:
        super().__init__()
        self.img_projector = nn.Sequential(
            Linear(video_dim, hidden), nn.LayerNorm(hidden), nn.GELU(), Linear(hidden, dim), nn.LayerNorm(dim)
        )
        self.text_projector = nn.Sequential(Linear(text_dim, text_dim), nn.GELU(), Linear(text_dim, dim))
        self.apply(initialise_head)

    def video(self, pooled: Float[Tensor, "B C"]) -> Float[Tensor, "B E"]:
        """Of the mean of a clip's patches."""
        projected: Tensor = self.img_projector(pooled)
        return projected

    def text(self, cls: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Of a text's [CLS]."""
        projected: Tensor = self.text_projector(cls)
        return projected


class FusedVideoHead(nn.Module):
    """M_Vmf: the [CLS] of a masked video with its text, compared with videos."""

    def __init__(self, width: int, *, hidden: int, dim: int) -> None:
        super().__init__()
        self.img_fc1, self.img_bn1 = Linear(width, hidden), nn.LayerNorm(hidden)
        self.img_fc2, self.img_bn2 = Linear(hidden, dim), nn.LayerNorm(dim)
        self.apply(initialise_head)

    def forward(self, cls: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        projected: Tensor = self.img_bn2(self.img_fc2(functional.gelu(self.img_bn1(self.img_fc1(cls)))))
        return projected


class FusedTextHead(nn.Module):
    """M_Tmf: the [CLS] of a video with its masked text, compared with texts."""

    def __init__(self, width: int, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, width), Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialise_head)

    def forward(self, cls: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        projected: Tensor = self.fc2(self.dropout(functional.gelu(self.fc1(cls))))
        return projected


class MatchHead(nn.Module):
    """Does not match, matches: in the authors' weights for the blank, where their code never applies it."""

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.itm_projector = nn.Sequential(nn.Dropout(dropout), Linear(width, width), nn.Tanh(), Linear(width, 2))
        self.apply(initialise_head)

    def forward(self, cls: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
        scores: Tensor = self.itm_projector(cls)
        return scores


class OpenAnswerHead(nn.Module):
    """One of a list of answers."""

    def __init__(self, width: int, *, num_answers: int, dropout: float) -> None:
        super().__init__()
        self.vqa_classifier = AnswerHead(width, hidden=width // 2, num_answers=num_answers, dropout=dropout)
        self.apply(initialise_head)

    def forward(self, cls: Float[Tensor, "B D"]) -> Float[Tensor, "B A"]:
        scores: Tensor = self.vqa_classifier(cls)
        return scores


class ChoiceHead(nn.Module):
    """How well one option goes with the video."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.mc_vqa_classifier = AnswerHead(width, hidden=CHOICE_HIDDEN, num_answers=1, dropout=dropout)
        self.apply(initialise_head)

    def forward(self, cls: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
        score: Tensor = self.mc_vqa_classifier(cls)
        return score


def initialise_head(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, as in the authors' code."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
