import torch

from iclr_repro.entropy_linear_attention.memory import peak_memory, tensor_memory


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


def test_the_peak_of_a_training_step_holds_what_backward_needs() -> None:
    weight = torch.zeros(1000, requires_grad=True)

    def step() -> None:
        hidden = weight.exp()  # kept for backward: 4,000 bytes
        (hidden.exp() * 1.0).sum().backward()  # 8,000 more, and as many of gradients

    peak = peak_memory(step, torch.device("cpu"))
    assert 12_000 < peak < 25_000
    assert peak > peak_memory(lambda: weight.detach().exp(), torch.device("cpu")) == 4_000
