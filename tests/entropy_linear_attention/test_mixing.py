from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.entropy_linear_attention import ClusterTask, MixingModel


def task(num_nodes: int = 64, num_clusters: int = 4) -> ClusterTask:
    return ClusterTask.balanced(num_nodes, num_clusters, rng=np.random.default_rng(0))


def test_clusters_are_of_equal_size_and_hidden_in_a_random_order() -> None:
    clusters = task().clusters
    assert clusters.bincount().tolist() == [16] * 4
    assert clusters.tolist() != sorted(clusters.tolist())


def test_nodes_of_a_cluster_share_their_target_and_noise_has_its_size() -> None:
    x, y = task().sample(4000, generator=torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (4000, 64)
    for cluster in range(4):
        members = y[:, task().clusters == cluster]
        assert (members == members[:, :1]).all()
    assert float(y.std()) == pytest.approx(1.0, abs=0.03)
    assert float((x - y).std()) == pytest.approx(1.5, abs=0.01)


def test_errors_of_the_best_the_mean_and_the_lonely_forecast() -> None:
    assert task().cluster_mean_error == pytest.approx(0.140625)
    assert task().best_error == pytest.approx(0.123, abs=5e-4)
    assert task().lonely_error == pytest.approx(0.692, abs=5e-4)
    x, y = task().sample(4000, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([x[:, task().clusters == c].mean(dim=1) for c in task().clusters], dim=1)
    assert float((mean - y).square().mean()) == pytest.approx(task().cluster_mean_error, rel=0.03)
    shrunk = mean / (1 + task().cluster_mean_error)
    assert float((shrunk - y).square().mean()) == pytest.approx(task().best_error, rel=0.03)
    assert float((x / (1 + 2.25) - y).square().mean()) == pytest.approx(task().lonely_error, rel=0.03)


def test_the_model_is_of_the_size_of_the_sheet() -> None:
    torch.manual_seed(0)
    model: Any = MixingModel(64, "softmax", generator=torch.Generator())
    assert model.node.shape == (64, 16)
    assert float(model.node.detach().std()) == pytest.approx(0.3, abs=0.02)
    assert (model.observation.in_features, model.observation.out_features) == (1, 16)
    assert len(model.blocks) == 2
    assert (model.blocks[0].attention.num_heads, model.blocks[0].attention.head_dim) == (2, 16)
    assert model.blocks[0].feed_forward[0].out_features == 64
    assert model(torch.randn(3, 64)).shape == (3, 64)


def test_clusters_that_do_not_divide_the_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_clusters: got 3 for 64 nodes, expected a divisor"):
        task(64, 3)
