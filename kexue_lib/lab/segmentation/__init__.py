"""Chinese word segmentation as tagging: real lines, tags for words, small taggers, and how they are scored.

A word of one character gets the tag ``s``; a longer one ``b``, any number of ``m``, and ``e``. The lines are those of
:func:`kexue_lib.lab.data.peoples_daily`, which is read from an installed package and never passed on.

Source: https://kexue.fm/archives/7196 (the task); the chapter *crf-learning-rate* (these sizes).
"""

from .lines import CharacterTable, TagBatch, TaggedLines, peoples_daily_lines, split_lines
from .taggers import ConvEncoder, LSTMEncoder, Tagger, TaggerEvaluation, TransformerEncoder, evaluate_tagger
from .tags import TAGS, Line, Score, bmes, illegal_share, segmentation_f1, words
from .training import HiddenBatch, TaggerTraining, hidden_batches, hidden_loss, train_on_hidden, train_tagger

__all__ = [
    "TAGS",
    "CharacterTable",
    "ConvEncoder",
    "HiddenBatch",
    "LSTMEncoder",
    "Line",
    "Score",
    "TagBatch",
    "TaggedLines",
    "Tagger",
    "TaggerEvaluation",
    "TaggerTraining",
    "TransformerEncoder",
    "bmes",
    "evaluate_tagger",
    "hidden_batches",
    "hidden_loss",
    "illegal_share",
    "peoples_daily_lines",
    "segmentation_f1",
    "split_lines",
    "train_on_hidden",
    "train_tagger",
    "words",
]
