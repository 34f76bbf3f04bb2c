"""What the second stage of retrieval wins and costs: T2V2T judges the first 100 of a gallery of 10,000 clips again.

    python tests/benchmarks/rerank.py FOLDER [--clips 10000] [--questions 200] [--train 4000] [--steps 6000]
                                      [--candidates 100] [--seed 0]

Clips are the laboratory's: six seen attributes drawn independently, a caption names four of them. They are rendered in
memory, one frame each, and written into the project's store as the backbone `pixels` writes them; the files of the
collection hold their names alone and are never opened, since what they would give is there. From then on all is as a
user has it: `sync` trains and embeds, `SearchSession.search` asks with `rerank`.

A hit is right where its clip has all that the question names; several of the gallery do. R@k counts the questions whose
first right hit is among the first k. The oracle is the share of questions that have a right clip among the candidates:
the most that a second stage could reach. 95 % are over draws of the questions, differences on the same draws.
A second run goes on where the first one stopped. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from frameloom.extract import DecodedFrames, create_backbone
from frameloom.store import FeatureStore, Sample
from frameloom.train.evaluate import intervals, redrawn
from frameloom.workflows.console import Console
from frameloom.workflows.laboratory.attributes import ATTRIBUTES
from frameloom.workflows.laboratory.captions import write_caption
from frameloom.workflows.laboratory.pictures import render_frames
from frameloom.workflows.project import Project
from frameloom.workflows.project.config import parse_config
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.sync import fingerprint_of, sync

SEEN = ("colour", "background", "texture", "size", "number", "shape")
NAMED = 4
CLIPS_A_SHARD = 250
PIXELS: dict[str, Any] = {"rate_hz": 1, "size": 48, "frames": "jpeg"}
OPTIONS = {
    "patch_size": 8, "video_width": 96, "video_depth": 2, "video_heads": 4, "video_hidden": 192, "temporal": "none",
    "drop_path": 0.0, "text_width": 96, "text_depth": 4, "first_fusion": 2, "text_heads": 4, "text_hidden": 192,
    "text_positions": 96, "projection_dim": 96, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("clips", 10_000), ("questions", 200), ("train", 4000), ("steps", 6000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--candidates", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    traits = [drawn(rng) for _ in range(given.train + given.clips)]
    captions = [[caption(one, rng) for _ in range(3)] for one in traits]
    project = project_of(given, captions)
    write_gallery(project, traits, given)
    begun = time.process_time()
    report = sync(project, Console(quiet=True))
    assert report.exit_code == 0, list(report.lines())
    print(f"sync (training and embedding): {time.process_time() - begun:.0f} CPU s", flush=True)
    ask(project, traits, rng, given)


def drawn(rng: np.random.Generator) -> dict[str, str]:
    resting = {name: one.resting for name, one in ATTRIBUTES.items()}
    return {**resting, **{name: str(rng.choice(ATTRIBUTES[name].values)) for name in SEEN}}


def caption(traits: dict[str, str], rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A sentence, and the attributes that it names."""
    named = tuple(SEEN[place] for place in sorted(rng.permutation(len(SEEN))[:NAMED]))
    return write_caption(traits, named, rng), named


def project_of(given: argparse.Namespace, captions: list[list[tuple[str, tuple[str, ...]]]]) -> Project:
    folder: Path = given.folder
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = [
        {"video": name_of(number, given), "captions": [text for text, _ in captions[number]], "split": "train"}
        for number in range(given.train)
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = {
        "frames": {"num_frames": 1, "size": 48, "min_area": 0.8, "flip": 0.0, "rule": "vindlu"},
        "epochs": 1, "min_steps": given.steps, "batch_size": 32, "learning_rate": 1e-3, "checkpoint_steps": 0,
        "model_options": OPTIONS, "seed": given.seed,
    }  # fmt: skip
    config = {
        "collection": {"videos": "videos", "captions": "captions.jsonl", "clip_seconds": None},
        "features": {
            "video": {"backbone": "pixels", "options": PIXELS},
            "text": {"backbone": "wordpiece", "options": {"vocabulary": 400}},
        },
        "training": {"recipe": "t2v2t_tiny", "overrides": overrides},
        "store": {"format": "webdataset", "combinations": ["video"]},
        "run": {"workers": 0},
    }
    return Project(parse_config(config), folder)


def name_of(number: int, given: argparse.Namespace) -> str:
    return f"videos/{'train' if number < given.train else 'gallery'}{number:06}.mp4"


def write_gallery(project: Project, traits: list[dict[str, str]], given: argparse.Namespace) -> None:
    """The frames of every clip that the store lacks, a shard at a time."""
    request = project.media[0]
    backbone = create_backbone("pixels", **PIXELS)
    store = FeatureStore(project.store.root)
    begun, written = time.process_time(), 0
    for first in range(0, len(traits), CLIPS_A_SHARD):
        numbers = range(first, min(first + CLIPS_A_SHARD, len(traits)))
        paths = {number: given.folder / name_of(number, given) for number in numbers}
        for path in paths.values():
            if not path.exists():
                path.write_text(f"{path.stem}\n")
        digests = project.ledger.digests_of_files(paths.values())
        names = {number: fingerprint_of(str(digests[path]), request) for number, path in paths.items()}
        if all(name in store for name in names.values()):
            continue
        samples = []
        for number in numbers:
            rng = np.random.default_rng([given.seed, number])
            (frame,) = render_frames(traits[number], size=48, num_frames=1, fps=1.0, rng=rng)
            feature = backbone.encode(DecodedFrames(frames=frame[None], times=np.array([[0.0, 1.0]])))
            samples.append(
                Sample(
                    key=name_of(number, given),
                    source_digest=str(digests[paths[number]]),
                    fingerprint=names[number],
                    feature=feature,
                )
            )
        store.write_shard("pixels", samples, spec=request.spec, token=f"{first:012}", format="webdataset")
        written += len(samples)
    print(f"rendered {written} clips into the store: {time.process_time() - begun:.0f} CPU s", flush=True)
    project.store.refresh()


def ask(project: Project, traits: list[dict[str, str]], rng: np.random.Generator, given: argparse.Namespace) -> None:
    session = SearchSession(project)
    before, after, seconds, cpu, pairs = [], [], [], [], 0
    for number in rng.choice(np.arange(given.train, len(traits)), given.questions, replace=False):
        text, named = caption(traits[number], rng)
        begun = time.process_time()
        found: Any = session.search(
            Query(
                text=text,
                where="video LIKE '%gallery%'",
                rerank=project.model_name,
                candidates=given.candidates,
                top=given.candidates,
            )
        )
        cpu.append(time.process_time() - begun)
        seconds.append(found.reranking.seconds)
        pairs += found.reranking.judged
        right = [fits(one.video, traits, traits[number], named) for one in found]
        at_first = [place for _, place in sorted((one.rank_before, place) for place, one in enumerate(found))]
        before.append(first_right([right[place] for place in at_first], given.clips))
        after.append(first_right(right, given.clips))
    ranks = {"first stage": np.array(before, float), "judged again": np.array(after, float)}
    groups = np.arange(given.questions)
    draws = {name: redrawn(each, groups) for name, each in ranks.items()}
    print(f"{given.questions} questions to {given.clips} clips, {given.candidates} candidates, {pairs} pairs")
    for name, each in ranks.items():
        print(f"  {name:14} {_cells(_shares(each), intervals(draws[name]))}")
    gain = intervals({name: draws["judged again"][name] - draws["first stage"][name] for name in ("r1", "r5", "r10")})
    differences = {
        name: _shares(ranks["judged again"])[name] - one for name, one in _shares(ranks["first stage"]).items()
    }
    print(f"  {'difference':14} {_cells(differences, gain, sign='+')}")
    oracle, tenth = 100 * (np.array(before) < given.candidates).mean(), max(1, len(seconds) // 10)
    print(f"  oracle at {given.candidates}: {oracle:.1f} %")
    print(
        f"  second stage: median {np.median(seconds):.3f} s a question, of the first tenth"
        f" {np.mean(seconds[:tenth]):.3f} s; all of a question {np.median(cpu):.3f} CPU s in the median"
    )


def _shares(ranks: Any) -> dict[str, float]:
    return {f"r{most}": 100 * float((ranks < most).mean()) for most in (1, 5, 10)}


def _cells(values: dict[str, float], bounds: Any, sign: str = "") -> str:
    cells = (
        f"{name}: {each:{sign}.1f} [{bounds[name][0]:.1f}, {bounds[name][1]:.1f}]" for name, each in values.items()
    )
    return "  ".join(cells)


def fits(video: str, traits: list[dict[str, str]], wanted: dict[str, str], named: tuple[str, ...]) -> bool:
    own = traits[int(Path(video).stem.removeprefix("gallery"))]
    return all(own[name] == wanted[name] for name in named)


def first_right(right: list[bool], none: int) -> int:
    """The place, from 0, of the first right hit; the size of the gallery where there is none."""
    return right.index(True) if True in right else none


if __name__ == "__main__":
    main()
