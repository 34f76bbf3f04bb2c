"""All stages in turn, only what changed: the plan, then exactly that, then the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from ..._vocabulary import ConfigError, FrameloomError, InputError, Outcome
from ...store import writer_lock
from ..console import Console, count_of
from ..project import CheckpointRef, FeatureRequest, Project, dropped_spans, in_split
from . import rows as row_stages
from . import stages
from .examples import examples_of
from .executor import Executor, open_executor
from .merging import merge, planned_merge
from .report import Plan, Report, joined_status, report_of
from .stages import Stage
from .state import State, TablePlan, clip_states, plan_table, state_of, take_state
from .survey import Survey, survey


def make_plan(project: Project) -> Plan:
    """Compare collection, specifications, weights, checkpoint and table. Nothing is decoded, trained or embedded."""
    return plan_of(take_state(project))


def plan_of(state: State, rows: TablePlan | None = None) -> Plan:
    """The plan of `sync` for a state; `rows` is its `plan_table`, where that is known."""
    project, resolved = state.project, state.resolved
    make_vectors = stages.lacks_word_vectors(project, resolved)
    train = assemble = None
    if state.checkpoint is None or (make_vectors and project.config.model.checkpoint is None):
        project.check_model(resolved)
        state, rows = replace(state, resolved=replace(resolved, checkpoint=None)), None
        if project.trains:
            size = f"{_num_weights(project) / 1e6:.3g} million weights"
            train = f"{project.model_name} ({size}): there is no checkpoint of these features, model and recipe"
        else:
            assemble = project.model_name
    rows = plan_table(state) if rows is None else rows
    waiting = state.survey.to_extract()
    to_merge = len(planned_merge(project).old_shards)
    lacking = {name for video in waiting for name in video.to_extract}
    model = project.model_name
    work = {
        stages.rate_name("extract", *lacking): len(waiting),
        "word_vectors": len(project.texts(split="train")) if make_vectors else 0,
        stages.rate_name("train", model): 0 if train is None else _num_samples(state),
        "assemble": int(assemble is not None),
        stages.rate_name("embed", model): len(rows.to_embed) + len(waiting),
        "merge": to_merge,
    }
    rates = {name: project.ledger.rate(name) for name, count in work.items() if count}
    seconds = [work[name] / rate for name, rate in rates.items() if rate]
    return Plan(
        num_videos=len(state.survey.videos),
        extract=tuple(video.name for video in waiting),
        make_word_vectors=make_vectors,
        train=train,
        assemble=assemble,
        embed=len(rows.to_embed),
        embed_later=len(waiting),
        delete=len(rows.delete_ids),
        merge=to_merge,
        estimated_seconds=sum(seconds) if len(seconds) == len(rates) else None,
        notes=tuple(_notes(state)),
    )


def _num_weights(project: Project) -> int:
    """How many numbers the model has that is trained here."""
    import torch

    from ...fuse import create_model, model_description

    options = {**project.widths(project.specs), **project.model_options}
    if "extra_dims" not in model_description(project.model_name)["config"]:
        options.pop("extra_dims", None)
    with torch.device("meta"):
        return sum(one.numel() for one in create_model(project.model_name, **options).parameters())


def _num_samples(state: State) -> int:
    """How many samples a training would see, about: of clips that are not known before extraction, one for a video."""
    recipe, videos = state.project.recipe, len(state.survey.to_extract())
    clips = len(examples_of(state)[0]) + videos
    return max(recipe.epochs * clips, recipe.min_steps * recipe.batch_size)


def _notes(state: State) -> Iterator[str]:
    project, checkpoint = state.project, state.checkpoint
    if doubted := state.doubted_deletion():
        yield f"note: {doubted}"
    unmatched = project.collection.unmatched
    if unmatched:
        rows = count_of(len(unmatched), "captioned path")
        yield f"note: {rows} not in the collection, such as {unmatched[0]!r}"
    if lost := project.questions.unmatched:
        yield f"note: {count_of(len(lost), 'question')} about videos not in the collection, such as {lost[0]!r}"
    yield from (f"note: {one}" for one in project.collection.notes)
    if random := state.resolved.features.random_note():
        yield f"note: {random}"
    durations = [(one.file.video, one.duration_seconds) for one in state.survey.videos if one.duration_seconds > 0]
    cut = [video.video for video, seconds in durations if dropped_spans(video, seconds)]
    if cut:
        videos = count_of(len(cut), "video")
        yield f"note: spans beyond the end of {videos} were left out, such as of {cut[0]!r}"
    if checkpoint is not None and checkpoint.examples_digest is not None:
        now, _ = examples_of(state)
        if now.digest != checkpoint.examples_digest:
            yield (
                f"note: the model was trained on {count_of(checkpoint.num_examples or 0, now.unit)}, and the training"
                f" split has changed since ({count_of(len(now), now.unit)} now): `frameloom train` trains anew"
            )


@contextmanager
def working(project: Project, console: Console) -> Iterator[Stage]:
    """Hold the store's lock and recover it; workers start when a stage first needs them."""
    _ = project.collection  # mistakes are refused before anything is written
    resolved = project.resolve()
    if resolved.checkpoint is None or resolved.given is not None:
        project.check_model(resolved)
    with ExitStack() as stack:
        stack.enter_context(project.locked(writer_lock))
        version = project.ledger.table_version(project.ledger_key(project.table))
        for line in [*project.store.sweep(), *project.table.recover(version)]:
            console.say(line)
        project.store.refresh()
        if refusal := next((one.refusal for one in project.store.problems if one.refusal is not None), None):
            raise refusal  # what cannot be read for the moment is not made again
        executors: list[Executor] = []

        def executor() -> Executor:
            if not executors:
                run = project.config.run
                options = {name: getattr(run, name) for name in ("workers", "scheduler", "resources", "stall_seconds")}
                executors.append(stack.enter_context(open_executor(**options)))
            return executors[0]

        yield Stage(project, resolved, executor, console)


def sync(project: Project, console: Console, *, allow_delete: bool = False) -> Report:
    """Extract, train where there is no checkpoint yet, embed, and delete the rows of clips that are gone.

    Raises ConfigError, before any work, where more rows would go than is likely, unless `allow_delete`.
    """
    with working(project, console) as stage:
        if stage.resolved.checkpoint is None and project.trains:
            _check_trainable(project)
        found, extracted = _extract(stage, allow_delete=allow_delete)
        done = {"extracted": extracted, "word_vectors": 0, "trained": 0, "assembled": 0}
        done |= {"embedded": 0, "written": 0, "deleted": 0, "merged": 0}
        if next(clip_states(project, found, None), None) is None:
            videos = count_of(len(found.videos), "video")
            untrained = f"nothing to train on or to embed: none of the {videos} can be used"
            state = state_of(project, stage.resolved, found)
        else:
            state, untrained = _trained(stage, found, done)
        if untrained:
            done["deleted"] = row_stages.delete(stage, state.stale_ids())
            done["merged"], notes = merge(stage)
            unindexed = frozenset(video.name for video in found.videos)
            return report_of(state, done, notes=(untrained, *notes), unindexed=unindexed)
        _embed(stage, state, done)
        done["merged"], notes = merge(stage)
        return report_of(state, done, notes=(*_notes(state), *notes))


def _check_trainable(project: Project) -> None:
    """Raises ConfigError, before anything is extracted, where no clip is there to train on, or no term of the loss."""
    from ...fuse import model_config

    given = "or a trained model with model.checkpoint; `frameloom init --preset ready` is for search without training"
    if project.recipe.task in ("open_answer", "multiple_choice"):  # which questions are for training, `train` says
        return
    there = [video for video in project.collection.videos if video.path.exists()]
    rows = {video.video: [span.split for span in video.spans] or [None] for video in there}
    if there and not any(in_split(split, "train") for splits in rows.values() for split in splits):
        splits = ", ".join(sorted({str(split) for splits in rows.values() for split in splits}))
        missing = len(project.collection.videos) - len(there)
        also = f", and {count_of(missing, 'video')} of the list are missing" if missing else ""
        raise ConfigError(
            f"nothing to train on: every row of the {count_of(len(there), 'video')} that are there is of the split"
            f" {splits}{also}: give rows of the split train, leave the split out, {given}"
        )
    config = model_config(project.model_name, **project.model_options)
    weights_of = getattr(config, "loss_weights", None)
    features, extra = project.config.features, project.config.features.extra_text
    names = {"video", "audio"} & {name for name in ("video", "audio") if getattr(features, name)}
    names |= {"text"} if features.text is not None and project.texts(split="train") else set()
    present = [name for name in config.all_modalities() if name in names or name in extra]
    if weights_of is not None and not any((weights := weights_of(present)).values()):
        options = " ".join(f"lambda_{''.join(side[0] for side in term)}: 1" for term in weights)
        weigh = f"set model.config: {{{options}}}, " if weights else ""
        raise ConfigError(
            f"nothing to learn: the training split has {' and '.join(present)}, of which the objective of"
            f" {project.model_name} compares nothing: {weigh}give captions with collection.captions, {given}"
        )


def _trained(stage: Stage, found: Survey, done: dict[str, int]) -> tuple[State, str]:
    """The state to embed, with a checkpoint; or a sentence that says why it is missing."""
    state = state_of(stage.project, stages.read_captions(stage), found)
    done["word_vectors"] = int(state.resolved.features.word_vectors != stage.resolved.features.word_vectors)
    if state.checkpoint is not None:
        return state, ""
    try:
        resolved = stages.train(stage, state)
    except InputError as error:
        if any(one.outcome in (Outcome.REJECTED, Outcome.QUARANTINED) for one in found.videos):
            return state, str(error)
        raise
    done["trained" if stage.project.trains else "assembled"] = 1
    return replace(state, resolved=resolved), ""


def _extract(stage: Stage, *, allow_delete: bool) -> tuple[Survey, int]:
    """The survey after extraction, and how many videos were extracted."""
    total = len(stage.project.collection.videos)
    with stage.console.progress("read", total, "files") as advance:
        found = survey(stage.project, on_hashed=lambda _path: advance(1))
    if not allow_delete:
        _refuse_doubted_deletion(state_of(stage.project, stage.resolved, found))
    return stages.extract(stage, found), len(found.to_extract())


def _refuse_doubted_deletion(state: State) -> None:
    if doubted := state.doubted_deletion():
        raise ConfigError(doubted)


def _embed(stage: Stage, state: State, done: dict[str, int]) -> None:
    plan = plan_table(state)
    done["embedded"] = len(plan.to_embed)
    done["written"], done["deleted"] = row_stages.embed(stage, state, plan)


def extract_only(project: Project, console: Console) -> Report:
    """`frameloom extract`: media and caption features, nothing else. A video counts as indexed when extracted."""
    with working(project, console) as stage:
        found, extracted = _extract(stage, allow_delete=True)  # deletes nothing
        has_clips = next(clip_states(project, found, None), None) is not None
        resolved = stages.read_captions(stage) if has_clips else stage.resolved
        return report_of(state_of(project, resolved, found), {"extracted": extracted})


def train_only(
    project: Project, console: Console, *, force: bool = False, renew_vectors: bool = True
) -> tuple[CheckpointRef, bool]:
    """`frameloom train`: train on the features as they are now. Returns the checkpoint, and whether it is a new one.

    Without `renew_vectors`, as for a trial, the project reads words afterwards as it did before.
    """
    with working(project, console) as stage:
        found = survey(project)
        if found.to_extract():
            console.say(f"note: {count_of(len(found.to_extract()), 'video')} not extracted yet: not trained on")
        if project.config.model.checkpoint is not None:
            raise FrameloomError("model.checkpoint is set, so nothing is trained here: remove it to train a model")
        if next(clip_states(project, found, None), None) is None:
            raise FrameloomError("no features to train on: run `frameloom extract` first")
        state = state_of(project, stages.read_captions(stage, renew_vectors=renew_vectors), found)
        checkpoint = state.checkpoint
        now = examples_of(state)[0].digest
        if checkpoint is not None and not force and checkpoint.examples_digest in (now, None):
            project.keep_word_vectors(state.resolved.features)  # another training may have replaced them since
            return checkpoint, False
        checkpoint = stages.train(stage, state, anew=force).checkpoint
        assert checkpoint is not None
        return checkpoint, True


def embed_only(project: Project, console: Console, *, allow_delete: bool = False) -> Report:
    """`frameloom embed`: bring the table up to date with the features and the checkpoint that are there."""
    with working(project, console) as stage:
        found = survey(project)
        resolved = stage.resolved if stage.resolved.checkpoint is None else stages.read_captions(stage)
        if resolved.checkpoint is None:  # also where new word vectors ask for another model
            raise FrameloomError("no checkpoint to embed with: run `frameloom train` first, or give model.checkpoint")
        state = state_of(project, resolved, found)
        if not allow_delete:
            _refuse_doubted_deletion(state)
        done = {"embedded": 0, "written": 0, "deleted": 0}
        _embed(stage, state, done)
        return report_of(state, done, notes=tuple(_notes(state)))


def status_of(project: Project) -> dict[str, Any]:
    """`frameloom status`: current, stale (with reasons) and failed items."""
    state = take_state(project)
    rows = plan_table(state)
    unindexed = frozenset(video.name for video in state.survey.videos)
    if state.checkpoint is not None:
        unindexed = frozenset(clip.clip.video for clip in rows.to_embed)
    return {
        **report_of(state, {}, unindexed=unindexed).as_dict(),
        "features": {
            str(modality): _describe(requests, state.survey)
            for modality, requests in state.resolved.features.streams().items()
        },
        "checkpoint": None if state.checkpoint is None else state.checkpoint.digest,
        "checkpoint_folder": None if state.checkpoint is None else str(state.checkpoint.folder),
        "rows": project.table.count() if project.table.exists() else 0,
        "index": None if (record := project.table.index_record()) is None else record.as_dict(),
        "store_bytes": project.store.num_bytes(),
        "plan": plan_of(state, rows).as_dict(),
    }


def _describe(requests: tuple[FeatureRequest, ...], found: Survey) -> dict[str, Any]:
    """The sources of a modality's rows: all its features in one line, and each with its own statuses."""
    streams = [one for video in found.videos for one in video.streams]
    return {
        "backbone": "+".join(one.name for one in requests),
        "dim": sum(one.spec.dim for one in requests),
        "weights": "+".join(one.weights_digest for one in requests),
        "streams": [
            {
                "backbone": one.name,
                "dim": one.spec.dim,
                "weights": one.weights_digest,
                "statuses": Counter(joined_status([each]) for each in streams if each.request.name == one.name),
            }
            for one in requests
        ],
    }
