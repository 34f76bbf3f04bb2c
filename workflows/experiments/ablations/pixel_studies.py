"""The ablations of MILES and All-in-one, as data. See `pixel_study.py` for what a study is."""

from __future__ import annotations

from typing import Any

from .pixel_study import PIXEL_STUDIES, Claim, PixelStudy, Variant
from .pixel_world import PixelWorld

__all__ = ["PIXEL_STUDIES"]

TINY_FRAMES: dict[str, Any] = {"num_frames": 4, "size": 32, "min_area": 1.0, "max_aspect": 1.0, "flip": 0.0}
"""Whole pictures: a crop would move what a direction is judged by no less than the motion does."""
TINY_TRAINING: dict[str, Any] = {
    "frames": TINY_FRAMES,
    "max_words": 24,
    "epochs": 40,
    "min_steps": 0,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "checkpoint_steps": 0,
}
_SMALL = {"patch_size": 8, "width": 64, "depth": 2, "heads": 2, "projection_dim": 64, "temporal_std": 0.5}
"""Patches are a quarter of the side, of which objects move a twelfth from frame to frame. The temporal embedding does
not begin with zeros, from which a short training takes longer to tell frames apart."""
_ONE_FRAME = Variant(label="one frame (a control)", frames={"num_frames": 1})

PIXEL_STUDIES.add(
    "miles",
    PixelStudy(
        paper="Ge et al., MILES, ECCV 2022 (arXiv 2204.12408), tables 7 and 9",
        recipe="miles_tiny",
        overrides=TINY_TRAINING,
        options={**_SMALL, "text_width": 64, "text_depth": 1, "text_heads": 2, "text_hidden": 128},
        variants={
            "snapshot": Variant(label="MVM on the snapshot, tube blocks (MILES)"),
            "none": Variant(label="no MVM", options={"target": "none"}),
            "pixels": Variant(label="MVM on pixels", options={"target": "pixels"}),
            "frames": Variant(label="MVM on the snapshot, whole frames", options={"masking": "frame"}),
            "one_frame": _ONE_FRAME,
        },
        claims=(
            Claim(better="none", worse="one_frame"),
            Claim(better="snapshot", worse="none", published="table 7"),
            Claim(better="snapshot", worse="pixels", published="table 7"),
            Claim(better="snapshot", worse="frames", published="table 9"),
            Claim(better="snapshot", worse="none", kind="one frame", published="table 7"),
            Claim(better="snapshot", worse="pixels", kind="one frame", published="table 7"),
        ),
        notes=(
            "The paper judges R@k of MSR-VTT after pre-training on 5.5 million clips and stills, with weights of"
            " ImageNet to begin with; here all begins at random, and the regression is the mean square.",
        ),
    ),
)

PIXEL_STUDIES.add(
    "all_in_one",
    PixelStudy(
        paper="Wang et al., All in One, CVPR 2023 (arXiv 2203.07303), tables 7 and 8 and section 3.4",
        recipe="all_in_one_tiny",
        overrides={**TINY_TRAINING, "epochs": 12, "learning_rate": 1e-3},
        options={
            **_SMALL,
            "depth": 3,
            "mask_probability": 0.5,
            "contrast_weight": 0.0,
            "transport_weight": 0.0,
            "dropout": 0.0,
            "drop_path": 0.0,
        },
        # A joint pass learns fewer clips by heart. An epoch of co-training ends with the pictures.
        world=PixelWorld(num_train=6000, num_pictures=6000),
        by="score",
        variants={
            "roll": Variant(label="token rolling, videos alone"),
            "none": Variant(label="frames do not meet", options={"temporal": "none"}),
            "flatten": Variant(label="all frames in one sequence", options={"temporal": "flatten"}),
            "cotraining": Variant(
                label="token rolling, co-training with pictures", options={"cotraining": True}, pictures=True
            ),
            "one_frame": _ONE_FRAME,
        },
        claims=(
            Claim(better="roll", worse="one_frame"),
            Claim(better="roll", worse="none", published="rolling over averaging"),
            Claim(better="roll", worse="flatten", published="rolling over flattening"),
            Claim(better="cotraining", worse="roll", published="section 3.4"),
            Claim(better="cotraining", worse="roll", kind="one frame", published="section 3.4"),
        ),
        notes=(
            "Co-training takes a batch of pictures in every step next to that of clips, as published, and so twice the"
            " computation; steps and clips are the same. Pairs are judged by the matching"
            " head, whose pass is the one in which tokens roll; matching and masked words train it, half of the words"
            " masked, and the contrast of the other pass and the word-patch alignment are left out.",
        ),
    ),
)
