from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from iclr_repro.wsep import LAYOUTS, kantorovich
from iclr_repro.wsep.envs import PointMaze2DVectorEnv
from iclr_repro.wsep.learner import (
    Method,
    SkillLearner,
    cell_occupancies,
    covered_cells,
    goal_distances,
    make_reward,
)
from iclr_repro.wsep.policies import PPOSettings, Rollout, SkillPolicy, advantages, collect
from iclr_repro.wsep.rewards import CellPwsep, CellWsep, Diayn, GoalReward, Metra, SlicedWsep
from iclr_repro.wsep.worlds import GymWorld, MazeWorld

METRIC = LAYOUTS["square5_walls"].distances()
LINE = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(method: Method, *, seed: int = 0, skills: int = 3, copies: int = 4, horizon: int = 12) -> SkillLearner:
    draws = generator(seed)
    world = MazeWorld(PointMaze2DVectorEnv(skills * copies, horizon=horizon), generator=draws)
    frozen = method == "pwsep_frozen"
    policy = SkillPolicy(skills, 2, 2, hidden=16, separate=frozen, generator=generator(seed))
    reward = make_reward(method, skills, world, metric=METRIC, generator=draws, hidden=16)
    return SkillLearner(world, policy, reward, generator=draws, frozen_every=2 if frozen else None)


def rollout_of(cells: list[list[int]]) -> Rollout:
    """One copy a skill that visits these cells, at positions on a line."""
    numbers = torch.tensor(cells)[:, None]
    states = torch.stack([numbers.float(), torch.zeros(numbers.shape)], dim=-1)
    actions = torch.zeros(len(cells), 1, numbers.shape[-1] - 1, 2)
    return Rollout(torch.arange(len(cells)), states, states, actions, numbers)


def test_advantages_are_discounted_sums_of_errors_and_the_time_limit_is_no_end() -> None:
    rewards, values = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5, 1.0, 3.0]]])
    found = advantages(rewards, values, gamma=0.9, gae=0.8)
    last = 2.0 + 0.9 * 3.0 - 1.0
    assert found.flatten().tolist() == pytest.approx([1.0 + 0.9 * 1.0 - 0.5 + 0.72 * last, last])


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_learns_without_nan_and_resumes_bit_for_bit(method: Method) -> None:
    straight = make(method)
    for _ in range(4):
        values = straight.step()
        assert all(math.isfinite(value) for value in values.values())
    first = make(method)
    for _ in range(2):
        first.step()
    state, draws = first.state_dict(), first.generator.get_state()
    second = make(method, seed=1)
    second.load_state_dict(state)
    second.generator.set_state(draws)
    for _ in range(2):
        second.step()
    for name, tensor in straight.policy.state_dict().items():
        assert torch.equal(tensor, second.policy.state_dict()[name]), name


def test_ppo_learns_a_goal() -> None:
    draws = generator()
    world = MazeWorld(PointMaze2DVectorEnv(16, horizon=20), generator=draws)
    policy = SkillPolicy(1, 2, 2, hidden=32, generator=draws)
    learner = SkillLearner(world, policy, GoalReward([0], METRIC), generator=draws)
    first = learner.step()["goal_return"]
    for _ in range(40):
        last = learner.step()["goal_return"]
    assert last > first + 0.15


def test_a_discriminator_learns_to_tell_skills_that_differ_and_bounds_the_information() -> None:
    cells = rollout_of([[0, 0, 1, 0, 0], [3, 3, 2, 3, 3]])
    reward = Diayn(2, 2, lsepin_weight=1.0, hidden=16, generator=generator())
    for _ in range(60):
        found = reward.update(cells)
    assert 0.6 < found["information_bound"] <= math.log(2) + 1e-6
    assert 0.6 < found["lsepin_bound"] <= math.log(2) + 1e-6
    assert reward.rewards(cells).min() > 0.0


def test_lsepin_pays_the_least_separable_skills_more() -> None:
    cells = rollout_of([[0] * 9, [1, 2] * 4 + [1], [2, 1] * 4 + [2]])
    plain, added = (Diayn(3, 2, lsepin_weight=weight, hidden=16, generator=generator()) for weight in (0.0, 1.0))
    for _ in range(100):
        plain.update(cells)
        added.update(cells)
    weights = (added.rewards(cells) - plain.rewards(cells)).mean(dim=(1, 2))
    losses = added._losses(cells.inputs[:, :, 1:], torch.arange(3)[:, None, None].expand(3, 1, 8))[1]
    assert losses[0] < losses[1:].min()
    assert torch.isfinite(weights).all()


def test_cell_wsep_pays_the_mean_potential_over_the_other_skills() -> None:
    cells = rollout_of([[0, 0, 1], [2, 2, 2], [3, 3, 3]])
    reward = CellWsep(LINE)
    reward.update(cells)
    counts = np.array([[2, 2, 1, 1], [1, 1, 3, 1], [1, 1, 1, 3]]) / 6.0
    expected = np.zeros(4)
    for other in (1, 2):
        potential = kantorovich(counts[0], counts[other], LINE).potential
        expected += (potential - potential @ counts[other]) / 2
    assert reward.rewards(cells)[0, 0].tolist() == pytest.approx(expected[[0, 1]].tolist(), abs=1e-6)
    # On its own distribution it is the mean distance to the others.
    assert counts[0] @ expected > 0.0


def test_cell_pwsep_pays_for_leaving_the_hull_of_the_skills_before() -> None:
    cells = rollout_of([[0, 0, 0], [0, 0, 0], [0, 3, 3]])
    reward = CellPwsep(LINE)
    found = reward.update(cells)
    paid = reward.rewards(cells)
    assert found["mean_hull_distance"] > 0.0
    assert paid[2].min() > 0.0  # cell 3 is beyond the hull of two skills in cell 0
    reward.update(cells)
    assert reward.histograms is not None
    np.testing.assert_allclose(reward.histograms.sum(dim=1), 1.0)


@pytest.mark.usefixtures("unchecked")
def test_a_world_without_cells_is_refused_by_objectives_that_need_them() -> None:
    cells = rollout_of([[0, 1], [1, 2]])
    bare = Rollout(cells.skills, cells.states, cells.inputs, cells.actions, None)
    with pytest.raises(ValueError, match="needs cells, which the world does not have"):
        CellWsep(LINE).update(bare)
    with pytest.raises(ValueError, match="wsep needs the distances between cells"):
        make_reward("wsep", 2, make("diayn").world, metric=None, generator=generator())
    with pytest.raises(ValueError, match="method is 'dads', expected one of diayn"):
        make_reward("dads", 2, make("diayn").world, metric=METRIC, generator=generator())  # type: ignore[arg-type]


def test_sliced_distances_match_by_rank_and_keep_the_order_of_the_samples() -> None:
    cells = rollout_of([[9, 2, 0, 1], [9, 3, 5, 4]])  # the state before the first step does not count
    reward = SlicedWsep(generator=generator())
    reward.update(cells)
    # On a line the ranks are those of the numbers, or reversed for both: 2-5, 0-3, 1-4.
    assert reward.rewards(cells)[0, 0].tolist() == pytest.approx([3.0, 3.0, 3.0])
    unequal = rollout_of([[9, 2, 0, 1], [9, 3, 7, 4]])
    reward.update(unequal)
    assert reward.rewards(unequal)[0, 0].tolist() == pytest.approx([5.0, 3.0, 3.0])


def test_the_nearest_skill_pays_less_than_all() -> None:
    cells = rollout_of([[0, 0], [1, 1], [9, 9]])
    every, nearest = SlicedWsep(generator=generator()), SlicedWsep(generator=generator(), nearest=True)
    every.update(cells)
    nearest.update(cells)
    assert every.rewards(cells).flatten().tolist() == pytest.approx([5.0, 4.5, 8.5])
    assert nearest.rewards(cells).flatten().tolist() == pytest.approx([1.0, 1.0, 8.0])


def test_metra_keeps_its_steps_short() -> None:
    cells = rollout_of([[0, 1, 2, 3], [3, 2, 1, 0]])
    reward = Metra(2, 2, hidden=16, generator=generator())
    for _ in range(150):
        found = reward.update(cells)
    assert found["squared_step"] < 1.2
    assert reward.rewards(cells).mean() > 0.3


def test_frozen_skills_stay_bit_for_bit_while_the_next_one_learns() -> None:
    learner = make("pwsep_frozen")
    before = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
    for _ in range(2):
        learner.step()
    first = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
    learner.step()
    after = learner.policy.state_dict()
    for name in after:
        assert not torch.equal(first[name][0], before[name][0]), name
        assert torch.equal(first[name][1:], before[name][1:]), name
        assert torch.equal(after[name][0], first[name][0]), name
        assert not torch.equal(after[name][1], first[name][1]), name


def test_freezing_needs_separate_networks() -> None:
    learner = make("pwsep")
    with pytest.raises(ValueError, match="skills that share a network cannot be frozen"):
        SkillLearner(learner.world, learner.policy, learner.reward, generator=generator(), frozen_every=2)


def test_separate_networks_equal_networks_one_by_one() -> None:
    policy = SkillPolicy(3, 2, 2, hidden=8, separate=True, generator=generator())
    states, skills = torch.randn(3, 5, 2, generator=generator()), torch.tensor([2, 0, 1])
    together = policy.value(states, skills)
    for group, skill in enumerate(skills):
        assert torch.allclose(together[group], policy.value(states[group, None], skill[None])[0])


def test_copies_must_split_evenly() -> None:
    world = MazeWorld(PointMaze2DVectorEnv(4), generator=generator())
    with pytest.raises(ValueError, match="4 copies cannot be split evenly among 3 skills"):
        collect(world, SkillPolicy(3, 2, 2, generator=generator()), torch.arange(3), generator=generator())


def test_measures_of_a_rollout_by_hand() -> None:
    cells = rollout_of([[0, 0, 0, 1], [3, 3, 2, 2]])
    occupancies = cell_occupancies(cells, 4)
    np.testing.assert_allclose(occupancies, [[2 / 3, 1 / 3, 0, 0], [0, 0, 2 / 3, 1 / 3]])
    assert covered_cells(occupancies) == 4
    assert covered_cells(occupancies, share=0.5) == 2
    np.testing.assert_allclose(goal_distances(cells, LINE), [1, 0, 0, 1])


def test_any_gymnasium_environment_with_vectors_is_a_world() -> None:
    world = GymWorld("Pendulum-v1", 4, horizon=6, seed=0)
    policy = SkillPolicy(2, world.state_size, world.action_size, hidden=8, generator=generator())
    reward = make_reward("wsep_sliced", 2, world, metric=None, generator=generator(), hidden=8)
    learner = SkillLearner(world, policy, reward, settings=PPOSettings(epochs=1), generator=generator())
    for _ in range(2):
        assert all(math.isfinite(value) for value in learner.step().values())
    with pytest.raises(ValueError, match="CartPole-v1 has actions Discrete"):
        GymWorld("CartPole-v1", 2, horizon=5, seed=0)


def test_every_method_makes_its_reward() -> None:
    kinds: dict[Any, type] = {"diayn": Diayn, "wsep": CellWsep, "pwsep": CellPwsep, "metra": Metra}
    for method, kind in {**kinds, "wsep_nearest": SlicedWsep}.items():
        assert isinstance(make(method).reward, kind)
