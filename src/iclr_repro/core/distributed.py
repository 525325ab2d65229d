"""What a run needs to know of its sibling processes under `accelerate launch` or `torchrun`: rank, barrier, any.

Without a launcher everything here is that of a single process.
"""

from __future__ import annotations

import gc
import os
import socket
from typing import Any

import torch
import torch.distributed as dist


def num_processes() -> int:
    """Return the number of processes that run this program together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this process is rank 0, the only one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def start(device: torch.device) -> None:
    """Join the process group if a launcher started several processes: gloo on the CPU, nccl on GPUs."""
    if num_processes() > 1 and not dist.is_initialized():
        from accelerate import PartialState  # slow to import, and of no use to a single process

        keep_to_this_host()
        PartialState(cpu=device.type == "cpu")


def keep_to_this_host() -> None:
    """Let gloo use the loopback interface if the launcher has all its processes on this host; call before joining.

    Otherwise gloo binds to the address of the host's name, and hangs where that name has none, as on a laptop without a
    network. `GLOO_SOCKET_IFNAME`, where set, stays as it is.
    """
    loopback = {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}
    if loopback and num_processes() > 1 and os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())


def stop() -> None:
    """Leave the process group, all processes together; models wrapped for DDP must be out of use.

    A DDP reducer that outlives the group ends it while it holds the interpreter's lock, which gloo's threads may wait
    for, and the process hangs. Reducers in reference cycles are therefore collected first.
    """
    if dist.is_initialized():
        gc.collect()
        dist.barrier()  # a process that leaves early can hang the others in gloo's shutdown
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if num_processes() > 1:
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process; all of them must call this together."""
    if num_processes() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    reduced = torch.tensor(int(flag), device=device)
    dist.all_reduce(reduced, op=dist.ReduceOp.MAX)
    return bool(reduced.item())


def from_main(value: Any) -> Any:
    """Return the main process's value in every process."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
