#!/usr/bin/env python
"""Write tests/ops/whisper_log_mel.json: log-mel values of transformers' WhisperFeatureExtractor.

The sound is a sum of tones that rise, over a floor within reach of float32. Needs
transformers; the test does not.
"""

import json
from pathlib import Path

import numpy as np

from attnzoo.files import write_text

FIXTURE = Path(__file__).parent.parent / "tests" / "ops" / "whisper_log_mel.json"
RATE, SECONDS = 16_000, 1.3


def sound() -> np.ndarray:
    """Return 1.3 s of three rising tones with a rough floor, float32."""
    time = np.arange(round(RATE * SECONDS)) / RATE
    tones = sum(
        amplitude * np.sin(2 * np.pi * (low * time + rise * time**2))
        for amplitude, low, rise in ((0.4, 150, 90), (0.2, 900, 500), (0.05, 3000, 1500))
    )
    floor = 0.05 * np.sin(np.arange(len(time)) ** 2 * 0.7357)
    return (tones * np.minimum(1, 8 * time) + floor).astype(np.float32)


def main() -> None:
    """Compute the values with 80 and 128 mels; every seventh frame is kept."""
    from transformers import WhisperFeatureExtractor

    kept = {}
    for mels in (80, 128):
        extractor = WhisperFeatureExtractor(feature_size=mels)
        found = extractor._np_extract_fbank_features(sound()[None], "cpu")[0].T
        kept[str(mels)] = np.round(found[::7].astype(float), 7).tolist()
    write_text(FIXTURE, json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
