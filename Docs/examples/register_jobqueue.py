"""Registers many pairs on a cluster with Slurm or Grid Engine, whose jobs become workers of Dask.

    pip install "deepregslicer[torch,cluster]" dask-jobqueue
    python register_jobqueue.py slurm --jobs 20 --memory 4GB -- manifest.csv --out study --method affine

What follows -- is for regcore register-all. This program waits at a login node, or in a small job of its own,
until all is done; called again, it goes on where it ended. The folders must be on a shared file system.
"""

import argparse
import sys

import dask
import dask_jobqueue

from RegCore.cli import main

KINDS = {"slurm": "SLURMCluster", "sge": "SGECluster"}


def start(kind: str, jobs: int, cores: int, memory: str, time: str, queue: str | None):
    """A cluster whose workers are `jobs` jobs, each with one process of `cores` threads for PyTorch."""
    dask.config.set({"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": cores}})
    options = {"cores": 1, "processes": 1, "memory": memory, "walltime": time, "queue": queue}
    options |= {"job_cpu": cores} if kind == "slurm" else {"job_extra_directives": [f"-pe smp {cores}"]}
    cluster = getattr(dask_jobqueue, KINDS[kind])(**options)
    cluster.scale(jobs=jobs)
    return cluster


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--jobs", type=int, default=10, help="workers")
    parser.add_argument("--cores", type=int, default=1, help="processors of a worker")
    parser.add_argument("--memory", default="4GB", help="of a worker")
    parser.add_argument("--time", default="04:00:00", help="limit of a job; pairs it ends are done again")
    parser.add_argument("--queue", help="partition or queue")
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:place])
    with start(given.kind, given.jobs, given.cores, given.memory, given.time, given.queue) as cluster:
        code = main(["register-all", *sys.argv[place + 1 :], "--scheduler", cluster.scheduler_address])
    raise SystemExit(code)
