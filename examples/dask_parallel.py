"""Two tasks at the same time in the processes of a temporary Dask cluster: their outputs mix."""

import time

from penstock import flow, task
from penstock.task_runners import DaskTaskRunner


@task
def print_values(values):
    for value in values:
        time.sleep(0.05)
        print(value, end="\r", flush=True)


@flow(task_runner=DaskTaskRunner())
def parallel_flow():
    print_values.submit(["AAAA"] * 15)
    print_values.submit(["BBBB"] * 10)


if __name__ == "__main__":  # the cluster's processes import this file
    parallel_flow()
