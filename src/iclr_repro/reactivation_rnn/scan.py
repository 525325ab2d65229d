"""The recurrences as one autograd operation each: the loop touches the state only (sheet 2.7).

Input drive and noise of all steps are made beforehand; the gradients of the recurrent weights are one matrix product
each after the backward loop.

Shape letters: T = steps, B = trajectories, N = units.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 20  # steps that are compiled together


def relu_scan(
    start_BN: Float[Tensor, "B N"],
    drive_TBN: Float[Tensor, "T B N"],
    weight_NN: Float[Tensor, "N N"],
    noise_TBN: Float[Tensor, "T B N"] | None,
    leak: float,
) -> Float[Tensor, "T B N"]:
    """Return r_1 .. r_T of r_{t+1} = (1 - a) r_t + a ReLU(W r_t + drive_t) + noise_t (A.1).

    Args:
        start_BN: r_0.
        drive_TBN: W_in x_t, and a bias if there is one.
        weight_NN: W, (to, from).
        noise_TBN: already scaled, without gradient; None: none. It is overwritten.
        leak: a = dt / tau.
    """
    states: Tensor = _ReluScan.apply(start_BN, drive_TBN, weight_NN, noise_TBN, leak)
    return states


def compiled_relu_scan(
    start_BN: Float[Tensor, "B N"],
    drive_TBN: Float[Tensor, "T B N"],
    weight_NN: Float[Tensor, "N N"],
    noise_TBN: Float[Tensor, "T B N"] | None,
    leak: float,
) -> Float[Tensor, "T B N"]:
    """Return what `relu_scan` does by `torch.compile`, 20 steps at a time, which it merges into fewer kernels.

    For training on a GPU, where starting kernels takes longer than running them. It needs Triton there, a C++ compiler
    on a CPU, and a minute at the first call. The noise is not overwritten.
    """
    chunks = []
    for first in range(0, len(drive_TBN), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        noise = None if noise_TBN is None else noise_TBN[chunk]
        chunks.append(_compiled_steps()(start_BN, drive_TBN[chunk], weight_NN, noise, leak))
        start_BN = chunks[-1][-1]
    return torch.cat(chunks)


@functools.cache
def _compiled_steps() -> Callable[..., Tensor]:
    # Without what checks types at run time in tests: it cannot be compiled.
    return torch.compile(inspect.unwrap(_relu_steps), dynamic=False)


def _relu_steps(
    start_BN: Tensor, drive_TBN: Tensor, weight_NN: Tensor, noise_TBN: Tensor | None, leak: float
) -> Tensor:
    states = []
    for t, drive_BN in enumerate(drive_TBN.unbind()):
        start_BN = (1 - leak) * start_BN + leak * torch.relu(torch.addmm(drive_BN, start_BN, weight_NN.T))
        if noise_TBN is not None:
            start_BN = start_BN + noise_TBN[t]
        states.append(start_BN)
    return torch.stack(states)


def gru_scan(
    start_BN: Float[Tensor, "B N"],
    gate_drive_TBM: Float[Tensor, "T B M"],
    drive_TBN: Float[Tensor, "T B N"],
    gate_weight_MN: Float[Tensor, "M N"],
    weight_NN: Float[Tensor, "N N"],
    noise_TBN: Float[Tensor, "T B N"] | None,
    leak: float,
) -> Float[Tensor, "T B N"]:
    """Return r_1 .. r_T of r_{t+1} = r_t + a (1 - z)(tanh(W (g r_t) + drive_t) - r_t) + noise_t (A.3 - A.6).

    Args:
        start_BN: r_0.
        gate_drive_TBM: drive of the gates z and g, one after the other: M = 2 N.
        drive_TBN: drive of the candidate.
        gate_weight_MN: recurrent weights of z and g, one above the other.
        weight_NN: recurrent weights of the candidate.
        noise_TBN: already scaled, without gradient; None: none. It is overwritten.
        leak: a = dt / tau.
    """
    states: Tensor = _GRUScan.apply(start_BN, gate_drive_TBM, drive_TBN, gate_weight_MN, weight_NN, noise_TBN, leak)
    return states


def _states(ctx: Any, start_BN: Tensor, noise_TBN: Tensor | None, num_steps: int) -> Tensor:
    """[T, B, N] memory for r_1 .. r_T that already holds the noise."""
    if noise_TBN is None:
        return start_BN.new_zeros(num_steps, *start_BN.shape)
    ctx.mark_dirty(noise_TBN)
    return noise_TBN


class _ReluScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, start_BN: Tensor, drive_TBN: Tensor, weight_NN: Tensor, noise_TBN: Tensor | None, leak: float
    ) -> Tensor:
        states_TBN = _states(ctx, start_BN, noise_TBN, len(drive_TBN))
        rates_TBN = torch.empty_like(drive_TBN)
        before_BN = start_BN
        for state_BN, rate_BN, drive_BN in zip(
            states_TBN.unbind(), rates_TBN.unbind(), drive_TBN.unbind(), strict=True
        ):
            torch.addmm(drive_BN, before_BN, weight_NN.T, out=rate_BN)
            rate_BN.relu_()
            state_BN.add_(before_BN, alpha=1 - leak).add_(rate_BN, alpha=leak)
            before_BN = state_BN
        ctx.leak = leak
        ctx.save_for_backward(start_BN, states_TBN, rates_TBN, weight_NN)
        return states_TBN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBN: Tensor) -> tuple[Tensor | None, ...]:
        start_BN, states_TBN, rates_TBN, weight_NN = ctx.saved_tensors
        leak = ctx.leak
        pre_TBN = (rates_TBN > 0).to(grad_TBN.dtype).mul_(leak)  # becomes the gradient of W r + drive
        carried_BN = torch.zeros_like(start_BN)
        for pre_BN, grad_BN in zip(reversed(pre_TBN.unbind()), reversed(grad_TBN.unbind()), strict=True):
            carried_BN = carried_BN + grad_BN
            pre_BN.mul_(carried_BN)
            carried_BN = torch.addmm(carried_BN, pre_BN, weight_NN, beta=1 - leak)
        grad_weight = _weight_gradient(pre_TBN, start_BN, states_TBN)
        return carried_BN, pre_TBN, grad_weight, None, None


class _GRUScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        start_BN: Tensor,
        gate_drive_TBM: Tensor,
        drive_TBN: Tensor,
        gate_weight_MN: Tensor,
        weight_NN: Tensor,
        noise_TBN: Tensor | None,
        leak: float,
    ) -> Tensor:
        num_units = start_BN.shape[1]
        states_TBN = _states(ctx, start_BN, noise_TBN, len(drive_TBN))
        gates_TBM, candidates_TBN = torch.empty_like(gate_drive_TBM), torch.empty_like(drive_TBN)
        before_BN = start_BN
        for t, state_BN in enumerate(states_TBN.unbind()):
            gates_BM, candidate_BN = gates_TBM[t], candidates_TBN[t]
            torch.addmm(gate_drive_TBM[t], before_BN, gate_weight_MN.T, out=gates_BM)
            gates_BM.sigmoid_()
            update_BN, reset_BN = gates_BM[:, :num_units], gates_BM[:, num_units:]
            torch.addmm(drive_TBN[t], reset_BN * before_BN, weight_NN.T, out=candidate_BN)
            candidate_BN.tanh_()
            state_BN.add_(before_BN).addcmul_(1 - update_BN, candidate_BN - before_BN, value=leak)
            before_BN = state_BN
        ctx.leak = leak
        ctx.save_for_backward(start_BN, states_TBN, gates_TBM, candidates_TBN, gate_weight_MN, weight_NN)
        return states_TBN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBN: Tensor) -> tuple[Tensor | None, ...]:
        start_BN, states_TBN, gates_TBM, candidates_TBN, gate_weight_MN, weight_NN = ctx.saved_tensors
        leak, num_units = ctx.leak, start_BN.shape[1]
        before_TBN = torch.cat([start_BN.unsqueeze(0), states_TBN[:-1]])
        update_TBN, reset_TBN = gates_TBM[..., :num_units], gates_TBM[..., num_units:]
        grad_gates_TBM, grad_pre_TBN = torch.empty_like(gates_TBM), torch.empty_like(candidates_TBN)
        carried_BN = torch.zeros_like(start_BN)
        for t in range(len(grad_TBN) - 1, -1, -1):
            before_BN, candidate_BN, update_BN, reset_BN = (
                part[t] for part in (before_TBN, candidates_TBN, update_TBN, reset_TBN)
            )
            total_BN = carried_BN + grad_TBN[t]
            open_BN = leak * (1 - update_BN) * total_BN
            grad_pre_TBN[t] = open_BN * (1 - candidate_BN.square())
            grad_reset_before_BN = grad_pre_TBN[t] @ weight_NN
            grad_gates_TBM[t, :, :num_units] = (
                -leak * total_BN * (candidate_BN - before_BN) * update_BN * (1 - update_BN)
            )
            grad_gates_TBM[t, :, num_units:] = grad_reset_before_BN * before_BN * reset_BN * (1 - reset_BN)
            carried_BN = torch.addmm(
                total_BN - open_BN + grad_reset_before_BN * reset_BN, grad_gates_TBM[t], gate_weight_MN
            )
        grad_gate_weight = grad_gates_TBM.flatten(0, 1).T @ before_TBN.flatten(0, 1)
        grad_weight = grad_pre_TBN.flatten(0, 1).T @ (reset_TBN * before_TBN).flatten(0, 1)
        return carried_BN, grad_gates_TBM, grad_pre_TBN, grad_gate_weight, grad_weight, None, None


def _weight_gradient(pre_TBN: Tensor, start_BN: Tensor, states_TBN: Tensor) -> Tensor:
    """Sum over t of (gradient of W r_t)^T r_t, without copying the states for the sake of r_0."""
    later = pre_TBN[1:].flatten(0, 1).T @ states_TBN[:-1].flatten(0, 1)
    return torch.addmm(later, pre_TBN[0].T, start_BN)
