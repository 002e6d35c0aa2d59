"""Made recordings for tests: a word is a tone, a speaker its loudness; and WAV files of them."""

import wave
from pathlib import Path

import numpy as np

RATE = 2_000
TONES = {"low": 150.0, "mid": 400.0, "high": 800.0}


def tone(hertz: float, seconds: float, loud: float = 0.4, rate: int = RATE) -> np.ndarray:
    """A tone with soft ends over a little noise, float32."""
    time = np.arange(round(seconds * rate)) / rate
    edge = np.minimum(1, 30 * np.minimum(time, time[-1] - time))
    noise = np.random.default_rng(len(time)).normal(size=len(time))
    return (loud * edge * np.sin(2 * np.pi * hertz * time) + 0.01 * noise).astype(np.float32)


def write_wave(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Write samples between -1 and 1 as WAV of 16 bits; columns are channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_recordings(folder: Path, count: int = 5) -> Path:
    """Recordings of each word by two speakers, of 0.1 to 0.2 s."""
    for speaker, loud in (("ann", 0.4), ("ben", 0.2)):
        for word, hertz in TONES.items():
            for number in range(count):
                samples = tone(hertz * (1 + 0.01 * number), 0.1 + 0.025 * number, loud)
                write_wave(folder / f"{word}_{speaker}_{number}.wav", samples)
    return folder
