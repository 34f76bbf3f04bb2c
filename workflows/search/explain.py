"""Why a clip answers: what it looks and sounds like apart, which words of the question count, which seconds show it.

Words are judged by leaving each out, as Zeiler and Fergus (ECCV 2014) cover parts of a picture: what the clip's cosine
with the question loses is what the word is worth. Seconds are judged alone, each embedded as a clip of its own from the
stored features. Both are taken from the model that answered, so that they hold for any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..._vocabulary import InputError
from ...extract.speech import segments_of
from ...store import quoted
from ..sync import ClipState, State, take_state
from .results import Explanation, Result, Said, Stretch, Worth
from .session import SENSES, Query, SearchSession
from .timeline import embed_windows, windows_of

MAX_WORDS = 100
MAX_WINDOWS = 60
SHORTEST_SECONDS = 1.0


def explained(
    session: SearchSession, query: Query, results: Sequence[Result], *, collection: State | None = None
) -> list[Result]:
    """The results with their `explanation`. Raises InputError for a question of more than 100 words.

    Args:
        session: what has answered.
        query: the question.
        results: its answers.
        collection: its clips, where the caller has looked at them; they are looked at anew without it.
    """
    words = (query.text or "").split()
    if len(words) > MAX_WORDS:
        raise InputError(f"a question of {len(words)} words: up to {MAX_WORDS} can be explained")
    is_of_speech = session.asks_speech(query)
    asked = np.zeros(0, np.float32) if is_of_speech else session.vector(query)[0]
    without = []
    if words and not is_of_speech:
        sample = session.sample(query)
        for place in range(len(words)):
            rest = " ".join([*words[:place], *words[place + 1 :]])
            try:
                without.append(session.embed({**sample, "text": [session.words(rest)]}) if rest else None)
            except InputError:  # no other word is known: all of the score is this one's
                without.append(None)
    clips = {state.clip.clip_id: state for state in (collection or take_state(session.project)).clips}
    found = []
    for result in results:
        state = clips.get(result.clip)
        said = () if state is None or not words else said_in(session, state, words)
        if is_of_speech:
            found.append(result.replaced(explanation=Explanation(senses={}, words=(), seconds=(), speech=said)))
            continue
        rows = session.table.get(
            where=f"clip = {quoted(result.clip)} AND model = {quoted(session.checkpoint.digest)}",
            columns=["modalities", "vector"],
        )
        vectors = {row["modalities"]: np.asarray(row["vector"], np.float32) for row in rows}
        if state is None or result.modalities not in vectors:  # the collection has changed since
            raise InputError(f"the clip {result.clip} is not in the collection any more: run `frameloom sync`")
        own = vectors[result.modalities]
        start, end = state.clip.start_seconds, state.clip.end_seconds
        length = max(SHORTEST_SECONDS, (end - start) / MAX_WINDOWS)
        windows = start + windows_of(end - start, window=length, step=length)
        alone = embed_windows(session, state.inputs, windows, result.modalities) @ asked
        found.append(
            result.replaced(
                explanation=Explanation(
                    senses={
                        "+".join(SENSES.get(one, one) for one in name.split("+")): float(vectors[name] @ asked)
                        for name in session.project.config.store.combinations
                        if name in vectors and "text" not in name.split("+")
                    },
                    words=tuple(
                        Worth(word=word, value=float(own @ asked) - (0.0 if other is None else float(own @ other)))
                        for word, other in zip(words, without, strict=True)
                    ),
                    seconds=tuple(
                        Stretch(start_seconds=begin, end_seconds=stop, value=float(value))
                        for (begin, stop), value in zip(windows.tolist(), alone, strict=True)
                    ),
                    speech=said,
                )
            )
        )
    return found


def said_in(session: SearchSession, state: ClipState, words: Sequence[str]) -> tuple[Said, ...]:
    """The segments of a clip in which words are said, or other forms of them; those with the most of them first."""
    if state.speech is None:
        return ()
    from gensim.parsing.porter import PorterStemmer  # the index has stems of English, too

    def stem(word: str) -> str:
        return PorterStemmer().stem("".join(part for part in word.casefold() if part.isalnum()))  # type: ignore[no-any-return]

    clip, asked = state.clip, {word: stem(word) for word in words}
    found = []
    for segment in segments_of(session.project.store.read_span(state.speech, clip.start_seconds, clip.end_seconds)):
        heard = {*map(stem, segment.text.split())} - {""}
        if matching := tuple(word for word, one in asked.items() if one in heard):
            span = {"start_seconds": segment.start_seconds, "end_seconds": segment.end_seconds}
            found.append(Said(**span, text=segment.text, words=matching))
    return tuple(sorted(found, key=lambda one: (-len(one.words), one.start_seconds)))
