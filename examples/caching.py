"""Compute the answer to a question once, in all runs together; ask why a call is not answered by the cache."""

from penstock import flow, task
from penstock.cache_policies import INPUTS, TASK_SOURCE


@task(cache_policy=INPUTS + TASK_SOURCE)
def square(number):
    print("computing", number)
    return number * number


@flow
def squares(numbers):
    return [square(number) for number in numbers]


if __name__ == "__main__":
    print(squares([2, 3]))
    print(squares([2, 3, 4]))
    # Whoever starts this script again gets everything from the cache, unless `square` is another one by then.
    print(square.explain_cache(5))
