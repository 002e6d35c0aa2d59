"""Stories: files of bAbI's format, batches of memories, and made stories whose facts are known."""

import re
from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.stories import MadeStoriesConfig, StoriesConfig
from attnzoo.data.made_stories import load_made_stories
from attnzoo.data.stories import Stories, StoryPlan, Words, load_stories, read_stories
from attnzoo.errors import UserError

BABI = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Sandra moved to the garden.
6 Where is Daniel? \thallway\t4
1 Mary got the milk there.
2 What is Mary carrying?\tmilk,apple\t1
"""


def test_a_file_of_babi_is_read_as_it_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "qa1.txt"
    path.write_text(BABI)
    first, second, third = read_stories(path)
    assert first.sentences[0] == ("mary", "moved", "to", "the", "bathroom")
    assert (len(first.sentences), first.answer, first.supports) == (2, "bathroom", (0,))
    # Numbers of sentences count questions too; the story's do not.
    assert (len(second.sentences), second.supports) == (4, (2,))
    assert (third.answer, third.place, third.task) == ("milk,apple", f"{path}:8", "qa1")
    parts = load_stories(StoriesConfig(train=(path,), test=(path,), limit=2))
    assert (len(parts.train), len(parts.test)) == (2, 3)


def test_lines_that_are_no_story_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(BABI * 9 + "no number\n1 Who?\tme\t1\n2 Hi.\n3 Who?\tyou\t9\n4 Who?\t\t\n")
    with pytest.raises(UserError, match=rf"4 of 31 .* a line without a number \({path}:73\)"):
        load_stories(StoriesConfig(train=(path,)))
    report = load_stories(StoriesConfig(train=(path,), max_skipped=0.2)).reports[0]
    assert sorted(report.skipped) == [
        "a line without a number",
        "a supporting sentence that is not in the story",
        "no answer",
        "no sentence before the question",
    ]
    path.write_bytes(b"1 caf\xe9 is here.\n")
    with pytest.raises(UserError, match="no usable question in 1"):
        load_stories(StoriesConfig(train=(path,)))


def test_memories_are_the_latest_sentences_the_latest_first(tmp_path: Path) -> None:
    path = tmp_path / "qa1.txt"
    path.write_text(BABI)
    stories = Stories(list(read_stories(path)))
    words = Words.of(stories)
    words.write(tmp_path / "words.json")
    assert Words.read(tmp_path / "words.json") == words
    batch = StoryPlan(stories, words, 4, 3, shuffle=False).batch(0)
    assert batch["rows"].tolist() == [0, 1, 2, -1]
    assert batch["valid"].sum(1).tolist() == [2, 3, 1, 0]
    latest = [words.name(i) for i in batch["stories"][1, 0].tolist() if i]
    assert latest == ["sandra", "moved", "to", "the", "garden"]
    # Sentence 2 of 4 is the second latest; sentence 0 of the first story too.
    assert np.argwhere(batch["supports"]).tolist() == [[0, 1], [1, 1], [2, 0]]
    labels = [words.name(i) for i in batch["labels"][:3].tolist()]
    assert labels == ["bathroom", "hallway", "milk,apple"]
    assert words.numbers(["zebra"]) == [1]


def test_empty_memories_keep_the_order_and_the_supports() -> None:
    stories = load_made_stories(MadeStoriesConfig(train=40, validation=1, test=1)).train
    words = Words.of(stories)
    plan = StoryPlan(stories, words, 40, 60, time_noise=0.5, linear_epochs=1)
    batches = [plan.batch(step) for step in range(3)]
    assert [bool(b["linear"].all()) for b in batches] == [True, False, False]
    assert any((b["valid"] & (b["stories"] == 0).all(-1)).any() for b in batches)
    assert not np.array_equal(batches[0]["stories"], batches[1]["stories"])
    for batch in batches:
        for place, row in enumerate(batch["rows"]):
            said = [[i for i in s if i] for s in batch["stories"][place].tolist() if any(s)]
            one = stories.items[row]
            wanted = [words.numbers(sentence) for sentence in one.sentences[::-1]]
            assert said == wanted[: len(said)]
            found = {tuple(s[s != 0]) for s in batch["stories"][place][batch["supports"][place]]}
            assert found <= {tuple(words.numbers(one.sentences[i])) for i in one.supports}
    same = plan.batch(1)
    assert all(np.array_equal(same[name], batches[1][name]) for name in same)


def simulate(sentences: list[str], question: str) -> str:
    """Answer a made question by its own account of the story: places of people and objects."""
    person, holder, place, trail = {}, {}, {}, {}
    for sentence in sentences:
        who, verb, *_, what = sentence.split()
        if what in ("football", "apple", "milk"):
            if verb in ("got", "took", "grabbed", "picked"):
                holder[what] = who
                place[what] = person[who]
                trail.setdefault(what, []).append(person[who])
            else:
                holder.pop(what)
        else:
            person[who] = what
            for thing, by in holder.items():
                if by == who:
                    place[thing] = what
                    trail[thing].append(what)
    words = re.findall(r"\w+", question)
    if "before" in words:
        visited = trail[words[3]]
        last = max(i for i, x in enumerate(visited) if x == words[-1])
        return next(x for x in visited[last::-1] if x != words[-1])
    return person[words[2]] if words[2] in person else place[words[3]]


@pytest.mark.parametrize("task", [1, 2, 3])
def test_made_answers_follow_from_the_supporting_sentences(task: int) -> None:
    config = MadeStoriesConfig(tasks=(task,), train=150, validation=5, test=5)
    parts = load_made_stories(config)
    assert parts.fingerprint() == load_made_stories(config).fingerprint()
    for one in parts.train.items:
        sentences = [" ".join(words) for words in one.sentences]
        assert simulate(sentences, one.text) == one.answer, (sentences, one.text)
        assert len(set(one.supports)) == task
        if task < 3:  # a place before another one may have been carried to by somebody else
            facts = [sentences[i] for i in sorted(one.supports)]
            assert one.answer in " ".join(facts).split()
        else:
            assert {one.answer, one.text.split()[-2]} <= {
                sentences[i].split()[-1] for i in one.supports
            }
