"""Data settings: sentence pairs, text, labels and tags."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.captioning import CaptionsConfig, ScenesConfig
from attnzoo.config.detection import BoxesConfig
from attnzoo.config.fields import (
    DropRate,
    Interval,
    Kind,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.images import ImagesConfig
from attnzoo.config.interactions import InteractionsConfig
from attnzoo.config.parts import PartsConfig, check_shares
from attnzoo.config.question_answering import MadeQuestionsConfig, QuestionsConfig
from attnzoo.config.renamed import former_names
from attnzoo.config.reports import ReportsConfig
from attnzoo.config.speech import SpeechConfig, SplicedConfig
from attnzoo.config.stories import MadeStoriesConfig, StoriesConfig
from attnzoo.config.tokenizers import (  # noqa: F401  (found here too)
    BpeTokenizerConfig,
    ByteBpeTokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    FileTokenizerConfig,
    Tokenizer,
    UnigramTokenizerConfig,
    WordPieceTokenizerConfig,
    WordTokenizerConfig,
)


@config
class CldrConfig:
    """Embedded corpus: phrases composed from the Unicode CLDR, with known word links."""

    kind: Literal["cldr"] = "cldr"
    source_locale: str = "en"
    """Locale to translate from, as babel names it (en, de, pt_BR, zh_Hant)."""
    target_locale: str = "fr"
    """Locale to translate into."""
    train: Annotated[int, Positive] = 30_000
    """Training pairs."""
    validation: Annotated[int, Positive] = 1_000
    """Validation pairs; none of their phrases is in the training part."""
    test: Annotated[int, Positive] = 1_000
    """Test pairs; none of their phrases is in the other parts."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the composition and of the division into parts; independent of the training seed."""

    @property
    def languages(self) -> tuple[str, str]:
        """Languages of the two sides."""
        return self.source_locale, self.target_locale


@config
class FilePartConfig:
    """One part of a data set: two plain files, a table, or records; compressed or not."""

    source: Path | None = None
    """File of source sentences, one per line."""
    target: Path | None = None
    """File of target sentences, one per line."""
    links: Path | None = None
    """File of Pharaoh word links, one line per pair: i-j sure, i?j possible."""
    table: Path | None = None
    """Tab-separated file with both sides, instead of `source` and `target`."""
    records: Path | None = None
    """JSON lines with both sides, instead of `source` and `target`: a text, or a list of texts. A
    list is the sentences of a source, and the references of a target, each of which makes a
    pair."""

    def __post_init__(self) -> None:
        pair = (self.source is not None, self.target is not None)
        whole = [name for name in ("table", "records") if getattr(self, name) is not None]
        if not whole and pair != (True, True):
            raise ValueError("give either 'source' and 'target', or 'table', or 'records'")
        if whole and (len(whole) > 1 or any(pair) or self.links is not None):
            others = "'source', 'target', 'links' and " + repr(
                "records" if whole[0] == "table" else "table"
            )
            raise ValueError(f"{whole[0]!r} excludes {others}")


@config
class FilesConfig:
    """Parallel text in local files; paths are relative to the current directory."""

    kind: Literal["files"] = "files"
    train: FilePartConfig | None = None
    """Training part; a part that is left out is empty."""
    validation: FilePartConfig | None = None
    """Validation part."""
    test: FilePartConfig | None = None
    """Test part."""
    source_language: str = ""
    """Language of the source side, for scores and pictures; ja, ko and zh have their own
    scoring."""
    target_language: str = ""
    """Language of the target side."""
    source_column: Annotated[int, NotNegative] = 0
    """Column of a table with the source sentence, counted from 0."""
    target_column: Annotated[int, NotNegative] = 1
    """Column of a table with the target sentence, counted from 0."""
    links_column: Annotated[int, NotNegative] | None = None
    """Column of a table with Pharaoh links, counted from 0; null: no links."""
    source_field: Annotated[str, NotEmpty] = "source"
    """Field of records with the source."""
    target_field: Annotated[str, NotEmpty] = "target"
    """Field of records with the target."""
    source_words: Annotated[int, Positive] | None = None
    """Number of words of a source that are read, the first ones (400 in See et al. 2017); null:
    all."""
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of the files (latin-1, cp1252, utf-16-le, ...); a byte order mark overrides it."""
    links_reversed: bool = False
    """Links give the target word first."""
    links_one_based: bool = False
    """Links count words from 1."""
    max_words: Annotated[int, Positive] = 1_000
    """Longest side of a pair in words; longer pairs are skipped, counted and reported."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the pairs of a part that may be skipped; more is an error."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training pairs, the first ones; null: all."""

    def __post_init__(self) -> None:
        if self.train is None and self.validation is None and self.test is None:
            raise ValueError("at least one of 'train', 'validation' and 'test' is wanted")
        parts = (self.train, self.validation, self.test)
        if len({part.records is None for part in parts if part is not None}) > 1:
            raise ValueError("'records' of one part want those of all parts")
        if self.source_words is not None and self.links_column is not None:
            raise ValueError("source_words cuts sources, so that links_column has to be null")
        if self.source_column == self.target_column:
            raise ValueError(f"source_column and target_column are both {self.source_column}")

    @property
    def fields(self) -> tuple[str, str] | None:
        """Fields of source and target in records; None: the files are text."""
        parts = (self.train, self.validation, self.test)
        there = any(part is not None and part.records is not None for part in parts)
        return (self.source_field, self.target_field) if there else None

    @property
    def languages(self) -> tuple[str, str]:
        """Languages of the two sides."""
        return self.source_language, self.target_language


@config
class HubSourceConfig:
    """Data set of the Hugging Face `datasets` library, by name, or one of its local builders."""

    name: Annotated[str, NotEmpty]
    """Name of the data set, or json, csv, text, parquet together with `data_files`."""
    config: str | None = None
    """Configuration of the data set, if it has several (for instance en-fr)."""
    revision: str | None = None
    """Commit or tag of the data set, so that a run can be repeated exactly."""
    data_files: dict[str, Path] | None = None
    """Local file of each split, for the builders json, csv, text and parquet."""
    train_split: str | None = "train"
    """Split to train on; slices are written as in `datasets`: train[:90%]; null: none."""
    validation_split: str | None = "validation"
    """Split to validate on."""
    test_split: str | None = "test"
    """Split to test on."""


@config
class HubConfig(HubSourceConfig):
    """Data set of the Hugging Face `datasets` library, by name, or one of its local builders."""

    kind: Literal["hub"] = "hub"
    source_field: Annotated[str, NotEmpty] = "en"
    """Column of the source sentence; a dot selects a nested field: translation.en."""
    target_field: Annotated[str, NotEmpty] = "fr"
    """Column of the target sentence."""
    source_language: str = ""
    """Language of the source side."""
    target_language: str = ""
    """Language of the target side."""
    max_words: Annotated[int, Positive] = 1_000
    """Longest side of a pair in words; longer pairs are skipped, counted and reported."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the pairs of a part that may be skipped; more is an error."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training pairs, the first ones; null: all."""

    @property
    def languages(self) -> tuple[str, str]:
        """Languages of the two sides."""
        return self.source_language, self.target_language


@config
class SyntheticConfig:
    """Sequences of symbols to copy, reverse or sort, with the true word links."""

    kind: Literal["synthetic"] = "synthetic"
    task: Literal["copy", "reverse", "sort"] = "copy"
    """Target sequence: the source itself (copy), reversed, or sorted."""
    symbols: Annotated[int, Interval(gt=0, le=1_000_000)] = 64
    """Number of different symbols."""
    min_length: Annotated[int, Positive] = 1
    """Length of the shortest sequence, in symbols."""
    max_length: Annotated[int, Interval(gt=0, le=1_000)] = 20
    """Length of the longest sequence, in symbols."""
    train: Annotated[int, Positive] = 10_000
    """Training pairs."""
    validation: Annotated[int, Positive] = 500
    """Validation pairs."""
    test: Annotated[int, Positive] = 500
    """Test pairs."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the random sequences; independent of the training seed."""

    def __post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length={self.min_length} exceeds max_length={self.max_length}")

    @property
    def languages(self) -> tuple[str, str]:
        """Languages of the two sides."""
        return "symbols", "symbols"


@config
class TextConfig:
    """Text for language models: files, compressed or not, or a column of a data set."""

    kind: Literal["text"] = "text"
    train: tuple[Path, ...] = ()
    """Training files, folders, patterns such as part-*.txt.gz, or addresses (gs://, s3://, hf://).
    A path may continue into a zip as if the zip were a folder. One .bin with its .idx is a corpus
    of ids that Megatron-LM has tokenized."""
    validation: tuple[Path, ...] = ()
    """Validation files."""
    test: tuple[Path, ...] = ()
    """Test files."""
    hub: HubSourceConfig | None = None
    """Data set of the Hugging Face `datasets` library, instead of files."""
    field: Annotated[str, NotEmpty] = "text"
    """Column of the data set, or field of the records, with the text of a document."""
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of the files (latin-1, cp1252, utf-16-le, ...); a byte order mark overrides it."""
    documents: Literal["files", "lines", "blank_lines", "records"] = "files"
    """Unit of a document: a whole file, a line, the text between blank lines, or a record of
    .jsonl, .csv, .tsv and .parquet files."""
    validation_share: Annotated[float, DropRate] = 0.0
    """Share of the training text, at its end, to validate on where no validation part is given (0.1
    in nanoGPT). With whole files as documents the cut may fall inside one; other documents stay
    whole."""
    test_share: Annotated[float, DropRate] = 0.0
    """Share of the training text, at its very end, to test on where no test part is given."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training documents, the first ones; null: all."""

    def __post_init__(self) -> None:
        _check_source(self.train or self.validation or self.test, self.hub)
        check_shares(self)


@config
class DrawnConfig(PartsConfig):
    """Settings of labelled and tagged text: the three parts, in files or of a data set."""

    hub: HubSourceConfig | None = None
    """Data set of the Hugging Face `datasets` library, instead of files."""
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of the files (latin-1, cp1252, utf-16-le, ...); a byte order mark overrides it."""

    def __post_init__(self) -> None:
        _check_source(self.train or self.validation or self.test, self.hub)
        check_shares(self)


@config
class LabelledTextConfig(DrawnConfig):
    """Texts, or pairs of texts, with one class each: tables in files, or a data set."""

    kind: Literal["labelled_text"] = "labelled_text"
    format: Literal["tsv", "csv", "jsonl", "parquet", "trec", "rte", "lines"] = "tsv"
    """File format. tsv has no quoting, csv has. trec has lines `CLASS:fine the text`, with columns
    text, label and fine. rte is the XML of the entailment challenges, with columns text, hypothesis
    and label. lines has one text a line, of the class that the file is named after."""
    header: bool = True
    """The first line of tsv and csv files has the column names; otherwise they are "0", "1", ..."""
    text_column: Annotated[str, NotEmpty] = "text"
    """Column of the text, or of the first text of a pair."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the examples of a file that may be skipped; more is an error."""
    second_column: str | None = None
    """Column of the second text of a pair; null: single texts."""
    label_column: Annotated[str, NotEmpty] = "label"
    """Column of the class."""
    labels: tuple[str, ...] | None = None
    """Classes in the order of their numbers; null: those of the training part, sorted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels={list(self.labels)}: a class is named twice")


@config
class TaggedTextConfig(DrawnConfig):
    """Sentences with one tag per word: CoNLL columns in files, or a data set."""

    kind: Literal["tagged_text"] = "tagged_text"
    train: tuple[Path, ...] = ()
    """Training files: one word per line, a blank line after each sentence; compressed or not."""
    word_column: int = 0
    """Column of the word, counted from 0, with whitespace between columns; -1: the last."""
    tag_column: int = -1
    """Column of the tag; -1: the last."""
    words_field: Annotated[str, NotEmpty] = "tokens"
    """Column of the data set with the list of words."""
    tags_field: Annotated[str, NotEmpty] = "tags"
    """Column of the data set with the list of tags."""
    tags: tuple[str, ...] | None = None
    """Tags in the order of their numbers; null: those of the training part, sorted."""


Data = Annotated[
    CldrConfig
    | FilesConfig
    | HubConfig
    | SyntheticConfig
    | ReportsConfig
    | TextConfig
    | LabelledTextConfig
    | TaggedTextConfig
    | InteractionsConfig
    | ImagesConfig
    | BoxesConfig
    | QuestionsConfig
    | MadeQuestionsConfig
    | StoriesConfig
    | MadeStoriesConfig
    | CaptionsConfig
    | ScenesConfig
    | SpeechConfig
    | SplicedConfig,
    Kind,
]


def _check_source(files: tuple[Path, ...], hub: HubSourceConfig | None) -> None:
    if bool(files) == (hub is not None):
        raise ValueError("give either files ('train', 'validation', 'test') or 'hub'")


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
