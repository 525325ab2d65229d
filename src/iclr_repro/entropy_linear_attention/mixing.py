"""A task in which a node is only known from the others of its hidden cluster: spatial mixing is necessary (sheet E7).

Shape letters: S = samples, N = nodes, C = model dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention.host import TransformerBlock

NOISE_STD = 1.5


@dataclass(frozen=True)
class ClusterTask:
    """Observation x_n = u_c(n) + 1.5 eps_n, target y_n = u_c(n): cluster signals u ~ N(0, 1), hidden clusters c.

    Attributes:
        clusters: of each node; all clusters have the same number of nodes.
    """

    clusters: Int[Tensor, N]  # noqa: F821

    @classmethod
    def balanced(cls, num_nodes: int, num_clusters: int, *, rng: np.random.Generator) -> ClusterTask:
        """A random assignment with clusters of equal size.

        Raises:
            ValueError: the number of clusters does not divide that of nodes.
        """
        if num_clusters < 1 or num_nodes % num_clusters:
            raise ValueError(f"num_clusters: got {num_clusters} for {num_nodes} nodes, expected a divisor")
        return cls(torch.from_numpy(rng.permutation(np.arange(num_nodes) % num_clusters)))

    @property
    def cluster_size(self) -> int:
        """Nodes of a cluster."""
        return int((self.clusters == 0).sum())

    def sample(
        self, num_samples: int, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "S N"], Float[Tensor, "S N"]]:
        """Observations and targets."""
        num_clusters = int(self.clusters.max()) + 1
        signals = torch.randn(num_samples, num_clusters, generator=generator)
        targets = signals[:, self.clusters]
        return targets + NOISE_STD * torch.randn(targets.shape, generator=generator), targets

    @property
    def cluster_mean_error(self) -> float:
        """Mean squared error of the mean of the node's cluster: 1.5^2 / cluster size (0.141 for 16 nodes)."""
        return NOISE_STD**2 / self.cluster_size

    @property
    def best_error(self) -> float:
        """The least possible mean squared error, that of the shrunk cluster mean: a / (1 + a), a = 1.5^2 / size.

        Example: 16 nodes in a cluster give 0.123.
        """
        return self.cluster_mean_error / (1.0 + self.cluster_mean_error)

    @property
    def lonely_error(self) -> float:
        """The least error without any mixing of nodes: 1.5^2 / (1 + 1.5^2) = 0.692."""
        return NOISE_STD**2 / (1.0 + NOISE_STD**2)


class MixingModel(nn.Module):
    """A learned embedding of each node beside its observation, transformer blocks over the nodes, one read-out.

    Args:
        num_nodes: N.
        attention: name of a mechanism.
        dim: C; half for the embedding, half for the observation.
        num_heads: divides dim.
        ffn_dim: of each block.
        num_layers: blocks.
        generator: of the random features of a mechanism.

    Source: sheet E7.
    """

    def __init__(
        self,
        num_nodes: int,
        attention: str,
        *,
        dim: int = 32,
        num_heads: int = 2,
        ffn_dim: int = 64,
        num_layers: int = 2,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.node = nn.Parameter(0.3 * torch.randn(num_nodes, dim // 2))
        self.observation = nn.Linear(1, dim - dim // 2)
        self.read_out = nn.Linear(dim, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, num_heads, ffn_dim, attention, dropout=0.0, generator=generator)
            for _ in range(num_layers)
        )

    def forward(self, x: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
        """Estimate the signal of each node's cluster."""
        h = torch.cat([self.node.expand(len(x), -1, -1), self.observation(x[..., None])], dim=-1)
        for block in self.blocks:
            h = block(h)
        estimates: Tensor = self.read_out(h)[..., 0]
        return estimates
