import torch

from iclr_repro.entropy_linear_attention.memory import tensor_memory


def test_memory_is_counted_once_per_storage_and_freed_with_it() -> None:
    given = torch.zeros(1000)

    def action() -> torch.Tensor:
        a = given + 1  # 4,000 bytes
        b = torch.cat([a, a])  # 8,000 more
        del a
        view = b.view(2, 1000)[:1]  # nothing
        return view + torch.ones(1, 1)  # 4,000 and 4

    found = tensor_memory(action)
    assert found.largest_bytes == 8000
    assert found.peak_bytes == 12004


def test_operations_in_place_make_no_memory() -> None:
    given = torch.zeros(1000)
    assert tensor_memory(lambda: given.add_(1)).peak_bytes == 0
