"""Tasks, one per file: batches, loss and metrics of each."""

from typing import Any

from attnzoo.config.external import import_class, is_external
from attnzoo.tasks.captioning import CaptioningTask
from attnzoo.tasks.contrastive import ContrastiveTask
from attnzoo.tasks.detection import DetectionTask
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.language_modeling import CausalLMTask, MaskedLMTask, SpanCorruptionTask
from attnzoo.tasks.question_answering import QuestionAnsweringTask
from attnzoo.tasks.recommendation import RecommendationTask
from attnzoo.tasks.speech import SpeechTask
from attnzoo.tasks.stories import StoriesTask
from attnzoo.tasks.summarisation import SummarisationTask
from attnzoo.tasks.task import Task
from attnzoo.tasks.text_classification import SequenceClassificationTask, TokenClassificationTask
from attnzoo.tasks.translation_task import TranslationTask
from attnzoo.tasks.word_alignment import WordAlignmentTask

TASKS: dict[str, type[Task]] = {
    "translation": TranslationTask,
    "word_alignment": WordAlignmentTask,
    "causal_lm": CausalLMTask,
    "masked_lm": MaskedLMTask,
    "span_corruption": SpanCorruptionTask,
    "sequence_classification": SequenceClassificationTask,
    "token_classification": TokenClassificationTask,
    "image_classification": ImageClassificationTask,
    "recommendation": RecommendationTask,
    "summarisation": SummarisationTask,
    "detection": DetectionTask,
    "question_answering": QuestionAnsweringTask,
    "stories": StoriesTask,
    "captioning": CaptioningTask,
    "contrastive": ContrastiveTask,
    "speech": SpeechTask,
}
"""Task class by ``task.kind``."""


def task_class(config: Any) -> type[Task]:
    """Return the task class of a config: from the registry, or a user's own class."""
    return import_class(config.kind, Task) if is_external(config.kind) else TASKS[config.kind]


__all__ = [
    "TASKS",
    "CaptioningTask",
    "CausalLMTask",
    "ContrastiveTask",
    "DetectionTask",
    "ImageClassificationTask",
    "MaskedLMTask",
    "QuestionAnsweringTask",
    "RecommendationTask",
    "SequenceClassificationTask",
    "SpanCorruptionTask",
    "SpeechTask",
    "StoriesTask",
    "SummarisationTask",
    "Task",
    "TokenClassificationTask",
    "TranslationTask",
    "WordAlignmentTask",
    "task_class",
]
