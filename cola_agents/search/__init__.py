"""Tree search over latent or token actions.

``search`` is PUCT over any Episodes and any evaluator; ``mcts_q`` is the paper's search; ``MCTS`` runs either
over the problems of a task. In the order of reading: ``config``, ``forest``, ``playout``, ``evaluators``,
``puct``, ``q``, ``mcts_q``, ``solver``; then ``baselines`` and ``view``.
"""

from cola_agents.search.config import Ending, Evaluate, Evaluation, SearchConfig, SearchResult
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.search.puct import search
from cola_agents.search.q import QConfig, QFunction, train_q
from cola_agents.search.solver import MCTS
from cola_agents.search.view import draw_tree, tree_text

__all__ = [
    "MCTS",
    "Ending",
    "Evaluate",
    "Evaluation",
    "MCTSQConfig",
    "QConfig",
    "QFunction",
    "SearchConfig",
    "SearchResult",
    "draw_tree",
    "mcts_q",
    "search",
    "train_q",
    "tree_text",
]
