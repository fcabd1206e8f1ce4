"""Submit tasks to a task runner: three elevators serve ten floors, the highest first."""

import time

from penstock import flow, task
from penstock.futures import wait
from penstock.task_runners import ThreadPoolTaskRunner

SECONDS_PER_FLOOR = 0.02


@task
def stop_at_floor(floor):
    print(f"elevator moving to floor {floor}")
    time.sleep(floor * SECONDS_PER_FLOOR)
    print(f"elevator stops on floor {floor}")


@flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
def elevator():
    floors = []

    for floor in range(10, 0, -1):
        future = stop_at_floor.submit(floor)
        floors.append(future)

    wait(floors)  # wait for the sequence of futures to complete


if __name__ == "__main__":
    elevator()
