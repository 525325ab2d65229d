"""The polytope of state distributions that policies can have, and its vertices.

C = { d : d(s) = sum_a mu(s, a), mu >= 0, sum_a mu(s', a) = (1 - gamma) p0(s') + gamma sum_{s,a} P[s, a, s'] mu(s, a) }

Its vertices are occupancies of deterministic policies, but not every deterministic policy gives a vertex.

Source: sheet 2.1 and 2.6 (Algorithm A, steps 1 and 2).
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
from scipy.spatial import ConvexHull, QhullError

from iclr_repro.wsep.mdp import TabularMDP, deterministic_occupancies

_RANK_TOLERANCE = 1e-9
_FACET_TOLERANCE = 1e-9
_MAX_QHULL_DIMENSION = 8


def polytope_vertices(mdp: TabularMDP) -> np.ndarray:
    """Return [n, S] the vertices of the polytope of occupancies, in lexicographic order.

    Enumerates the A^S deterministic policies: for S up to about 7.

    Raises:
        ValueError: there are too many policies to enumerate.
    """
    occupancies = deterministic_occupancies(mdp)
    return np.asarray(occupancies[hull_vertices(occupancies)])


def hull_vertices(points: np.ndarray) -> np.ndarray:
    """Return the indices, ascending, of the points [n, S] that are vertices of their convex hull.

    The points are reduced to their affine hull (relative rank tolerance 1e-9), qhull proposes, and a proposal counts
    if the normals of the facets through it span the space, since qhull's merged facets may keep points that are no
    vertices. In more than 8 dimensions, or where qhull gives up, a linear program decides for each point whether it is
    a convex combination of the others. Of equal points none is a vertex: remove duplicates first.
    """
    points = np.asarray(points, dtype=np.float64)
    centred = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    dimension = int((sizes > _RANK_TOLERANCE * max(sizes[0], 1e-300)).sum()) if len(points) > 1 else 0
    if dimension == 0:
        return np.arange(min(len(points), 1))
    reduced = centred @ axes[:dimension].T / sizes[0]
    if dimension == 1:
        return np.unique([reduced[:, 0].argmin(), reduced[:, 0].argmax()])
    if dimension <= _MAX_QHULL_DIMENSION and len(points) > dimension:
        try:
            return _by_qhull(reduced)
        except QhullError:
            pass
    return np.array([index for index in range(len(points)) if not _in_hull_of_others(points, index)], dtype=np.int64)


def _by_qhull(reduced: np.ndarray) -> np.ndarray:
    hull = ConvexHull(reduced)
    normals, offsets = hull.equations[:, :-1], hull.equations[:, -1]
    candidates = np.sort(hull.vertices)
    touches = np.abs(reduced[candidates] @ normals.T + offsets) < _FACET_TOLERANCE
    spans = [np.linalg.matrix_rank(normals[row], tol=1e-7) == reduced.shape[1] for row in touches]
    return np.asarray(candidates[spans])


def _in_hull_of_others(points: np.ndarray, index: int) -> bool:
    rest = np.delete(points, index, axis=0)
    found = scipy.optimize.linprog(
        np.zeros(len(rest)),
        A_eq=np.vstack([rest.T, np.ones(len(rest))]),
        b_eq=np.append(points[index], 1.0),
        bounds=(0.0, None),
        method="highs",
    )
    return bool(found.status == 0)
