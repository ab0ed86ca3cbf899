"""The command line of `moorage_mpi`. The job's key is a variable, since command lines can be seen by all."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import timedelta

from . import head, shell, worker
from .instance import Failure, Place

# Images are pulled when an instance is prepared, at different speeds, and may be of tens of gigabytes.
_PATIENCE_SECONDS = 7200.0


def main(arguments: Sequence[str]) -> int:
    """Run one command; answers the exit status."""
    if arguments[:1] == ["rsh"]:
        # Its options are ssh's.
        return shell.execute(arguments[1:], os.environ)
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except Failure as failure:
        failure.report()
        return failure.status


def _run(options: Namespace) -> int:
    place = Place(options.peers.split(","), options.index, options.port, os.environ[shell.KEY], timedelta(seconds=options.patience))
    if place.index == 0:
        return head.run(place, options.command, options.processes)
    return worker.work(place)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="moorage_mpi", description=__doc__)
    parser.add_argument("run", choices=["run"])
    parser.add_argument("--peers", required=True, help="addresses of all instances by index, with commas between them")
    parser.add_argument("--index", type=int, required=True, help="which instance this is")
    parser.add_argument("--port", type=int, required=True, help="where rank 0's instance listens")
    parser.add_argument("--processes", type=int, default=1, help="processes on each instance")
    parser.add_argument(
        "--patience", type=float, default=_PATIENCE_SECONDS, metavar="SECONDS", help="how long the instances wait for each other"
    )
    parser.add_argument("command", help="the user's, for /bin/sh")
    return parser
