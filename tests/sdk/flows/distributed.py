"""What processes of distributed jobs run in tests: plain Python, so that no framework is needed."""

from __future__ import annotations

# Every process sends its number to process 0, which answers with the sum: an all-reduce.
REDUCE = """
import os, socket, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(place) as server:
        others = [server.accept()[0] for _ in range(world - 1)]
    total = sum(int(each.recv(100)) for each in others)
    for each in others:
        each.sendall(str(total).encode())
else:
    while True:
        try:
            connection = socket.create_connection(place)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    connection.sendall(str(rank).encode())
    total = int(connection.recv(100))
print(f"process {rank} of {world}: {total}")
"""
# Workers ask the parameter server, which never ends.
SERVED = """
import json, os, socket, time
config = json.loads(os.environ["TF_CONFIG"])
role, index = config["task"]["type"], config["task"]["index"]
host, port = config["cluster"]["ps"][0].split(":")
if role == "ps":
    server = socket.create_server((host, int(port)))
    while True:
        connection = server.accept()[0]
        connection.sendall(b"weights")
        connection.close()
while True:
    try:
        connection = socket.create_connection((host, int(port)))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
print(f"worker {index} of {len(config['cluster']['worker'])} has {connection.recv(100).decode()}")
"""
# Every process sums the ranks with the others through whatever MPI started it, and says so in one write.
RANKS = """
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank)
print(f"process {world.rank} of {world.size}: {total}\\n", end="", flush=True)
"""
