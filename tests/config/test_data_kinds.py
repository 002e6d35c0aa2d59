"""Data and tokenizers of other tasks than translation, as a config file names them."""

from pathlib import Path

import pytest

from attnzoo.config.captioning import CaptionsConfig, ScenesConfig
from attnzoo.config.data import (
    ByteBpeTokenizerConfig,
    CharTokenizerConfig,
    FilePartConfig,
    FilesConfig,
    FileTokenizerConfig,
    HubSourceConfig,
    LabelledTextConfig,
    TaggedTextConfig,
    TextConfig,
    WordPieceTokenizerConfig,
)
from attnzoo.config.detection import BoxesConfig, VocConfig
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.images import (
    AugmentationConfig,
    DigitsConfig,
    HubImagesConfig,
    IdxConfig,
    ImageFolderConfig,
    ImagesConfig,
)
from attnzoo.config.interactions import InteractionsConfig
from attnzoo.config.loader import dump, load
from attnzoo.config.question_answering import MadeQuestionsConfig, QuestionsConfig
from attnzoo.config.reports import ReportsConfig
from attnzoo.config.speech import SpeechConfig, SplicedConfig
from attnzoo.config.stories import MadeStoriesConfig, StoriesConfig
from attnzoo.errors import UserError

# A task and a model that take each kind of data.
TASKS = {
    "text": ("causal_lm", "gpt2"),
    "labelled_text": ("sequence_classification", "bert"),
    "tagged_text": ("token_classification", "bert"),
    "images": ("image_classification", "vit"),
    "interactions": ("recommendation", "recommender"),
    "boxes": ("detection", "detr"),
    "questions": ("question_answering", "bidaf"),
    "made_questions": ("question_answering", "bert"),
    "stories": ("stories", "memory_network"),
    "made_stories": ("stories", "memory_network"),
    "captions": ("captioning", "show_attend_tell"),
    "scenes": ("captioning", "show_attend_tell"),
    "speech": ("speech", "{kind: bahdanau, source: sound_conv}"),
    "spliced": ("speech", "{kind: bahdanau, source: sound_conv}"),
    "files": ("summarisation", "t5"),
    "reports": ("summarisation", "t5"),
}


def written(path: Path, text: str) -> Path:
    path.write_text(f"name: some\ntraining: {{epochs: 1}}\n{text}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{kind: text, train: [a.gz, b.txt], validation_share: 0.1}",
            TextConfig(train=(Path("a.gz"), Path("b.txt")), validation_share=0.1),
        ),
        (
            "{kind: text, hub: {name: x, train_split: 'train[:9%]', test_split: null}, field: b}",
            TextConfig(
                hub=HubSourceConfig(name="x", train_split="train[:9%]", test_split=None), field="b"
            ),
        ),
        (
            "{kind: labelled_text, train: [qc.zip/qc/train.txt], format: trec, encoding: latin-1}",
            LabelledTextConfig(
                train=(Path("qc.zip/qc/train.txt"),), format="trec", encoding="latin-1"
            ),
        ),
        (
            "{kind: labelled_text, train: [t], header: false, text_column: '1', labels: [b, a]}",
            LabelledTextConfig(
                train=(Path("t"),), header=False, text_column="1", labels=("b", "a")
            ),
        ),
        ("{kind: tagged_text, train: [t]}", TaggedTextConfig(train=(Path("t"),))),
        ("{kind: reports, train: 7}", ReportsConfig(train=7)),
        (
            "{kind: files, train: {records: a.jsonl}, target_field: tldr, source_words: 400}",
            FilesConfig(
                train=FilePartConfig(records=Path("a.jsonl")),
                target_field="tldr",
                source_words=400,
            ),
        ),
        (
            "{kind: interactions, files: [a.inter], time_column: null}",
            InteractionsConfig(files=(Path("a.inter"),), time_column=None),
        ),
        (
            "{kind: questions, train: [a.tar.xz/*.json], test_share: 0.1}",
            QuestionsConfig(train=(Path("a.tar.xz/*.json"),), test_share=0.1),
        ),
        ("{kind: made_questions, facts: 3}", MadeQuestionsConfig(facts=3)),
        ("{kind: stories, test: [qa1_test.txt]}", StoriesConfig(test=(Path("qa1_test.txt"),))),
        ("{kind: made_stories, tasks: [2]}", MadeStoriesConfig(tasks=(2,))),
        (
            "{kind: captions, pictures: p.tar, train: [c.csv.gz], test_names: n}",
            CaptionsConfig(pictures=Path("p.tar"), train=(Path("c.csv.gz"),), test_names=Path("n")),
        ),
        ("{kind: scenes, side: 5}", ScenesConfig(side=5)),
        (
            "{kind: boxes, source: {kind: voc, path: v.tar, test: null}, size: [3, 4]}",
            BoxesConfig(source=VocConfig(path=Path("v.tar"), test=None), size=(3, 4)),
        ),
        (
            "{kind: speech, train: [a.tsv, b], test_share: 0.2}",
            SpeechConfig(train=(Path("a.tsv"), Path("b")), test_share=0.2),
        ),
        (
            "{kind: spliced, recordings: r.tar.xz, words: {'1': one}, silence: [0, 0.5]}",
            SplicedConfig(recordings=Path("r.tar.xz"), words={"1": "one"}, silence=(0.0, 0.5)),
        ),
        ("{kind: images}", ImagesConfig(source=DigitsConfig())),
        (
            "{kind: images, source: {kind: idx, directory: d}, augmentation: {flip: true, pad: 4}}",
            ImagesConfig(
                source=IdxConfig(directory=Path("d")),
                augmentation=AugmentationConfig(flip=True, pad=4),
            ),
        ),
        (
            "{kind: images, source: {kind: folder, path: c.tar.xz}, size: 32}",
            ImagesConfig(source=ImageFolderConfig(path=Path("c.tar.xz")), size=32),
        ),
        (
            "{kind: images, source: {kind: hub, name: n}}",
            ImagesConfig(source=HubImagesConfig(name="n")),
        ),
    ],
)
def test_data(tmp_path: Path, text: str, expected: object) -> None:
    kind = text[1:].split(",")[0].split("}")[0].removeprefix("kind: ")
    task, model = TASKS[kind]
    lines = f"task: {task}\nmodel: {model}\ndata: {text}"
    experiment = load(ExperimentConfig, written(tmp_path / "a.yaml", lines))
    assert experiment.data == expected
    (tmp_path / "b.yaml").write_text(dump(experiment), encoding="utf-8")
    assert load(ExperimentConfig, tmp_path / "b.yaml") == experiment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{kind: char}", CharTokenizerConfig()),
        (
            "{kind: byte_bpe, vocab_size: 500, mask: true}",
            ByteBpeTokenizerConfig(vocab_size=500, mask=True),
        ),
        ("{kind: wordpiece, sentinels: 9}", WordPieceTokenizerConfig(sentinels=9)),
        ("{kind: file, path: bert}", FileTokenizerConfig(path=Path("bert"))),
    ],
)
def test_tokenizers(tmp_path: Path, text: str, expected: object) -> None:
    assert (
        load(ExperimentConfig, written(tmp_path / "a.yaml", f"tokenizer: {text}")).tokenizer
        == expected
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {kind: text}", "a.yaml:3:1: data: give either files"),
        (
            "data: {kind: text, train: [a], hub: {name: x}}",
            "a.yaml:3:1: data: give either files",
        ),
        (
            "data: {kind: tagged_text, train: [a], validation_share: 0.6, test_share: 0.4}",
            "leave nothing to train on",
        ),
        ("data: {kind: speech}", "at least one of 'train', 'validation' and 'test' is wanted"),
        ("data: {kind: spliced, recordings: r, min_words: 9}", "min_words=9 exceeds max_words=7"),
        ("data: {kind: spliced, recordings: r, silence: [1]}", "silence=.* wanted the smallest"),
        ("data: {kind: labelled_text, train: [a], labels: [x, x]}", "a class is named twice"),
        ("data: {kind: images, validation_share: 0.5, test_share: 0.5}", "leave nothing"),
        ("data: {kind: images, augmentation: {crop_scale: 0}}", "crop_scale=0.0, wanted above 0"),
        ("data: {kind: images, augmentation: {magnitude: 11}}", "magnitude=11.0, wanted 0 to 10"),
        (
            "data: {kind: images, source: {kind: idx}}",
            r"a.yaml:3:\d+: data.source.directory: missing",
        ),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(ExperimentConfig, written(tmp_path / "a.yaml", text))
    assert "\n" not in str(caught.value)
