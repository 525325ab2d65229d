"""GLUE fine-tuning (sheet 4.3): eight tasks, their metrics, and a word-piece tokenizer for pre-training.

Shape letters: N = examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float, Int64
from sklearn.metrics import f1_score, matthews_corrcoef
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_NOT_ON_AN_ENGLISH_KEYBOARD = r"[^\x20-\x7e\n\t]"
_TOKENS = ("[PAD]", "[UNK]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        fields: names of its one or two texts.
        metric: "accuracy", "f1", "matthews" or "spearman".
        evaluations: split -> name of the number in the table of nine.
        num_labels: classes; 1: a score.
    """

    fields: tuple[str, ...]
    metric: str
    evaluations: Mapping[str, str]
    num_labels: int = 2


GLUE_TASKS = {
    "mnli": GlueTask(
        ("premise", "hypothesis"), "accuracy", {"validation_matched": "mnli", "validation_mismatched": "mnli_mm"}, 3
    ),
    "sst2": GlueTask(("sentence",), "accuracy", {"validation": "sst2"}),
    "stsb": GlueTask(("sentence1", "sentence2"), "spearman", {"validation": "stsb"}, 1),
    "rte": GlueTask(("sentence1", "sentence2"), "accuracy", {"validation": "rte"}),
    "qnli": GlueTask(("question", "sentence"), "accuracy", {"validation": "qnli"}),
    "qqp": GlueTask(("question1", "question2"), "f1", {"validation": "qqp"}),
    "mrpc": GlueTask(("sentence1", "sentence2"), "f1", {"validation": "mrpc"}),
    "cola": GlueTask(("sentence",), "matthews", {"validation": "cola"}),
}
"""The eight tasks that the authors keep (no WNLI); MNLI counts twice in the mean of nine."""


def glue_metric(name: str, predictions: Float[np.ndarray, " N"] | Int64[np.ndarray, " N"], labels: np.ndarray) -> float:
    """Return the number that GLUE reports: accuracy, F1 of class 1, Matthews' correlation or Spearman's.

    Constant predictions have correlation 0.

    Example: f1 of [1, 1, 0] against [1, 0, 0]: precision 1/2, recall 1, F1 = 2/3.

    Raises:
        ValueError: no such metric.
    """
    if name == "accuracy":
        return float(np.mean(predictions == labels))
    if name == "f1":
        return float(f1_score(labels, predictions, zero_division=0.0))
    if name == "matthews":
        return float(matthews_corrcoef(labels, predictions))
    if name == "spearman":
        return float(scipy.stats.spearmanr(predictions, labels).statistic) if np.ptp(predictions) > 0 else 0.0
    raise ValueError(f"metric: got {name!r}, expected accuracy, f1, matthews or spearman")


def wordpiece_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer: lower case, accents stripped, what no English keyboard has removed.

    A text ends in a separator and has no token in front; so does each of a pair: A [SEP] B [SEP] (sheet 4.2).

    Args:
        texts: to learn from.
        vocab_size: pieces at most [32,768].
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(_NOT_ON_AN_ENGLISH_KEYBOARD), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", tokenizer.token_to_id("[SEP]"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )
