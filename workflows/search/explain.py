"""Why a clip answers: what it looks and sounds like apart, which words of the question count, which seconds show it.

Words are judged by leaving each out, as Zeiler and Fergus (ECCV 2014) cover parts of a picture: what the clip's cosine
with the question loses is what the word is worth. Seconds are judged alone, each embedded as a clip of its own from the
stored features. Both are taken from the model that answered, so that they hold for any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..._vocabulary import InputError
from ...store import quoted
from ..sync import take_state
from .results import Explanation, Result, Stretch, Worth
from .session import SENSES, Query, SearchSession
from .timeline import embed_windows, windows_of

MAX_WORDS = 100
MAX_WINDOWS = 60
SHORTEST_SECONDS = 1.0


def explained(session: SearchSession, query: Query, results: Sequence[Result]) -> list[Result]:
    """The results with their `explanation`. Raises InputError for a question of more than 100 words."""
    words = (query.text or "").split()
    if len(words) > MAX_WORDS:
        raise InputError(f"a question of {len(words)} words: up to {MAX_WORDS} can be explained")
    asked, _ = session.vector(query)
    without = []
    if words:
        sample = session.sample(query)
        for place in range(len(words)):
            rest = " ".join([*words[:place], *words[place + 1 :]])
            try:
                without.append(session.embed({**sample, "text": [session.words(rest)]}) if rest else None)
            except InputError:  # no other word is known: all of the score is this one's
                without.append(None)
    clips = {state.clip.clip_id: state for state in take_state(session.project).clips}
    found = []
    for result in results:
        rows = session.table.get(
            where=f"clip = {quoted(result.clip)} AND model = {quoted(session.checkpoint.digest)}",
            columns=["modalities", "vector"],
        )
        vectors = {row["modalities"]: np.asarray(row["vector"], np.float32) for row in rows}
        state = clips.get(result.clip)
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
                )
            )
        )
    return found
