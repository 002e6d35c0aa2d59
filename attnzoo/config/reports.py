"""Settings of made reports with summaries."""

from typing import Annotated, Literal

from attnzoo.config.fields import Interval, NotNegative, Positive, config


@config
class ReportsConfig:
    """Made reports and summaries, with names that occur nowhere else and the true word links."""

    kind: Literal["reports"] = "reports"
    min_sentences: Annotated[int, Positive] = 3
    """Sentences of the shortest report."""
    max_sentences: Annotated[int, Interval(gt=0, le=1_000)] = 5
    """Sentences of the longest report."""
    train: Annotated[int, Interval(gt=0, le=100_000)] = 5_000
    """Training pairs."""
    validation: Annotated[int, Interval(gt=0, le=100_000)] = 200
    """Validation pairs."""
    test: Annotated[int, Interval(gt=0, le=100_000)] = 500
    """Test pairs."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the reports; independent of the training seed."""

    def __post_init__(self) -> None:
        if self.min_sentences > self.max_sentences:
            raise ValueError(
                f"min_sentences={self.min_sentences} exceeds max_sentences={self.max_sentences}"
            )

    @property
    def languages(self) -> tuple[str, str]:
        """Languages of the two sides."""
        return "en", "en"
