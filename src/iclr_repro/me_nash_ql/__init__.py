"""ME-Nash-QL: provable, memory-efficient self-play for Markov games, with certificates.

Fidelity: reconstruction. The paper's abstract, the contents of its theorems, its complexity bounds and its public
reviews could be read, its full text could not; the rules follow the parent algorithm (arXiv 2110.04645), which the
paper carries over to games. The paper has no experiments: games and thresholds are ours. What the paper writes, and
where it lives here (steps, states, actions and episodes count from 0; a value at h = H is 0):

    H, S, A, B        steps, states, actions of the max and the min player     `MarkovGame.num_steps`, ...
    P_h(s'|s,a,b)     next state, [H, S, A, B, S]                              `MarkovGame.transitions`
    r_h(s,a,b)        reward of the max player, in [0, 1], [H, S, A, B]        `MarkovGame.rewards`
    s_1               start state                                              `MarkovGame.start_state`
    mu, nu            Markov policies, [.., H, S, A] and [.., H, S, B]         `max_policy`, `min_policy`
    pi                joint policy at a state, [.., A, B]                      `CCE.policy`
    V*                Nash value, [H+1, S]                                     `nash_value`
    V^{dagger,nu}     value of the best response to nu, [.., H+1, S]           `best_response_values`
    Q-bar, Q-underbar upper and lower bounds of Q*, [.., A, B]: Qu, Ql         `upper`, `lower`
    CCE(Qu, Ql)       coarse correlated equilibrium                            `solve_cce`

Importing the package registers the gymnasium environment `iclr_repro/MarkovGame-v0`.
"""

from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.board_games import goofspiel, grid_soccer
from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.builders import (
    load_game,
    lock,
    matching_pennies,
    matrix_game,
    random_game,
    rrps_metagame,
    stationary_game,
)
from iclr_repro.me_nash_ql.cce import CCE, cce_violation, solve_cce
from iclr_repro.me_nash_ql.data import (
    load_rrps_payoffs,
    load_soccer_win_rates,
    read_rrps_payoffs,
    synthetic_payoffs,
)
from iclr_repro.me_nash_ql.env import MarkovGameEnv
from iclr_repro.me_nash_ql.evaluation import Evaluation, evaluate
from iclr_repro.me_nash_ql.exact import (
    BestResponseValues,
    MatrixGames,
    NashValue,
    best_response_values,
    exploitability,
    nash_value,
    policy_values,
    solve_matrix_games,
)
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.ledger import Ledger
from iclr_repro.me_nash_ql.multiplayer import GeneralSumGame, MultiMENashQL, MultiSelfPlay, cce_gap
from iclr_repro.me_nash_ql.planning import NashVI, PlugIn
from iclr_repro.me_nash_ql.self_play import SelfPlay

__all__ = [
    "CCE",
    "BestResponseValues",
    "BonusConstants",
    "BoundRules",
    "Evaluation",
    "GeneralSumGame",
    "Ledger",
    "MENashQL",
    "MarkovGame",
    "MarkovGameEnv",
    "MatrixGames",
    "MultiMENashQL",
    "MultiSelfPlay",
    "NashQ",
    "NashVI",
    "NashValue",
    "PlugIn",
    "SelfPlay",
    "VLearning",
    "best_response_values",
    "cce_gap",
    "cce_violation",
    "evaluate",
    "exploitability",
    "goofspiel",
    "grid_soccer",
    "load_game",
    "load_rrps_payoffs",
    "load_soccer_win_rates",
    "lock",
    "matching_pennies",
    "matrix_game",
    "nash_value",
    "policy_values",
    "random_game",
    "read_rrps_payoffs",
    "rrps_metagame",
    "solve_cce",
    "solve_matrix_games",
    "stationary_game",
    "synthetic_payoffs",
]
