"""Run a task once for each element of a list, and pass all the results on."""

from penstock import flow, task


@task
def print_nums(nums: list[int]):
    for n in nums:
        print(n)


@task
def square_num(num: int) -> int:
    return num**2


@flow
def map_flow(nums: list[int]):
    print_nums(nums)
    squared_nums = square_num.map(nums)
    print_nums(squared_nums)


if __name__ == "__main__":
    map_flow([1, 2, 3, 5, 8, 13])
