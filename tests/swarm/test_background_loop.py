"""The event loop beside the script: one a process, errors as they are, Ctrl-C, and an end in time."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from coterie.errors import MessageError, RunError
from coterie.swarm.background import BackgroundLoop, shared


@pytest.fixture
def loop():
    made = BackgroundLoop()
    yield made
    made.close()


def python(script):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_there_is_one_for_all_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(shared())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len({id(each) for each in found}) == 1


def test_several_threads_wait_at_once(loop):
    meeting, results = [], []

    async def meet(number):
        meeting.append(number)
        while len(meeting) < 3:  # nobody gets through unless all three are on the loop together
            await asyncio.sleep(0.001)
        return number, threading.current_thread().name

    threads = [threading.Thread(target=lambda n=n: results.append(loop.run(meet(n)))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == [(n, "coterie-swarm") for n in range(3)]


def test_an_error_comes_as_it_is(loop):
    error = MessageError("no such thing", where="here", remedy="Look there.")

    async def fail():
        await asyncio.sleep(0)
        raise error

    with pytest.raises(MessageError) as caught:
        loop.run(fail())
    assert caught.value is error
    assert any(entry.name == "fail" for entry in caught.traceback)


def test_it_works_where_a_loop_runs_already(loop):
    """As in a notebook, whose cells run on the main thread's own loop."""

    async def answer():
        await asyncio.sleep(0)
        return 42

    async def cell():
        return loop.run(answer())

    assert asyncio.run(cell()) == 42


def test_called_on_its_own_thread_it_does_not_wait_for_itself(loop):
    async def inner():
        return 1

    async def outer():
        return loop.run(inner())

    with pytest.raises(RunError, match="would wait for itself"):
        loop.run(outer())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_there_does_not_end_the_loop(loop, error):
    async def leave():
        raise error

    with pytest.raises(RunError, match=f"{error.__name__} on the swarm's event loop"):
        loop.run(leave())
    assert not loop.closed


def test_closing_lets_everybody_go(loop):
    started, cleaned, errors = threading.Event(), [], []

    async def wait():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    def script():
        try:
            loop.run(wait())
        except RunError as error:
            errors.append(error)

    thread = threading.Thread(target=script)
    thread.start()
    assert started.wait(30)
    loop.close()
    thread.join(30)
    assert cleaned == [True]
    assert "stopped" in str(errors[0])
    assert loop.closed
    with pytest.raises(RunError, match="has been stopped"):
        loop.run(wait())
    loop.close()


INTERRUPTED = """
    import asyncio, threading
    from coterie.swarm.background import shared

    async def forever(started=None):
        print("waiting", flush=True)
        if started:
            started.set()
        try:
            await asyncio.Event().wait()
        finally:
            print("cleaned", flush=True)

    async def answer():
        return 42

    try:
        shared().run(forever())
    except KeyboardInterrupt:
        print("interrupted", shared().run(answer()))
    started = threading.Event()
    threading.Thread(target=lambda: shared().run(forever(started)), daemon=True).start()
    started.wait()
    raise ValueError("the user's own")
"""


def test_ctrl_c_ends_the_wait_and_the_work_and_a_script_that_fails_ends():
    """It fails although a coroutine is at work on the loop, and another thread waits for it."""
    process = python(INTERRUPTED)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "cleaned\ninterrupted 42\nwaiting\ncleaned\n", err
    assert "ValueError: the user's own" in err
    assert process.returncode == 1


def test_a_forked_child_has_a_loop_of_its_own():
    """As the workers of a DataLoader are."""

    async def answer():
        return os.getpid()

    assert shared().run(answer()) == os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(shared().run(answer())).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == str(child)
    os.waitpid(child, 0)


FORKED = """
    import os, signal, sys, torch, coterie
    sys.path.insert(0, {folder!r})
    from swarm_meeting import Meeting

    swarm = coterie.SwarmCallback(1, 1, model=torch.nn.Linear(3, 2), session=Meeting(1).session())
    swarm.on_train_begin()
    if not (child := os.fork()):
        signal.alarm(60)
        try:
            swarm.on_batch_end()
        except coterie.errors.RunError as error:
            print(error, flush=True)
        sys.exit()
    print(os.waitpid(child, 0)[1], swarm.on_batch_end())
"""


def test_a_forked_child_does_not_wait_for_its_parents_loop_and_ends():
    process = python(FORKED.format(folder=str(Path(__file__).parent)))
    out, err = process.communicate(timeout=90)
    assert out == "the swarm's event loop has been stopped. Start the training again.\n0 False\n", err
