"""Runs in the user's container of MPI jobs: rank 0's pod starts `mpirun`, whose remote shell is ours.

Installed into the pod as the package `moorage_mpi`, and run by whatever Python the user's environment or image has: standard library only, and
nothing that Python 3.7 lacks. Why there is no sshd: docs/decisions/0014-mpi-without-ssh.md.
"""
