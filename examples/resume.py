"""Go on with a flow whose process was killed: what it had completed is there, and is not done again."""

import os
import signal
import subprocess
import sys

from penstock import flow, task


@task
def measure(city):
    print("measure", city, flush=True)
    if city == "Lima" and sys.argv[1:] == ["first life"]:
        os.kill(os.getpid(), signal.SIGKILL)  # no cleaning up, no last words
    return len(city)


@flow(persist_result=True)
def census(cities):
    total = sum(measure(city) for city in cities)
    print("total", total, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["first life"]:
        census(["Oslo", "Bern", "Lima", "Quito"])
    # In another process, because this one is to survive.
    killed = subprocess.run([sys.executable, __file__, "first life"])
    print("ended by", signal.Signals(-killed.returncode).name, flush=True)
    # The same as `penstock resume @last` in a terminal; in Python, `penstock.resume(flow_run_id)`.
    subprocess.run([sys.executable, "-m", "penstock.cli", "resume", "@last"], check=True)
