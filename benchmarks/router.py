"""The router against calling the backend directly, and beside nginx when it is installed: interleaved rounds, medians, ratios to `direct`.

Closed loop with wrk when it is installed, else with load.py; the fixed rate always with load.py. CPU time a request is the figure that other
load on the machine disturbs least.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import load
import processes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from table import Row, median

from moorage.identity.scoring import ScoringTokens, Verifier
from moorage.specs.routing import TokenTerms

KEY = "benchmark-key-0123456789abcdef"
SIGNER = ScoringTokens(Ed25519PrivateKey.generate(), lifetime=timedelta(hours=1))
ROUNDS = 5
SECONDS = 2.0
FIXED_SECONDS = 1.2
RATES = (1000, 5000)
HERE = Path(__file__).parent
SCORE = "/api/v1/endpoint/digits/score"

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  upstream blue {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 1000000000; }}
  upstream green {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 1000000000; }}
  split_clients "$request_id" $chosen {{ 90% blue; * green; }}
  map $http_authorization $allowed {{ default 0; "Bearer {key}" 1; }}
  server {{
    listen 127.0.0.1:{port};
    location = {score} {{
      if ($allowed = 0) {{ return 401; }}
      proxy_pass http://$chosen/score; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""
WRK = """
wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["authorization"] = "Bearer {key}"
wrk.headers["content-type"] = "application/json"
"""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    port: int
    path: str
    pids: tuple[int, ...]
    credential: str = KEY


def measure() -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-")))
        backend, port = stack.enter_context(processes.running(processes.python(str(HERE / "backend.py"))))
        targets = [Target("direct", int(port), "/score", (backend.pid,))]
        words = processes.python(str(HERE / "router_process.py"), port, KEY, str(folder / "router.log"), *SIGNER.public_keys)
        router, router_port = stack.enter_context(processes.running(words))
        targets.append(Target("router", int(router_port), SCORE, (router.pid,)))
        token = SIGNER.issue("benchmark", 0).token
        with_tokens = Target("router, a token", int(router_port), SCORE.replace("digits", "tokens"), (router.pid,), token)
        if (program := shutil.which("nginx")) is not None:
            targets.append(stack.enter_context(_nginx(program, folder, port)))
        yield from _closed([*targets[:2], with_tokens, *targets[2:]], folder)
        yield "router, a token never seen before", f"{_first_sight():5.1f} us CPU more"
        for rate in RATES:
            yield from _fixed(targets, rate)
        yield "router, resident after it", f"{processes.cost(router.pid).memory:.0f} MiB"


@contextmanager
def _nginx(program: str, folder: Path, backend: str) -> Iterator[Target]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, user=user, backend=backend, key=KEY, port=port, score=SCORE))
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")])
    try:
        deadline = time.monotonic() + 5
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nginx did not start: {(folder / 'error.log').read_text()}")
            time.sleep(0.05)
        yield Target("nginx", port, SCORE, tuple(processes.tree(process.pid)))
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _closed(targets: list[Target], folder: Path) -> Iterator[Row]:
    wrk = shutil.which("wrk")
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for target in targets:
            before = processes.cpu(target.pids)
            rate, requests = _wrk(wrk, target, folder) if wrk else _load(target)
            rates[target.name].append(rate)
            costs[target.name].append((processes.cpu(target.pids) - before) / requests * 1e6)
    tool = "wrk" if wrk else "load.py"
    for name, found in rates.items():
        ratio = median([one / base for one, base in zip(found, rates["direct"], strict=True)])
        yield (
            f"closed loop, {load.CONNECTIONS} connections ({tool}): {name}",
            f"{median(found):8,.0f} requests/s  {ratio:5.2f} x direct  {median(costs[name]):5.1f} us CPU a request",
        )


def _first_sight() -> float:
    """Microseconds of a signature: what a token costs the first time, and never again while it lives."""
    verifier, now = Verifier(TokenTerms("benchmark", 0, SIGNER.public_keys)), time.time()
    tokens = [SIGNER.issue("benchmark", number).token for number in range(2000)]
    began = time.process_time()
    for token in tokens:
        verifier.verify(token, now)
    return (time.process_time() - began) / len(tokens) * 1e6


def _wrk(program: str, target: Target, folder: Path) -> tuple[float, int]:
    url = f"http://127.0.0.1:{target.port}{target.path}"
    (folder / "post.lua").write_text(WRK.format(body=load.BODY.decode(), key=target.credential))
    words = [program, "-t1", f"-c{load.CONNECTIONS}", f"-d{SECONDS:.0f}s", "-s", str(folder / "post.lua"), url]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{target.name} failed requests:\n{text}")
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert requests and rate
    return float(rate[1]), int(requests[1])


def _load(target: Target, rate: int = 0) -> tuple[float, int]:
    found = run_load(target.port, target.path, rate, FIXED_SECONDS, target.credential)
    return found["rate"], int(found["requests"])


def run_load(port: int, path: str, rate: float = 0, seconds: float = SECONDS, credential: str = KEY) -> dict[str, float]:
    """One round of load.py; SystemExit when a request failed."""
    words = processes.python(str(HERE / "load.py"), str(port), path, credential, str(seconds), str(rate))
    found: dict[str, float] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    if found["failed"]:
        raise SystemExit(f"{found['failed']:.0f} requests to port {port} failed")
    return found


def _fixed(targets: list[Target], rate: int) -> Iterator[Row]:
    means: dict[str, list[float]] = defaultdict(list)
    tails: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for target in targets:
            before = processes.cpu(target.pids)
            found = run_load(target.port, target.path, rate, FIXED_SECONDS)
            means[target.name].append(found["mean"] * 1000)
            tails[target.name].append(found["p99"] * 1000)
            costs[target.name].append((processes.cpu(target.pids) - before) / max(1.0, found["requests"]) * 1e6)
    for name in means:
        added = [one - base for one, base in zip(means[name], means["direct"], strict=True)]
        tail = [one - base for one, base in zip(tails[name], tails["direct"], strict=True)]
        said = f"mean {median(means[name]):6.2f} ms, p99 {median(tails[name]):6.2f} ms"
        if name != "direct":
            said += f"; added to direct: mean {median(added):6.2f} ms, p99 {median(tail):6.2f} ms"
        yield f"{rate:,} requests/s: {name}", f"{said}; {median(costs[name]):.1f} us CPU a request"
