"""The commands that ask: for clips, how well clips are found, and about one video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..._vocabulary import InputError, MediaError
from .options import DEFAULT_CONFIG, AsJson, ConfigPath, open_project, say, show

Rerank = Annotated[str | None, typer.Option(metavar="MODEL", help="A second model that judges the candidates again.")]
Candidates = Annotated[int, typer.Option(metavar="N", help="How many candidates it is given.")]
Budget = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="What it may take a question; the rest keep their order.")
]


def query(
    text: Annotated[str | None, typer.Argument(help="Words.")] = None,
    video: Annotated[Path | None, typer.Option(help="A file whose pictures are part of the question.")] = None,
    image: Annotated[Path | None, typer.Option(help="A still picture, in place of a video.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A file whose sound is part of the question.")] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="CLIP", help="Clips like this one of the table: VIDEO, VIDEO@SECONDS or an id."),
    ] = None,
    unlike: Annotated[str | None, typer.Option(metavar="CLIP", help="Clips less like this one of the table.")] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="A condition, such as \"split = 'test'\".")] = None,
    modalities: Annotated[
        str | None,
        typer.Option(help="Compare with video, audio, video+audio or speech alone. [default: its primary row]"),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Look for the words in captions and speech, too.")] = False,
    distinct: Annotated[
        float | None, typer.Option(metavar="COSINE", help="Leave out clips as near as this to a better answer: 0.98.")
    ] = None,
    diversity: Annotated[float, typer.Option(metavar="X", help="From 0 to 1: how much answers shall differ.")] = 0.0,
    top: Annotated[int, typer.Option(metavar="K", help="How many answers.")] = 10,
    offset: Annotated[int, typer.Option(metavar="N", help="Pass over the best N answers.")] = 0,
    merge: Annotated[
        bool, typer.Option("--merge/--no-merge", help="Hits of a video that lie together are one answer.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which words, which seconds, sight or sound carry each answer.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Ask another model that was synced into this store.")
    ] = None,
    rerank: Rerank = None,
    candidates: Candidates = 100,
    budget: Budget = None,
    ensemble: Annotated[
        str, typer.Option(help="How the frames of a candidate make one score: concat, mean, max or lse.")
    ] = "concat",
    group_frames: Annotated[
        int, typer.Option(metavar="G", help="With --ensemble mean, max or lse: frames that are judged together.")
    ] = 1,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Ask for clips with words, pictures, sound, or any mixture of them.

    With --rerank a second model, which reads words and frames together (clover, t2v2t, vindlu, all_in_one), judges the
    best candidates again. It is one that was trained in this store, by its name or recipe, or another project's
    frameloom.yaml. It reads the frames that its project has stored; those of a clip that has none are decoded for the
    question. Each answer says where it was before (rank_before) and both scores; standard error
    says what was done.

    Example: frameloom query "a dog barks" --where "split = 'test'" --top 5

    Example: frameloom query "a dog runs from left to right" --rerank t2v2t --candidates 100 --budget 2
    """
    from ..index import Index

    try:
        results = Index(config).search(
            text,
            video=video,
            image=image,
            audio=audio,
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
            explain=explain,
            model=model,
            rerank=rerank,
            candidates=candidates,
            budget_seconds=budget,
            ensemble=ensemble,  # type: ignore[arg-type]  # checked there
            group_frames=group_frames,
        )
    except MediaError as error:  # one file of a collection that fails is data; a question's is a wrong question
        raise InputError(str(error)) from error
    lines = []
    for rank, one in enumerate(results, 1 + offset):
        span = f"{one.start_seconds:.1f}-{one.end_seconds:.1f} s"
        lines.append("  ".join([f"{rank:3}", f"{one.score:6.3f}", one.video, span, *one.captions[:1]]))
        if one.rank_before is not None:
            lines[-1] += f"  (before: {one.rank_before})"
        lines += [f"{'':13}{line}" for line in (one.explanation.lines() if one.explanation else ())]
    for note in results.notes:
        say(f"note: {note}")
    for line in () if results.reranking is None else results.reranking.lines():
        say(line)
    show(results, lines if results else ["no clip fits the condition, or the page is past the end"], as_json=as_json)


def evaluate(
    config: ConfigPath = DEFAULT_CONFIG,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    captions: Annotated[
        str, typer.Option(help="Which captions ask: the first of each clip, as papers do, or all.")
    ] = "first",
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another project's configuration: is this model better?")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a TREC run, and the right answers as FILE.qrels.")
    ] = None,
    measure: Annotated[
        list[str] | None, typer.Option(help="A measure of ir-measures, such as nDCG@10. May be given more than once.")
    ] = None,
    rerank: Rerank = None,
    candidates: Candidates = 100,
    budget: Budget = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Find the clips' values of this column instead."),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="What is embedded for a class, with {} for its name: 'a person is {}'.")
    ] = "{}",
    as_json: AsJson = False,
) -> None:
    """Measure text-to-media retrieval on a split: R@1, R@5, R@10 in percent, median rank, each with its 95 %.

    The 95 % come from drawing the split's videos anew, 2,000 times: where the figure would lie with other videos of
    the same kind. With --against, two models answer the same questions, and their difference gets its own 95 %: where
    they hold zero, these clips do not tell which model is better. With --rerank, a second model judges the candidates
    of each question again (see `frameloom query --help`): the gain with its 95 %, what it cost, and the share of
    questions whose answer is among the candidates, which is the most that any second model could reach.

    With a recipe for questions or captions: how often answers are right, or BLEU-4, METEOR and CIDEr, next to what is
    reached without seeing the clips. With --classes: how often a clip's class is found by the classes' names, and by a
    linear probe of the embeddings of the training clips.
    """
    from ..index import Index

    found = Index(config).evaluate(
        split=split,
        captions=captions,
        against=against,
        run=run,
        measures=measure or (),
        rerank=rerank,
        candidates=candidates,
        budget_seconds=budget,
        classes=classes,
        prompt=prompt,
    )
    show(found, found.lines(), as_json=as_json)


def ask(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A file, of the collection or not.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Words.")],
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers to choose from, one a line. [default: those learned]")
    ] = None,
    answer: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="An answer to choose from. May be given more than once.")
    ] = None,
    start: Annotated[float | None, typer.Option(metavar="SECONDS", help="Look at the file from here on.")] = None,
    end: Annotated[float | None, typer.Option(metavar="SECONDS", help="And up to here.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another model of this store; with --weights, what is in the file."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The authors' checkpoint, in the place of the project's.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="How many answers.")] = 5,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Answer a question about a video with the project's model.

    A model that was trained on questions (all_in_one, clover) chooses among the answers that it learned. Another one
    with a joint head (t2v2t, vindlu, clover, all_in_one) needs answers to choose from, and says how well each fits the
    question and the video together. VindLU's QA checkpoint (--weights FILE --model vindlu_qa) ranks given answers. The
    project's pixels and wordpiece read the file and the words: for an authors' checkpoint, at the size and with the
    vocabulary that it was trained with.

    Example: frameloom ask holiday.mp4 "what colour is the car?" --answer red --answer blue
    """
    from ..search.ask import ask as answer_question

    given = list(answer or ())
    try:
        given += [] if answers is None else [line for line in answers.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--answers {answers} cannot be read: {error}") from None
    project = open_project(config)
    if model is not None and weights is None:
        from ..project.kept import kept_project

        project = kept_project(project, model)
    span = (float("-inf") if start is None else start, float("inf") if end is None else end)
    try:
        found = answer_question(
            project, video, question, answers=given, span=span, weights=weights, model=model, top=top
        )
    except MediaError as error:  # one file of a collection that fails is data; a question's is a wrong question
        raise InputError(str(error)) from error
    show(found, found.lines(), as_json=as_json)
