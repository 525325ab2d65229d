"""The MDPs of the experiments: random ones, and gridworlds with walls (sheet 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import shortest_path

from iclr_repro.wsep.mdp import TabularMDP

MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""(rows down, columns right) of the five actions stay, up, down, left, right."""


@dataclass(frozen=True)
class Layout:
    """A grid of cells.

    Attributes:
        rows: one string a row, "#" is a wall, "." a free cell. Free cells are numbered row by row from 0.
        start: number of the free cell in which episodes start.
    """

    rows: tuple[str, ...]
    start: int

    def __post_init__(self) -> None:
        if not self.rows or len({len(row) for row in self.rows}) != 1 or not self.rows[0]:
            raise ValueError(f"rows are {list(self.rows)}, expected strings of one length")
        unknown = set("".join(self.rows)) - {"#", "."}
        if unknown:
            raise ValueError(f"rows contain {sorted(unknown)}, expected '#' (wall) and '.' (free)")
        num_free = len(self.cells)
        if not 0 <= self.start < num_free:
            raise ValueError(f"start is {self.start}, expected the number of one of the {num_free} free cells")

    @property
    def walls(self) -> np.ndarray:
        """[rows, columns], True where there is a wall."""
        return np.array([[cell == "#" for cell in row] for row in self.rows])

    @property
    def cells(self) -> np.ndarray:
        """[S, 2] row and column of each free cell."""
        return np.argwhere(~self.walls)

    def numbers(self) -> np.ndarray:
        """Return [rows, columns] the number of each free cell, -1 at walls."""
        numbers = np.full(self.walls.shape, -1)
        numbers[~self.walls] = np.arange(len(self.cells))
        return numbers

    def neighbours(self) -> np.ndarray:
        """Return [S, 5] the cell that each of `MOVES` leads to; into a wall or over the border is staying."""
        numbers = np.pad(self.numbers(), 1, constant_values=-1)
        after = np.stack([numbers[tuple((self.cells + 1 + move).T)] for move in MOVES], axis=1)
        return np.where(after < 0, np.arange(len(self.cells))[:, None], after)

    def distances(self) -> np.ndarray:
        """Return [S, S] shortest paths in steps.

        Raises:
            ValueError: two free cells that are not connected.
        """
        num_cells, after = len(self.cells), self.neighbours()
        adjacent = np.zeros((num_cells, num_cells))
        adjacent[np.repeat(np.arange(num_cells), len(MOVES)), after.ravel()] = 1.0
        lengths = shortest_path(adjacent, unweighted=True)
        if np.isinf(lengths).any():
            apart = self.cells[np.flatnonzero(np.isinf(lengths[self.start]) | np.isinf(lengths).any(axis=0))[0]]
            raise ValueError(
                f"the cell at row {apart[0]}, column {apart[1]} is not connected to the others: wall it off"
            )
        return np.asarray(lengths)


LAYOUTS: Mapping[str, Layout] = {
    "empty5": Layout(rows=(".....",) * 5, start=12),
    "rooms7": Layout(
        rows=("...#...", ".......", "...#...", "#.###.#", "...#...", ".......", "...#..."),
        start=8,
    ),
    "square5_walls": Layout(rows=(".#...", ".#.#.", "...#.", "##.#.", "...#."), start=9),
    "empty7": Layout(rows=(".......",) * 7, start=24),
    "rooms13": Layout(
        rows=tuple(
            "".join("#" if (row in (4, 8) or column in (4, 8)) and (row % 4 != 2 and column % 4 != 2) else "."
                    for column in range(13))
            for row in range(13)
        ),
        start=0,
    ),
}  # fmt: skip
"""The grids of sheet 4.3 and 4.4, and two larger ones for scale `paper`."""


def find_layout(name: str) -> Layout:
    """Return one of `LAYOUTS`.

    Raises:
        ValueError: there is none of this name; the message lists them.
    """
    if name not in LAYOUTS:
        raise ValueError(f"no layout {name!r}, expected one of {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]


def garnet(num_states: int, num_actions: int, *, rng: np.random.Generator, gamma: float = 0.9) -> TabularMDP:
    """Draw a random MDP.

    P[s, a, :] ~ Dirichlet(0.3, ..., 0.3), p0 ~ Dirichlet(2, ..., 2), coordinates ~ U[0, 1]^2, in this order; the metric
    is the Euclidean distance of the coordinates. p0 has full support, so that all KL divergences are finite.
    """
    transitions = rng.dirichlet(np.full(num_states, 0.3), size=(num_states, num_actions))
    start = rng.dirichlet(np.full(num_states, 2.0))
    coordinates = rng.random((num_states, 2))
    metric = np.linalg.norm(coordinates[:, None] - coordinates, axis=-1)
    return TabularMDP(transitions, start, gamma, metric)


def grid_mdp(layout: Layout, *, slip: float = 0.1, gamma: float = 0.9, uniform_start: float = 0.02) -> TabularMDP:
    """Make an MDP of a grid with the actions stay, up, down, left, right; its metric is the shortest path.

    Args:
        layout: the cells.
        slip: probability that a uniformly random one of the four moves replaces the chosen action, in [0, 1].
        gamma: discount.
        uniform_start: share of the start distribution that is spread over all cells, in [0, 1]; above 0 all occupancies
            have full support and KL divergences are finite.

    Raises:
        ValueError: a probability outside [0, 1], or cells that are not connected.
    """
    for name, value in (("slip", slip), ("uniform_start", uniform_start)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}, expected a probability")
    after = layout.neighbours()
    num_states = len(after)
    chosen = np.eye(num_states)[after]
    transitions = (1.0 - slip) * chosen + slip * chosen[:, 1:].mean(axis=1, keepdims=True)
    start = np.full(num_states, uniform_start / num_states)
    start[layout.start] += 1.0 - uniform_start
    return TabularMDP(transitions, start, gamma, layout.distances())
