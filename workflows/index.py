"""The Python face of a project: `frameloom.open("frameloom.yaml")`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .._vocabulary import InputError
from ..store import reader_lock
from ..train.evaluate import Ensemble
from .console import Console
from .experiments import ClassEvaluation, Evaluation, TaskEvaluation, evaluate, evaluate_classes, evaluate_task
from .project import CONFIG_NAME, Project
from .search import KeptSession, Query, Results, SearchSession, explained, reranking_of
from .sync import Plan, Report, make_plan, status_of, sync


class Index:
    """A collection of videos, its features, its model and its table.

    The collection is looked at anew by `sync`, `status` and `evaluate`. Searches share one session, which is opened
    again when the configuration, the checkpoint or the table has changed.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / CONFIG_NAME if path.is_dir() else path
        self._sessions: dict[str | None, KeptSession[SearchSession]] = {}
        Project.open(self.path)  # mistakes of the configuration are raised at once

    def sync(self, *, dry_run: bool = False, allow_delete: bool = False, quiet: bool = True) -> Report | Plan:
        """Bring features, model and table up to date with the collection, doing only what changed.

        Args:
            dry_run: return the plan and do nothing.
            allow_delete: delete the rows of videos that are gone, however many they are.
            quiet: print no progress on standard error.

        Returns:
            The report of the run, or the plan. Files that failed are in it; they raise nothing.

        Raises:
            FrameloomError: what a user can mend: configuration, lock, space, integrity.
        """
        if dry_run:
            return make_plan(Project.open(self.path, read_only=True))
        return sync(Project.open(self.path), Console(quiet=quiet), allow_delete=allow_delete)

    def search(
        self,
        text: str | None = None,
        *,
        video: str | Path | None = None,
        image: str | Path | None = None,
        audio: str | Path | None = None,
        like: str | None = None,
        unlike: str | None = None,
        where: str | None = None,
        modalities: str | None = None,
        hybrid: bool = False,
        distinct: float | None = None,
        diversity: float = 0.0,
        top: int = 10,
        offset: int = 0,
        merge: bool = False,
        explain: bool = False,
        model: str | None = None,
        rerank: str | None = None,
        candidates: int = 100,
        budget_seconds: float | None = None,
        ensemble: Ensemble = "concat",
        group_frames: int = 1,
    ) -> Results:
        """The clips nearest to a question, best first.

        Args:
            text: words.
            video: a file whose pictures are part of the question.
            image: a still picture (PNG, JPEG, WebP, BMP), instead of a video: a video of one frame.
            audio: a file whose sound is part of the question.
            like: the id of an indexed clip, instead of all of the above.
            unlike: the id of an indexed clip that the question moves away from.
            where: a SQL condition on the table's columns, such as ``split = 'test'``.
            modalities: compare with ``video``, ``audio`` or ``video+audio`` alone; by default each clip's primary row;
                ``speech``: clips in which the words are said, where the configuration has `features.speech`.
            hybrid: also look for the words in captions and in what is said; the orders are fused by their ranks.
            distinct: leave out clips whose cosine with a better answer is at least this, such as 0.98.
            diversity: from 0 to 1: how much each answer shall differ from those before it.
            top: how many answers.
            offset: how many of the best to pass over.
            merge: answer with moments: hits of one video that lie together and score alike are one (see
                `search/moments.py`), and the result says how many as `merged`.
            explain: say of each answer which words, senses and seconds carry it (`Result.explanation`).
            model: ask another model of this store, by its name or recipe, as it was synced last; None: the configured
                one.
            rerank: a model with a joint head that judges the best candidates again: the name or recipe of one of this
                store, or another project's configuration. Its frames come from that project's stored `pixels`, and are
                decoded where they are not stored.
            candidates: how many it is given; the answers are the best `top` of them.
            budget_seconds: what it may take; those that it did not reach keep their order, behind the others.
            ensemble: one score of all frames of a clip together (`concat`), or the `mean`, `max` or `lse` over groups.
            group_frames: frames in such a group.

        Raises:
            InputError: an empty question, no known word, a condition that does not parse.
            MediaError: a file that cannot be read.
        """
        query = Query.ask(
            text=text,
            video=None if video is None else Path(video),
            image=None if image is None else Path(image),
            audio=None if audio is None else Path(audio),
            like=like,
            unlike=unlike,
            where=where,
            modalities=modalities,
            hybrid=hybrid,
            distinct=distinct,
            diversity=diversity,
            top=top,
            offset=offset,
            merge=merge,
            rerank=rerank,
            candidates=candidates,
            budget_seconds=None if budget_seconds is None else float(budget_seconds),
            ensemble=ensemble,
            group_frames=group_frames,
        )
        session = self._current(model)
        found = session.search(query)
        answers = explained(session, query, found) if explain else found
        return Results(answers, reranking=reranking_of(found), notes=session.notes(query))

    def search_many(self, texts: Sequence[str], *, model: str | None = None, **options: Any) -> list[Results]:
        """What `search` gives for each of several texts, in their order: embedded together, compared in one pass.

        Scores may differ in the last digits from those of one question alone, since batches are padded.

        Args:
            texts: questions in words.
            model: of `search`.
            **options: of `search`, for all of them: `where`, `modalities`, `hybrid`, `distinct`, `diversity`, `top`,
                `offset`, `merge`, and those of a second stage.

        Raises:
            InputError: as `search`, for the first question that cannot be answered.
        """
        queries = [Query.ask(text=text, **options) for text in texts]
        answers = self._current(model).search_many(queries) if queries else []
        return [Results(found, reranking=reranking_of(found)) for found in answers]

    def _current(self, model: str | None = None) -> SearchSession:
        """The session of a model, opened again where something has changed."""

        def opened(project: Project) -> SearchSession:
            from .project.kept import kept_project

            asked = project if model is None else kept_project(project, model)
            return SearchSession(asked, or_before=model is None)

        return self._sessions.setdefault(model, KeptSession(self.path, opened)).current()

    def status(self) -> dict[str, Any]:
        """Current, stale (with reasons) and failed items, as plain data."""
        return status_of(Project.open(self.path, read_only=True))

    def evaluate(
        self,
        *,
        split: str = "test",
        captions: str = "first",
        against: str | Path | None = None,
        run: str | Path | None = None,
        measures: Sequence[str] = (),
        rerank: str | None = None,
        candidates: int = 100,
        budget_seconds: float | None = None,
        classes: str | None = None,
        prompt: str = "{}",
    ) -> Evaluation | TaskEvaluation | ClassEvaluation:
        """Text-to-media retrieval on one split, each figure with its 95 % interval; or the task that the recipe is for.

        Args:
            split: train, val or test.
            captions: ``first`` asks each clip's first caption, ``all`` every one.
            against: the configuration of another project over the same clips, to be compared with.
            run: where to write a TREC run; the right answers go next to it, with the ending ``.qrels``.
            measures: of ir-measures, such as ``nDCG@10``; needs ``frameloom[trec]``.
            rerank: a model that judges each question's candidates again, as in `search`; the gain comes with its
                intervals, its cost, and the recall at `candidates`, which no second stage can exceed.
            candidates: of each question.
            budget_seconds: of each question.
            classes: a column of the manifest: instead, how often a clip's value of it is found, by the names of the
                values without training, and by a linear probe.
            prompt: what is embedded for a class, with ``{}`` in the place of its name.

        Raises:
            InputError: nothing to ask, another project with other clips or captions, a measure that is not known.
        """
        project = Project.open(self.path)
        other = None if against is None else Project.open(Index(against).path)
        with ExitStack() as held:
            for one in (project, other):
                if one is not None:
                    held.enter_context(one.locked(reader_lock))
            if classes is not None:
                return evaluate_classes(project, column=classes, split=split, prompt=prompt)
            if project.recipe.task != "retrieval":
                if other is not None or run is not None or measures or rerank is not None:
                    raise InputError(
                        f"against, run, measures and rerank are of retrieval; the recipe is for {project.recipe.task}"
                    )
                return evaluate_task(project, split=split)
            return evaluate(
                project,
                split=split,
                captions=captions,
                against=other,
                run=None if run is None else Path(run),
                measures=measures,
                rerank=rerank,
                candidates=candidates,
                budget_seconds=budget_seconds,
            )

    def close(self) -> None:
        """End what searches keep open. The next search opens it again."""
        while self._sessions:
            self._sessions.popitem()[1].close()


def open_index(path: str | Path = "frameloom.yaml") -> Index:
    """Open a project by its configuration file, or by the folder that holds `frameloom.yaml`.

    Raises:
        ConfigError: the file does not exist, or says something that cannot be.
    """
    return Index(path)
