"""Progress on a real terminal: what a person sees while a flow runs, and what is left when it is over."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from terminals import Terminal, program

MAP = """
@task
def work(x):
    if x == 2:
        raise ValueError(x)
    if x == 8:
        get_run_logger().warning("eight is special")
    if x == 9:
        picture()
        checkpoint()
    return x

@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def main():
    work.map(range(20)).wait()

try:
    main()
except ValueError as error:
    print("raised", error)
"""
QUIET = MAP.replace("picture()", "time.sleep(0.1)").replace("checkpoint()", "")
COLOURS = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])[;m]")
BAR = "━─…"


def heading_of(screen: list[str]) -> int:
    """The row of a flow's heading: an empty one is above it."""
    return next(n for n, line in enumerate(screen) if " done" in line and not screen[n - 1])


def words(line: str) -> list[str]:
    return [word for word in line.split() if not set(word) & set(BAR)]


def said(line: str) -> str:
    """A line of the log without its time."""
    return line.partition(" | ")[2]


# --- what is seen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
def test_a_map_is_shown_below_its_log_and_summed_up_at_the_end(tmp_path: Path, columns: int) -> None:
    with program(tmp_path, MAP, columns) as terminal:
        screen = terminal.at_checkpoint()
        place = heading_of(screen)
        assert words(screen[place])[-5:] == ["done", "running", "failed", "rate", "left"]
        assert words(screen[place + 1])[:4] == ["work", "9/20", "1", "1"]
        assert [line for line in screen[place + 2 :] if line] == []
        started, special = screen[: place - 1]
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \| INFO    \| main/\w+-\w+ started", started)
        assert re.fullmatch(r"WARNING \| main/\w+-\w+ · work-0\[8\] - eight is special", said(special))
        terminal.go_on()
        lines = terminal.end()
    assert terminal.status == 0
    assert lines[:2] == [started, special]
    assert (words(lines[2])[-3:], words(lines[3])[:3]) == (["done", "failed", "rate"], ["work", "20/20", "1"])
    ended, raised = "".join(lines[4:-1]), lines[-1]
    assert re.fullmatch(r"INFO    \| main/\w+-\w+ FAILED in .+ · 20 task runs \(1 failed\)", said(ended))
    assert raised == "raised 2"
    assert terminal.screen.cursor.x == 0


@pytest.mark.parametrize("columns", [30, 50])
def test_a_narrow_terminal_gets_what_matters_most(tmp_path: Path, columns: int) -> None:
    with program(tmp_path, MAP, columns) as terminal:
        screen = terminal.at_checkpoint()
        heading, work = screen[heading_of(screen) :][:2]
        assert set(words(heading)) >= {"done", "run", "fail"} and words(work)[:4] == ["work", "9/20", "1", "1"]
        terminal.go_on()
        terminal.end()


def test_without_a_place_for_all_tasks_those_that_go_on_are_shown(tmp_path: Path) -> None:
    body = """
@task
def work(x):
    if x == 19:
        picture()
        checkpoint()

@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def main():
    for n in range(20):
        work.with_options(name=f"work_{n}").submit(n).wait()

main()
"""
    with program(tmp_path, body, rows=10) as terminal:
        screen = terminal.at_checkpoint()
        place = heading_of(screen)
        shown = [words(line)[0] for line in screen[place + 1 :] if line]
        assert shown == ["work_15", "work_16", "work_17", "work_18", "work_19", "and"]
        assert screen[place + len(shown)].split() == ["and", "15", "more"]
        terminal.go_on()
        lines = terminal.end()
    assert [words(line)[0] for line in lines if line.startswith("  ")] == [f"work_{n}" for n in range(20)]


def test_subflows_are_lines_with_their_tasks_below(tmp_path: Path) -> None:
    body = """
@task
def clean(x):
    return x

@task
def look():
    picture()
    checkpoint()

@flow
def inner(n):
    clean.map(range(n)).result()
    if n == 3:
        look()

@flow
def outer():
    clean(0)
    inner(2)
    inner(3)

outer()
"""
    with program(tmp_path, body, 120) as terminal:
        screen = terminal.at_checkpoint()
        place = heading_of(screen)
        shown = [(len(line) - len(line.lstrip()), words(line)[:2]) for line in screen[place + 1 :] if line]
        assert shown == [(2, ["clean", "1/1"]), (2, ["inner", "1/2"]), (4, ["clean", "5/5"]), (4, ["look", "0/1"])]
        terminal.go_on()
        lines = terminal.end()
    assert lines[-1].endswith(" · 7 task runs, 2 subflow runs")


def test_flows_of_several_threads_share_the_picture(tmp_path: Path) -> None:
    body = """
@task
def wait(event):
    event.wait()

@flow
def one(event):
    wait(event)

@flow
def two(event):
    wait(event)

first, second = threading.Event(), threading.Event()
threads = [threading.Thread(target=f, args=(e,)) for f, e in ((one, first), (two, second))]
for thread in threads:
    thread.start()
while len(following._pictures._watched) < 2:
    time.sleep(0.002)
picture()
checkpoint()
first.set()
threads[0].join()
checkpoint()
second.set()
threads[1].join()
"""
    with program(tmp_path, body) as terminal:
        both = terminal.at_checkpoint()
        headings = [line.partition("/")[0] for line in both if " done" in line]
        assert sorted(headings) == ["one", "two"]
        terminal.go_on()
        rest = terminal.at_checkpoint()
        assert rest[heading_of(rest)].startswith("two/")
        terminal.go_on()
        lines = terminal.end()
    kinds = [line.partition("/")[0] for line in lines if " done" in line]
    assert kinds == ["one", "two"]


def test_a_flow_that_is_quick_is_not_shown(tmp_path: Path) -> None:
    with program(tmp_path, "following._PATIENCE = 60\n" + QUIET) as terminal:
        lines = terminal.end()
    assert lines[-1] == "raised 2"
    assert b"\x1b" not in terminal.raw


# --- whether it is shown ----------------------------------------------------------------------------------------------


def test_no_color_is_respected(tmp_path: Path) -> None:
    coloured = {}
    for value in (None, "1"):
        with program(tmp_path, MAP, NO_COLOR=value) as terminal:
            terminal.at_checkpoint()
            terminal.go_on()
            terminal.end()
        coloured[value] = COLOURS.search(terminal.raw) is not None
    assert coloured == {None: True, "1": False}


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"TERM": "dumb"}, False),
        ({"CI": "true", "PENSTOCK_PROGRESS": "on"}, True),
        ({"PENSTOCK_LOGGING_LEVEL": "ERROR"}, True),
    ],
    ids=str,
)
def test_where_it_is_shown(tmp_path: Path, environment: dict[str, str | None], shown: bool) -> None:
    with program(tmp_path, QUIET, **environment) as terminal:
        lines = terminal.end()
    assert (b"\x1b" in terminal.raw) is shown
    assert any("20/20" in line for line in lines) is shown
    assert lines[-1] == "raised 2"


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path) -> None:
    body = MAP.replace("def work(", "def wörk(").replace("work.map", "wörk.map")
    with program(tmp_path, body, 100, PYTHONIOENCODING="ascii:backslashreplace") as terminal:
        screen = terminal.at_checkpoint()
        assert re.match(r"  w\?rk  #+-+ +9/20", screen[heading_of(screen) + 1])
        terminal.go_on()
        terminal.end()
    assert terminal.raw.isascii()


def test_workers_show_nothing(tmp_path: Path) -> None:
    """Neither those of a process runner nor processes of the program's own, which have inherited the terminal."""
    body = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

@flow
def inner():
    time.sleep(0.1)

@task
def work(x):
    inner()

def start():
    inner()

@flow(task_runner=ProcessPoolTaskRunner(2))
def main():
    work.map(range(2)).result()
    picture()

if __name__ == "__main__":
    main()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        pool.submit(start).result()
"""
    with program(tmp_path, body, 120) as terminal:
        lines = terminal.end()
    assert terminal.status == 0
    assert [line.partition("/")[0] for line in lines if " done" in line] == ["main"]


# --- beside others who write ------------------------------------------------------------------------------------------


def test_lines_of_others_are_not_torn(tmp_path: Path) -> None:
    """A log handler that got hold of the stream long ago, prints in parts, and both streams."""
    body = """
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(logging.Formatter("<%(message)s>"))
log = logging.getLogger("mine")
log.addHandler(handler)
log.setLevel(logging.INFO)

@task
def talk(x):
    for n in range(25):
        log.info("line %d of %d", n, x)
        sys.stdout.write(f"[print {n} of {x}]\\n")
        time.sleep(0.001)

@task
def parts():
    for n in range(10):
        print("one", end="")
        picture_comes_not()
        print(" line", n)

def picture_comes_not():
    time.sleep(0.03)

@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def main():
    futures = talk.map(range(4))
    picture()
    futures.wait()
    parts()

main()
"""
    with program(tmp_path, body) as terminal:
        lines = Counter(terminal.end())
    wanted = [f"<line {n} of {x}>" for n in range(25) for x in range(4)]
    wanted += [f"[print {n} of {x}]" for n in range(25) for x in range(4)]
    wanted += [f"one line {n}" for n in range(10)]
    assert {line: lines[line] for line in wanted} == dict.fromkeys(wanted, 1)


def test_nothing_is_drawn_while_a_line_is_unfinished(tmp_path: Path) -> None:
    body = """
@flow
def main():
    picture()
    print("your name? ", end="")
    time.sleep(0.1)
    checkpoint()
    print("nobody")
    picture()
    checkpoint()

main()
"""
    with program(tmp_path, body) as terminal:
        screen = terminal.at_checkpoint()
        assert [line for line in screen if line][1:] == ["your name?"]
        assert (terminal.screen.cursor.y, terminal.screen.cursor.x) == (1, 11)
        terminal.go_on()
        screen = terminal.at_checkpoint()
        assert screen[1:3] == ["your name? nobody", ""] and screen[3].startswith("main/")
        terminal.go_on()
        terminal.end()


def test_what_subprocesses_write_is_never_overwritten(tmp_path: Path) -> None:
    body = """
import subprocess

@task
def run(n):
    subprocess.run(["sh", "-c", f"for i in 1 2 3 4 5 6 7 8; do echo said {n}.$i; done"])
    picture()

@flow
def main():
    picture()
    for n in range(4):
        run(n)

main()
"""
    with program(tmp_path, body, rows=16) as terminal:
        lines = terminal.end()
    told = [re.match(r"said (\d\.\d)", line) for line in lines]
    assert [match[1] for match in told if match] == [f"{n}.{i}" for n in range(4) for i in range(1, 9)]


def test_output_that_goes_elsewhere_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "output"
    body = f"""
os.dup2(os.open({str(target)!r}, os.O_WRONLY | os.O_CREAT), 1)

@flow
def main():
    picture()
    print("into the file")
    picture()

main()
"""
    with program(tmp_path, body) as terminal:
        lines = terminal.end()
    assert target.read_text() == "into the file\n"
    assert "into the file" not in "\n".join(lines)


@pytest.mark.parametrize(
    "bar",
    [
        """
    from rich.progress import track
    for n in track(range(30), "theirs"):
        time.sleep(0.01)
""",
        """
    from rich.live import Live
    with Live("theirs", transient=True) as live:
        for n in range(30):
            live.update(f"theirs {n}")
            time.sleep(0.01)
    print("theirs is over")
""",
        """
    from tqdm import tqdm
    for n in tqdm(range(30), "theirs", mininterval=0):
        time.sleep(0.01)
""",
    ],
    ids=["rich progress", "rich live", "tqdm"],
)
def test_a_progress_bar_of_the_programs_own(tmp_path: Path, bar: str) -> None:
    body = f"""
@task
def work():
    picture()
{bar}
@flow
def main():
    work()
    picture()
    checkpoint()

main()
"""
    with program(tmp_path, body) as terminal:
        screen = terminal.at_checkpoint()
        assert words(screen[heading_of(screen) + 1])[:2] == ["work", "1/1"]
        terminal.go_on()
        lines = terminal.end()
    assert terminal.status == 0
    (last,) = [line for line in lines if "theirs" in line]
    assert re.match(r"theirs( ━+ 100%|: 100%\|| is over$)", last)


# --- trouble ----------------------------------------------------------------------------------------------------------

WAITS = """
@task
def wait(x):
    while True:
        time.sleep(0.01)

@flow
def main():
    wait.map([1])
    picture()
    checkpoint()
    time.sleep(30)

main()
"""


def test_ctrl_c_leaves_nothing_broken(tmp_path: Path) -> None:
    with program(tmp_path, WAITS) as terminal:
        terminal.at_checkpoint()
        terminal.type(b"\x03")
        lines = terminal.end()
    assert terminal.status == -signal.SIGINT
    assert "KeyboardInterrupt" in lines
    (heading,) = [n for n, line in enumerate(lines) if " done" in line]
    assert "1/1" in lines[heading + 1] and "CRASHED in" in lines[heading + 2]
    assert_left_alone(terminal)


def test_a_second_ctrl_c_takes_the_picture_away(tmp_path: Path) -> None:
    body = """
@task
def wait(x):
    time.sleep(30)

@flow
def main():
    wait.map([1])
    picture()
    try:
        checkpoint()
    except KeyboardInterrupt:
        picture()
        following._pictures._looking.acquire()  # no other one comes at the last moment
        checkpoint()

main()
"""
    with program(tmp_path, body) as terminal:
        terminal.at_checkpoint()
        terminal.type(b"\x03")
        assert "wait" in "".join(terminal.at_checkpoint())
        terminal.type(b"\x03")
        lines = terminal.end()
    assert terminal.status == 130
    assert [line for line in lines if " done" in line or "wait" in line] == []


def test_an_exception_is_shown_below_the_picture(tmp_path: Path) -> None:
    body = """
@flow
def main():
    picture()
    raise ValueError("at the end")

main()
"""
    with program(tmp_path, body) as terminal:
        lines = terminal.end()
    assert terminal.status == 1
    traceback = lines.index("Traceback (most recent call last):")
    assert "FAILED in" in lines[traceback - 1] and lines[-1] == "ValueError: at the end"
    assert_left_alone(terminal)


def assert_left_alone(terminal: Terminal) -> None:
    """The cursor is seen, below everything, and no mode of the terminal is other than it was."""
    screen = terminal.screen
    assert (screen.cursor.hidden, screen.cursor.x) == (False, 0)
    assert not any(line.strip() for line in screen.display[screen.cursor.y :])
    modes = re.findall(rb"\x1b\[\?\d+[hl]|\x1b\[[\d;]*r", terminal.raw)
    assert set(modes) == {b"\x1b[?7l", b"\x1b[?7h"} and modes[-1] == b"\x1b[?7h"


def test_a_terminal_that_goes_away_ends_no_flow(tmp_path: Path) -> None:
    target = tmp_path / "outcome"
    body = f"""
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)

@flow
def main():
    picture()
    checkpoint()
    time.sleep(0.2)
    return "fine"

open({str(target)!r}, "w").write(main())
"""
    with program(tmp_path, body) as terminal:
        terminal.at_checkpoint()
        terminal.hang_up()
        terminal.go_on()
        terminal.join()
    assert target.read_text() == "fine"


def test_another_size_is_noticed(tmp_path: Path) -> None:
    with program(tmp_path, MAP.replace("checkpoint()", "checkpoint(); picture(); checkpoint()"), 120) as terminal:
        screen = terminal.at_checkpoint()
        assert len(screen[heading_of(screen)]) > 60
        terminal.resize(60, 20)
        terminal.go_on()
        screen = terminal.at_checkpoint()
        place = heading_of(screen)
        assert 40 < len(screen[place]) <= 60 and words(screen[place + 1])[:2] == ["work", "9/20"]
        assert not any(screen[place + 2 :])
        terminal.go_on()
        terminal.end()


def test_a_forked_child_writes_without_us(tmp_path: Path) -> None:
    body = """
import warnings
warnings.simplefilter("ignore")

@flow
def main():
    picture()
    child = os.fork()
    if not child:
        assert "write" not in vars(sys.stderr)
        sys.stderr.write("from the child\\n")
        os._exit(7)
    assert os.waitpid(child, 0)[1] == 7 << 8
    picture()

main()
"""
    with program(tmp_path, body) as terminal:
        lines = terminal.end()
    assert terminal.status == 0
    assert "from the child" in lines


def test_the_streams_are_as_before(tmp_path: Path) -> None:
    body = """
before = sys.stdout.write, sys.stderr.write

@flow
def main():
    picture()
    assert "write" in vars(sys.stdout) and "write" in vars(sys.stderr)

main()
assert "write" not in vars(sys.stdout) and "write" not in vars(sys.stderr)
assert before == (sys.stdout.write, sys.stderr.write)
"""
    with program(tmp_path, body) as terminal:
        terminal.end()
    assert terminal.status == 0
