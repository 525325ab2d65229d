from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from iclr_repro.core.experiment import ParameterError, build
from iclr_repro.wsep.experiments.exact import all_or_some_sets, partial_spearman, spearman
from support import bare_run

MAZE: dict[str, Any] = {
    "_target_": "iclr_repro.wsep.experiments.Maze",
    "layout": "square5_walls",
    "methods": ["diayn", "pwsep"],
    "num_skills": 2,
    "copies": 2,
    "horizon": 6,
    "iterations": 2,
    "hidden": 8,
    "runs": 2,
    "episodes": 3,
    "audit_draws": 5,
    "goals": 0,
    "finetune_iterations": 1,
    "finetune_runs": 0,
}
LOCOMOTION: dict[str, Any] = {
    "_target_": "iclr_repro.wsep.experiments.Locomotion",
    "environment": "Pendulum-v1",
    "methods": ["wsep_sliced"],
    "num_skills": 2,
    "copies": 2,
    "horizon": 5,
    "iterations": 2,
    "hidden": 8,
    "samples": 5,
}
GRIDS: dict[str, Any] = {
    "_target_": "iclr_repro.wsep.experiments.Gridworlds",
    "layouts": ["empty5"],
    "num_skills": [3],
    "runs": [2],
    "restarts": 1,
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**MAZE, "methods": ["dyan"]}, "methods: no method 'dyan'; did you mean 'diayn'"),
        ({**MAZE, "layout": "maze"}, "no layout 'maze'"),
        ({**LOCOMOTION, "methods": ["pwsep"]}, "pwsep: Pendulum-v1 has no cells|need cells"),
        ({**GRIDS, "runs": [1, 2]}, "have different lengths"),
        ({**GRIDS, "layouts": ["empty"]}, "no layout 'empty'"),
    ],
)
def test_bad_parameters_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        build("experiment", config)


def test_the_maze_measures_every_method_beside_untrained_policies(tmp_path: Path) -> None:
    found = build("maze", MAZE).run(bare_run(tmp_path))
    for method in ("untrained", "diayn", "pwsep"):
        assert np.shape(found.metrics[f"{method}/cells"]) == (2,)
    assert found.metrics["num_cells"] == 17
    assert set(found.tables) == {"maze", "audit"}
    assert set(found.tables["audit"].index.get_level_values("method")) == {"untrained", "diayn", "pwsep"}


def test_runs_repeat_with_the_seed(tmp_path: Path) -> None:
    one, two, other = (build("g", GRIDS).run(bare_run(tmp_path, seed=seed)).metrics for seed in (1, 1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_locomotion_needs_nothing_but_gymnasium(tmp_path: Path) -> None:
    found = build("locomotion", LOCOMOTION).run(bare_run(tmp_path))
    assert {name.split("/")[0] for name in found.metrics} == {"untrained", "wsep_sliced", "n"}
    found.check()


def test_rank_correlations_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.integers(5, size=(3, 40)).astype(float)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y)[0])
    assert spearman(x, np.ones(40)) == 0.0
    ranks = [scipy.stats.rankdata(values) for values in (x, y, z)]
    rest = [one - np.polyval(np.polyfit(ranks[2], one, 1), ranks[2]) for one in ranks[:2]]
    assert partial_spearman(x, y, z) == pytest.approx(np.corrcoef(*rest)[0, 1])


@pytest.mark.parametrize(
    ("candidates", "skills", "most", "number"), [(6, 3, 100, 20), (12, 4, 60, 60), (40, 6, 50, 50)]
)
def test_sets_are_distinct_members_without_repeats(candidates: int, skills: int, most: int, number: int) -> None:
    sets = all_or_some_sets(candidates, skills, most, np.random.default_rng(0))
    assert sets.shape == (number, skills)
    assert len(np.unique(sets, axis=0)) == number
    assert (np.diff(sets, axis=1) > 0).all()
    assert sets.max() < candidates
