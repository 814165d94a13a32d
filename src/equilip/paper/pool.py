"""Several tasks at once, in processes of their own with one thread each, which suits small networks best.

What is done is a function of a module, so that a new process can find it. Whatever ends the work ends the processes.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, TypeVar

import torch

from equilip.errors import EquilipError

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

T = TypeVar("T")

#: Told what a task (its name) has come to.
Listener = Callable[[str, str], None]
#: Does a task, and says what comes of it.
Work = Callable[[T, Callable[[str], None]], None]

#: Seconds between looks at whether the processes are still there.
_LOOK = 1.0


@dataclass(frozen=True)
class _Message:
    """What a process says of a task: some progress, that it is done, or what went wrong."""

    task: str
    text: str
    done: bool = False
    error: EquilipError | Exception | None = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(tasks: Mapping[str, T], work: Work[T], jobs: int, say: Listener) -> None:
    """``work`` on every task, by name; ``jobs`` at once, in this process where that is 1.

    Raises what the first task that fails raises (from a process an EquilipError with its name), the others stopped.
    """
    if jobs <= 1 or len(tasks) <= 1:
        with one_thread():
            for name, task in tasks.items():
                work(task, lambda text, name=name: say(name, text))  # type: ignore[misc]
        return
    context = multiprocessing.get_context("spawn")
    waiting: Queue[tuple[str, T] | None] = context.Queue()
    messages: Queue[_Message] = context.Queue()
    jobs = min(jobs, len(tasks))
    for entry in (*tasks.items(), *[None] * jobs):
        waiting.put(entry)
    workers = [_start(context, waiting, messages, work) for _ in range(jobs)]
    try:
        left = len(tasks)
        while left:
            message = _next(messages, workers)
            if message.error is not None:
                raise message.error
            if message.done:
                left -= 1
            else:
                say(message.task, message.text)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _start(
    context: SpawnContext, waiting: Queue[tuple[str, T] | None], messages: Queue[_Message], work: Work[T]
) -> SpawnProcess:
    worker = context.Process(target=_work, args=(waiting, messages, work), daemon=True)
    worker.start()
    return worker


def _next(messages: Queue[_Message], workers: Sequence[SpawnProcess]) -> _Message:
    """The next message; EquilipError where a process ended without one."""
    while True:
        try:
            return messages.get(timeout=_LOOK)
        except queue.Empty:
            for worker in workers:
                if worker.exitcode not in (None, 0):
                    raise EquilipError(
                        f"a process that trained a network ended with status {worker.exitcode} (is there enough "
                        "memory?); call again with --resume, perhaps with --jobs 1"
                    ) from None


def _work(waiting: Queue[tuple[str, T] | None], messages: Queue[_Message], work: Work[T]) -> None:
    """What a process does: one task after the other, until there are no more."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while (found := waiting.get()) is not None:
        name, task = found
        try:
            work(task, lambda text, name=name: messages.put(_Message(name, text)))  # type: ignore[misc]
        except KeyboardInterrupt:
            return
        except EquilipError as error:
            # Without what it may carry: solutions do not travel between processes.
            messages.put(_Message(name, "", error=EquilipError(f"{name}: {error}")))
        except Exception as error:
            messages.put(_Message(name, "", error=RuntimeError(f"{name}: {error!r}")))
        else:
            messages.put(_Message(name, "", done=True))


def _die_with_parent() -> None:
    """End this process with the one that started it: two of them must never write into one run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
