"""Two overlaid digits, three tasks on one trunk: the data, a small network, and its training by any rule of weights.

The tasks: the label of the upper left digit, the label of the lower right digit (cross-entropies), and the difference
of their inks (a squared error, whose unit can be chosen). All read one representation.

Several networks are trained side by side as *members* of one: every weight has a first axis. They share the first
weights and the batches, and differ in the rule that turns the gradients of the tasks into one update of the trunk.
"""

from .network import TASKS, SharedTrunk, held_out_scores
from .overlays import MultiDigits, multidigits
from .training import RULES, TrainingRecord, train

__all__ = ["RULES", "TASKS", "MultiDigits", "SharedTrunk", "TrainingRecord", "held_out_scores", "multidigits", "train"]
