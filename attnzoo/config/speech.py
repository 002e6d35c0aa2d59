"""Settings of speech recognition: sounds with their texts, spliced strings, and encoders."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import (
    DropRate,
    Interval,
    Layers,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.parts import PartsConfig
from attnzoo.config.source_config import SourceConfig


@config
class SpeechConfig(PartsConfig):
    """Sounds with their texts: tables of files, or folders with a text beside each sound.

    A table has a row for each sound: its path, relative to the table, its text, and where wanted
    the seconds of its start and end in a longer file. A folder is searched for sounds; the text of
    `a.wav` is that of `a.txt`, or the line of `a` in a `*.trans.txt` beside it (LibriSpeech).
    """

    kind: Literal["speech"] = "speech"
    path_column: Annotated[str, NotEmpty] = "path"
    """Column of the file."""
    text_column: Annotated[str, NotEmpty] = "text"
    """Column of the text."""
    start_column: Annotated[str, NotEmpty] = "start"
    """Column of the start in seconds; a table may lack it."""
    end_column: Annotated[str, NotEmpty] = "end"
    """Column of the end in seconds; a table may lack it."""
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of tables and texts; a byte order mark overrides it."""
    max_seconds: Annotated[float, Positive] = 30.0
    """Longest sound; longer ones are skipped, counted and reported."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the rows of a table that may be skipped; more is an error."""


@config
class SplicedConfig:
    """Recordings of single words by several speakers, spliced into strings with known times.

    The name of a recording says its word, speaker and number: `7_theo_12.wav`. Each string is of
    one speaker, and has random words with silence before and after each.
    """

    kind: Literal["spliced"] = "spliced"
    recordings: Path
    """Folder, zip or tar (compressed or not) with the recordings."""
    words: dict[str, str] | None = None
    """Text of each word of a name; null: as in the name."""
    test_speaker: str | None = None
    """Speaker of the test part, who is in no other part; null: the speakers of the others."""
    held_out: Annotated[int, Positive] = 5
    """Number of recordings of each word and speaker, the first ones, of which validation strings
    are made, and test strings if they have no speaker of their own; they are in no training
    string."""
    min_words: Annotated[int, Positive] = 3
    """Words of the shortest string."""
    max_words: Annotated[int, Positive] = 7
    """Words of the longest string of training and validation."""
    test_words: tuple[Annotated[int, Positive], ...] = (3, 7)
    """Words of the shortest and of the longest string of the test part."""
    silence: tuple[Annotated[float, NotNegative], ...] = (0.0, 0.1)
    """Seconds of the shortest and of the longest silence before, between and after words."""
    speed: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0
    """Largest change of a training recording's speed, up or down (and with it of its pitch: Ko et
    al. 2015): 0.1 is 10 %. Each string has one for all its words."""
    noise: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Largest standard deviation of white noise in training strings, as a share of the sound's."""
    train: Annotated[int, Positive] = 3_000
    """Training strings."""
    validation: Annotated[int, Positive] = 200
    """Validation strings."""
    test: Annotated[int, Positive] = 200
    """Test strings."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the strings; independent of the training seed."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the recordings that may be skipped; more is an error."""

    def __post_init__(self) -> None:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words={self.min_words} exceeds max_words={self.max_words}")
        for name in ("test_words", "silence"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name}={list(pair)}; wanted the smallest and the largest")


@config
class SpecAugmentConfig:
    """Random masks over spectrograms in training (Park et al. 2019), without time warping."""

    frequency_masks: Annotated[int, NotNegative] = 2
    """Number of bands of mels that are hidden."""
    frequency_width: Annotated[int, NotNegative] = 10
    """Widest band, in mels."""
    time_masks: Annotated[int, NotNegative] = 2
    """Number of spans of time that are hidden."""
    time_width: Annotated[int, NotNegative] = 20
    """Longest span, in frames of 10 ms."""


@config
class SoundConfig(SourceConfig):
    """Settings of a log-mel spectrogram, which all encoders of sounds read."""

    reads = "sound"
    rate: Annotated[int, Interval(ge=1000, le=192_000)] = 16_000
    """Samples in a second; sounds of other rates are converted."""
    mels: Annotated[int, Positive] = 80
    """Number of mel filters, from 0 Hz to half the rate."""
    normalise: bool = False
    """Each mel has mean 0 and variance 1 over each sound."""
    augment: SpecAugmentConfig | None = None
    """Masks in training; null: none."""

    @property
    def step(self) -> int:
        """Frames of 10 ms from one feature to the next."""
        raise NotImplementedError(f"{type(self).__name__}.step")


@config
class SoundConvConfig(SoundConfig):
    """Two convolutions that shorten the sound four times, and recurrent layers or none."""

    kind: Literal["sound_conv"] = "sound_conv"
    dim: Annotated[int, Positive] = 256
    """Width of the features."""
    recurrent: Annotated[int, NotNegative] = 0
    """Number of bidirectional GRU layers over the convolutions, of `dim` / 2 units each way."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate before each recurrent layer."""

    @property
    def step(self) -> int:
        """Frames of 10 ms from one feature to the next: 4."""
        return 4


@config
class SoundPyramidConfig(SoundConfig):
    """Pyramid of bidirectional LSTMs, each of which halves the length (Chan et al. 2016)."""

    kind: Literal["sound_pyramid"] = "sound_pyramid"
    dim: Annotated[int, Positive] = 512
    """Width of the features: half of it each way."""
    halvings: Annotated[int, Layers] = 3
    """Number of layers that halve the length, after one that does not."""
    dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the input of every layer but the first."""

    @property
    def step(self) -> int:
        """Frames of 10 ms from one feature to the next: 2^halvings."""
        return 2**self.halvings


@config
class SoundWhisperConfig(SoundConfig):
    """Convolutions of Whisper over a window of fixed length (Radford et al. 2022, section 2.2).

    Shorter sounds are followed by silence, which the model reads too.
    """

    kind: Literal["sound_whisper"] = "sound_whisper"
    dim: Annotated[int, Positive] = 512
    """Width of the features."""
    length: Annotated[int, Positive] = 1_500
    """Features of a window, one every 20 ms."""

    @property
    def step(self) -> int:
        """Frames of 10 ms from one feature to the next: 2."""
        return 2

    @property
    def slots(self) -> int:
        """Longest source in features: the window."""
        return self.length
