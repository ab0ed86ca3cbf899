"""The scoring server with a run() that does nothing, one worker, called directly."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import load
import processes
import router
from table import Row, median

ROUNDS = 3
SECONDS = 2.0
SCRIPT = "import json\n\n\ndef init():\n    pass\n\n\ndef run(raw_data):\n    return json.loads(raw_data)['images'][0][0]\n"
SERVER = Path(__file__).parent.parent / "src" / "moorage" / "podside" / "scoring"


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as name:
        folder = Path(name)
        (folder / "score.py").write_text(SCRIPT)
        # Pods have a copy under this name.
        shutil.copytree(SERVER, folder / "moorage_scoring")
        environment = os.environ | {
            "POD_IP": "127.0.0.1",
            "AZUREML_SCORING_PORT": "0",
            "AML_APP_ROOT": name,
            "AZUREML_ENTRY_SCRIPT": "score.py",
        }
        log = folder / "log"
        with log.open("w") as sink:
            server = subprocess.Popen(processes.python("-u", str(folder / "moorage_scoring")), stdout=sink, stderr=sink, env=environment)
        try:
            port = int(processes.said(log, r"Serving on \S+:(\d+)", server))
            rates, costs = [], []
            for _ in range(ROUNDS):
                before = processes.cpu([server.pid])
                found = router.run_load(port, "/score", seconds=SECONDS)
                rates.append(found["rate"])
                costs.append((processes.cpu([server.pid]) - before) / found["requests"] * 1e6)
            yield (
                f"trivial run(), one worker, {load.CONNECTIONS} connections",
                f"{median(rates):8,.0f} requests/s  {median(costs):5.0f} us CPU a request",
            )
            yield "resident after it", f"{processes.cost(server.pid).memory:.0f} MiB"
        finally:
            server.terminate()
            server.wait()
