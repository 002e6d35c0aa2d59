"""`alignment_heads.py FOLDER RECORDINGS`: find the heads of a Whisper that align words, by search.

Strings of spoken words with known times (`data.kind: spliced`) are read with their known text. Each
head is scored alone by the distance between the word boundaries that dynamic time warping finds and
the middle of the silence between the words; then the best heads are joined one by one while the
median on the first half of the strings falls. What is printed is of the second half.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np

import attnzoo
from attnzoo.alignment.monotonic import token_starts
from attnzoo.cli.common import run
from attnzoo.config.speech import SplicedConfig
from attnzoo.data.spliced import load_spliced
from attnzoo.tasks.speech import features
from attnzoo.tasks.transcription import Transcriber

DIGITS = "zero one two three four five six seven eight nine".split()
STEP = 0.02


def cuts(weights: np.ndarray, word_ids: list[int], width: int, late: int = 0) -> np.ndarray:
    """Return the starts of all words but the first in seconds; ``late=1``: by the reading rows."""
    starts = token_starts(weights[:, late:], width) * STEP
    firsts = [word_ids.index(word) for word in range(1, max(word_ids) + 1)]
    return starts[firsts]


def main() -> int:
    """Search the heads, and print them with the distances of their boundaries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("--strings", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    opened: Any = attnzoo.open(arguments.folder, source_language="en")
    task, model = opened.task, opened.model
    data: Any = load_spliced(
        SplicedConfig(
            recordings=arguments.recordings,
            words={str(i): name for i, name in enumerate(DIGITS)},
            test_words=(4, 7),
            silence=(0.05, 0.25),
            train=1,
            validation=1,
            test=arguments.strings,
            seed=arguments.seed,
        )
    ).test
    every = tuple(itertools.product(range(model.layers), range(model.heads)))
    reader = Transcriber(model, task.tokenizer, heads=every, rules=task.hearing.rules)
    width = task.hearing.width
    read, true = [], []
    for row in range(len(data)):
        sound, times = data.sound(row, task.rate), data.times[row]
        target = task.tokenizer.encode(" " + ", ".join(data.texts[row].split()) + ".")
        source = task.collate([sound], 1)["source"]
        weights = reader.aligned(source, [target])[0]
        read.append((weights[:, :, : features(model, len(sound), task.rate)], target.word_ids))
        true.append(np.asarray([(a[1] + b[0]) / 2 for a, b in itertools.pairwise(times)]))

    def errors(chosen: list[int], rows: range, late: int = 0) -> np.ndarray:
        found = [
            np.abs(cuts(read[row][0][chosen], read[row][1], width, late) - true[row])
            for row in rows
        ]
        return np.concatenate(found)

    half = len(data) // 2
    first, second = range(half), range(half, len(data))

    def told(name: str, chosen: list[int], late: int = 0) -> None:
        found = errors(chosen, second, late)
        near = np.mean(found < 0.1)
        print(f"{name:34} median {np.median(found):.3f} s, within 0.1 s {near:.0%}", flush=True)

    score = {i: float(np.median(errors([i], first))) for i in range(len(every))}
    order = sorted(score, key=score.__getitem__)
    chosen, best = order[:1], score[order[0]]
    for i in order[1:12]:
        if (joined := float(np.median(errors([*chosen, i], first)))) < best:
            chosen, best = [*chosen, i], joined
    print(f"{sum(map(len, true))} boundaries in {len(data)} strings; scores of the second half")
    for i in order[:8]:
        told("head {}.{} alone".format(*every[i]), [i])
    told("found: " + " ".join("{}.{}".format(*every[i]) for i in chosen), chosen)
    theirs = [every.index(pair) for pair in task.heads]
    told("of the folder, predicting rows", theirs)
    told("of the folder, reading rows", theirs, late=1)
    told("all heads", list(range(len(every))))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
