"""Black boxes: synthetic energies whose relevant features are known (sheet 4.1), and the checks around any callable.

Shape letters: B = inputs, N = features, M = outputs, C = 2^M answers. Indices are 0-based here, 1-based in formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclr_repro.soi_nter.energy import all_outputs

SyntheticName = Literal["E1", "E2", "E3"]


class SyntheticBlackBox:
    """y = argmin over all 2^M answers of an energy whose relevant features are known; ties go to the first answer.

    E1 (M = 2): (x1 y1 + x4)(1 - y2) + (x2 (1 - y1) + x3) y2.
    E2 (M = 4): (sin(x1) y1 y3 + |x4|)(1 - y2) y4 + (exp(x2/10 - 1)(1 - y1)(1 - y3) + x3) y2 (1 - y4); most inputs have
    tied minimisers, so that no claim rests on it.
    E3: -(2 y_M - 1) x_{2M-1} - sum_{j<M} (2 y_j - 1)(y_{j+1} x_{2j-1} + (1 - y_{j+1}) x_{2j}), a chain.

    Attributes:
        n_features, n_outputs: N and M; features beyond the relevant ones are noise.
        relevant, direct: of the first output; a relevant feature that is not direct acts through other outputs.

    Raises:
        ValueError: an unknown name, or too few features.

    Source: sheet 4.1. E1 and E2 are recalled from the paper without its text at hand, E3 is the sheet's own.
    """

    def __init__(self, name: SyntheticName, n_features: int, *, n_outputs: int = 4) -> None:
        if name not in get_args(SyntheticName):
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(get_args(SyntheticName))}")
        self.name = name
        self.n_outputs = {"E1": 2, "E2": 4, "E3": n_outputs}[name]
        needed = 2 * self.n_outputs - 1 if name == "E3" else 4
        if n_features < needed:
            raise ValueError(f"n_features: got {n_features}, but {name} reads {needed} features")
        self.n_features = n_features
        self.relevant = tuple(range(needed))
        self.direct = (0, 1)

    @property
    def indirect(self) -> tuple[int, ...]:
        """Features that act on the first output through other outputs only."""
        return tuple(index for index in self.relevant if index not in self.direct)

    def energies(self, x_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B C"]:
        """Return the energies of all answers in lexicographic order."""
        y = all_outputs(self.n_outputs, like=x_BN).T[:, None]
        x = x_BN.T[:, :, None]
        if self.name == "E1":
            return (x[0] * y[0] + x[3]) * (1 - y[1]) + (x[1] * (1 - y[0]) + x[2]) * y[1]
        if self.name == "E2":
            first = (torch.sin(x[0]) * y[0] * y[2] + x[3].abs()) * (1 - y[1]) * y[3]
            return first + (torch.exp(x[1] / 10 - 1) * (1 - y[0]) * (1 - y[2]) + x[2]) * y[1] * (1 - y[3])
        last = self.n_outputs - 1
        energies = -(2 * y[last] - 1) * x[2 * last]
        for j in range(last):
            energies = energies - (2 * y[j] - 1) * (y[j + 1] * x[2 * j] + (1 - y[j + 1]) * x[2 * j + 1])
        return energies

    def of_candidates(self, x_BN: Tensor, y: Tensor) -> Tensor:
        """Return [B, C] energies of binary answers, [C, M] or [B, C, M], as an energy network does."""
        powers = 2 ** torch.arange(self.n_outputs - 1, -1, -1)
        index = (y.long() * powers).sum(dim=-1)
        return self.energies(x_BN).gather(1, index.expand(len(x_BN), -1))

    def __call__(self, x_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Return the answer to each input."""
        return all_outputs(self.n_outputs, like=x_BN)[self.energies(x_BN).argmin(dim=1)]


def closed_form_e1(x_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B 2"]:
    """Return the minimiser of E1 without a search: y2 = [min(x2,0) + x3 < min(x1,0) + x4], y1 = [x2 > 0] or [x1 < 0].

    Source: sheet 4.1.
    """
    x1, x2, x3, x4 = x_BN.T[:4]
    second = x2.clamp_max(0) + x3 < x1.clamp_max(0) + x4
    first = torch.where(second, x2 > 0, x1 < 0)
    return torch.stack((first, second), dim=1).to(x_BN)


class QueriedBlackBox:
    """Any callable, asked through checks and a counter.

    Args:
        answer: takes a tensor [B, inputs], returns [B, M] zeros and ones (tensor or array).
        n_outputs: M.

    Attributes:
        queries: rows asked so far.
    """

    def __init__(self, answer: Callable[[Tensor], Any], n_outputs: int) -> None:
        self.answer, self.n_outputs, self.queries = answer, n_outputs, 0

    @torch.no_grad()
    def __call__(self, x_BN: Tensor) -> Tensor:
        """Return the answers in the dtype of x.

        Raises:
            RuntimeError: the callable failed.
            ValueError: its answers have the wrong shape or are not binary.
        """
        self.queries += len(x_BN)
        try:
            answered = self.answer(x_BN)
        except Exception as error:
            raise RuntimeError(
                f"the black box failed on inputs of shape {list(x_BN.shape)}: {type(error).__name__}: {error}"
            ) from error
        y_BM = torch.as_tensor(np.asarray(answered) if not isinstance(answered, Tensor) else answered).to(x_BN)
        if y_BM.shape != (len(x_BN), self.n_outputs):
            raise ValueError(
                f"the black box returned shape {list(y_BM.shape)} for inputs of shape {list(x_BN.shape)},"
                f" expected [{len(x_BN)}, {self.n_outputs}]: inputs times n_outputs"
            )
        if not ((y_BM == 0) | (y_BM == 1)).all():
            wrong = y_BM[(y_BM != 0) & (y_BM != 1)][0].item()
            raise ValueError(f"the black box returned {wrong}, expected 0 or 1: binarise its answers, e.g. at 0.5")
        return y_BM
