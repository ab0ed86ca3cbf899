"""What mirrored traffic costs the requests that are copied: endpoints of one router with and without it, interleaved rounds, medians, ratios to `none`.

`tenth` and `half` copy that share to a deployment that answers at once, `stuck` a tenth to one that never answers. The backend answers originals and
copies on the same cores, so that the closed loop has to lose by the copies' share of the work; CPU time is the router's alone.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import processes
from router import HERE, KEY, run_load
from table import Row, median

ROUNDS = 7
SECONDS = 0.8
RATE = 2000
ENDPOINTS = {"none": "digits", "tenth": "tenth", "half": "half", "stuck": "stuck"}


def measure() -> Iterator[Row]:
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    means: dict[str, list[float]] = defaultdict(list)
    tails: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-")))
        _, backend = stack.enter_context(processes.running(processes.python(str(HERE / "backend.py"))))
        words = processes.python(str(HERE / "router_process.py"), backend, KEY, str(folder / "router.log"))
        router, port = stack.enter_context(processes.running(words))
        for _ in range(ROUNDS):
            for name, endpoint in ENDPOINTS.items():
                path = f"/api/v1/endpoint/{endpoint}/score"
                before = processes.cpu((router.pid,))
                found = run_load(int(port), path, 0, SECONDS)
                costs[name].append((processes.cpu((router.pid,)) - before) / found["requests"] * 1e6)
                rates[name].append(found["rate"])
                found = run_load(int(port), path, RATE, SECONDS)
                means[name].append(found["mean"] * 1000)
                tails[name].append(found["p99"] * 1000)
        memory = processes.cost(router.pid).memory
    for name in ENDPOINTS:
        ratio = median([one / base for one, base in zip(rates[name], rates["none"], strict=True)])
        added = median([one - base for one, base in zip(costs[name], costs["none"], strict=True)])
        yield (
            f"closed loop: {name}",
            f"{median(rates[name]):8,.0f} requests/s  {ratio:5.2f} x none  {median(costs[name]):5.1f} us CPU a request ({added:+.1f})",
        )
    for name in ENDPOINTS:
        mean = median([one - base for one, base in zip(means[name], means["none"], strict=True)])
        tail = median([one - base for one, base in zip(tails[name], tails["none"], strict=True)])
        yield (
            f"{RATE:,} requests/s: {name}",
            f"mean {median(means[name]):6.2f} ms, p99 {median(tails[name]):6.2f} ms; to none: mean {mean:+.2f} ms, p99 {tail:+.2f} ms",
        )
    yield "router, resident after it", f"{memory:.0f} MiB"
