"""Words and patches of All-in-one's joint pass, compared by optimal transport (`fuse/objectives/transport.py`).

Legend: B batch, W tokens of a text, L visual tokens of a frame, T frames, N patches of a frame, D width.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..objectives import word_patch_distance
from .parts import Features


def alignment_costs(features: Features, text: Tensor, video: Tensor, *, num_left_out: int) -> Float[Tensor, " B"]:
    """What it costs to move the words onto the visual tokens, which are the mean over frames.

    Args:
        features: of the joint pass.
        text: mask of the words, (B, W).
        video: mask of the frames, (B, T).
        num_left_out: the first visual tokens, which are no patches.
    """
    assert features.text is not None
    assert features.video is not None
    patches_real = video.bool().any(dim=1, keepdim=True).expand(-1, features.video.shape[1]).clone()
    patches_real[:, :num_left_out] = False
    return word_patch_distance(features.text, features.video, words_real=between_ends(text), patches_real=patches_real)


def transported_words(features: Features, text: Tensor, video: Tensor, *, num_patches: int) -> Float[Tensor, "B W T N"]:
    """Of each word the shares that the plan moves to the patches of each frame. [CLS] and [SEP] are moved nowhere.

    The paper shows those above a threshold, which it does not state.
    """
    from ..objectives.transport import transport_costs, transport_plan

    assert features.text is not None
    num_words, num_frames = features.text.shape[1], video.shape[1]
    seen = features.frames[:, :, num_words:].reshape(len(video), num_frames, -1, features.text.shape[2])
    words = between_ends(text)
    plan = transport_plan(
        transport_costs(features.text, seen[:, :, -num_patches:].flatten(1, 2)),
        words_real=words,
        patches_real=video.bool().repeat_interleave(num_patches, dim=1),
        beta=0.5,
        num_iterations=50,
    )
    return (plan * words.sum(dim=1)[:, None, None]).view(*words.shape, num_frames, num_patches)


def between_ends(mask: Tensor) -> Bool[Tensor, "B W"]:
    """The words without [CLS] and [SEP]."""
    real = mask.bool()
    words = real & functional.pad(real[:, 1:], (0, 1))
    words[:, 0] = False
    return words
