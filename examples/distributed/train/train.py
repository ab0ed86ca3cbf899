"""Fits a line with DistributedDataParallel: every process sees data of its own, and all end with the same weights.

MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK and LOCAL_RANK are there; init_process_group reads them.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()

    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")

    torch.manual_seed(rank)
    line = DistributedDataParallel(torch.nn.Linear(1, 1).to(device))
    optimizer = torch.optim.SGD(line.parameters(), lr=0.1)
    for step in range(options.steps):
        x = torch.rand(64, 1, device=device)
        loss = torch.nn.functional.mse_loss(line(x), 3 * x + 1)
        optimizer.zero_grad()
        loss.backward()  # averages the gradients of all processes
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)

    slope = line.module.weight.detach().reshape(1)
    every = [torch.empty_like(slope) for _ in range(world)]
    dist.all_gather(every, slope)
    assert all(torch.equal(each, slope) for each in every), every
    print(f"process {rank} of {world} found the slope {slope.item():.3f}", flush=True)
    if rank == 0:
        # One process writes; all instances store their outputs to the same place.
        options.model.mkdir(parents=True, exist_ok=True)
        torch.save(line.module.state_dict(), options.model / "line.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
