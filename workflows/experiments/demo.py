"""`frameloom demo`: make a small data set, run every stage on it, and show that searching sight and sound works.

The collection is made by the laboratory, rendered to real H.264/AAC files, and from then on it is a folder of videos
like any other. A configuration that is there is used as it is: give it pretrained `weights:` and the demo uses them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import field_serializer

from ..._settings import Settings
from ..console import Console, readable_seconds
from ..laboratory import World, make_collection
from ..project import CONFIG_NAME, Project
from ..search import Query, Result, SearchSession
from ..sync import Report, sync
from .config import write_demo_config
from .evaluate import Evaluation, evaluate

NUM_QUESTIONS = 3


class DemoResult(Settings):
    """The report of the sync, the retrieval table, and questions with their answers."""

    folder: Path
    report: Report
    evaluation: Evaluation
    answers: Mapping[str, tuple[Result, ...]]
    seconds: float

    @property
    def exit_code(self) -> int:
        return self.report.exit_code

    def lines(self) -> Iterator[str]:
        yield from self.report.lines()
        yield ""
        yield "Retrieval on clips that the model was not trained on:"
        yield from self.evaluation.lines()
        yield ""
        for question, results in self.answers.items():
            yield f'"{question}"'
            for result in results:
                span = f"{result.start_seconds:.1f}-{result.end_seconds:.1f} s"
                found = "the clip that this was written for" if question in result.captions else result.captions[0]
                yield f"  {result.score:6.3f}  {result.video}  {span}  ({found})"
        yield ""
        yield f"All of it took {readable_seconds(self.seconds)}. Where to look next, in {self.folder}:"
        yield '  frameloom query "a question of your own" --where "split = \'test\'"'
        yield "  frameloom sync        does nothing now; delete or change a video and run it again"
        yield "  frameloom status      what is there, what is stale and why"
        yield f"  {CONFIG_NAME}        the whole project in one file"
        yield "For your own videos: `frameloom init DIR --captions FILE` in an empty folder, then `frameloom sync`."

    @field_serializer("answers")
    def _listed(self, answers: Mapping[str, tuple[Result, ...]]) -> Any:
        return [{"question": question, "results": results} for question, results in answers.items()]


def run_demo(folder: Path, *, seed: int, num_train: int, num_test: int, console: Console) -> DemoResult:
    """Make the collection, sync it, evaluate it, and ask it three questions. A second run does only what is missing."""
    begun = time.monotonic()
    world = World(seed=seed, num_train=num_train, num_test=num_test)
    with console.progress("render", world.num_clips, "clips") as advance:
        make_collection(folder, world, on_progress=advance)
    if not (folder / CONFIG_NAME).exists():
        write_demo_config(folder, seed=seed)
    project = Project.open(folder)
    report = sync(project, console)
    evaluation = evaluate(project, split="test")
    # The first captions of the first held-out clips.
    held_out = (span for video in project.collection.videos for span in video.spans if span.split == "test")
    questions = islice((span.captions[0] for span in held_out if span.captions), NUM_QUESTIONS)
    session = SearchSession(project)
    answers = {
        question: tuple(session.search(Query(text=question, where="split = 'test'", top=2))) for question in questions
    }
    seconds = time.monotonic() - begun
    return DemoResult(folder=folder, report=report, evaluation=evaluation, answers=answers, seconds=seconds)
