"""Carrying out an experiment: its networks one after the other, or several at once in processes of their own.

Each process uses one thread, which suits small networks best. Whatever ends an experiment, what is on the disk is
whole, and :func:`carry_out` goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from equilip.errors import EquilipError
from equilip.paper.experiment import Experiment, Network
from equilip.paper.stages import Stage, check, finished, perform

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

#: Told what a network (its name) has come to.
Listener = Callable[[str, str], None]

#: Seconds between looks at whether the processes are still there.
_LOOK = 1.0


@dataclass(frozen=True)
class _Message:
    """What a process says of a network: some progress, that it is done, or what went wrong."""

    network: str
    text: str
    done: bool = False
    error: EquilipError | Exception | None = None


def carry_out(
    experiment: Experiment,
    out: Path,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    said: Listener | None = None,
) -> None:
    """Do what is still to be done of the experiment, each network in its folder of ``out``.

    jobs: how many networks at once. Raises, before anything is done, ConfigError where a folder holds another network;
    later what :func:`equilip.paper.stages.perform` raises, for the first network that fails, with the others stopped.
    """
    say = said or (lambda network, text: None)
    for network in experiment.networks:
        check(network, out / network.name)
    open_ = [network for network in experiment.networks if set(finished(network, out / network.name)) != set(Stage)]
    out.mkdir(parents=True, exist_ok=True)
    if jobs <= 1 or len(open_) <= 1:
        with one_thread():
            for network in open_:
                _perform(network, experiment, out, data_dir, say)
    else:
        _spread(open_, experiment, out, data_dir, min(jobs, len(open_)), say)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _perform(
    network: Network, experiment: Experiment, out: Path, data_dir: str | os.PathLike[str] | None, say: Listener
) -> None:
    folder = out / network.name
    perform(network, folder, experiment.measures, data_dir=data_dir, said=lambda text: say(network.name, text))


def _spread(
    networks: Sequence[Network],
    experiment: Experiment,
    out: Path,
    data_dir: str | os.PathLike[str] | None,
    jobs: int,
    say: Listener,
) -> None:
    context = multiprocessing.get_context("spawn")
    tasks: Queue[Network | None] = context.Queue()
    messages: Queue[_Message] = context.Queue()
    for task in (*networks, *[None] * jobs):
        tasks.put(task)
    workers = [_start(context, tasks, messages, experiment, out, data_dir) for _ in range(jobs)]
    try:
        left = len(networks)
        while left:
            message = _next(messages, workers)
            if message.error is not None:
                raise message.error
            if message.done:
                left -= 1
            else:
                say(message.network, message.text)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _start(
    context: SpawnContext,
    tasks: Queue[Network | None],
    messages: Queue[_Message],
    experiment: Experiment,
    out: Path,
    data_dir: str | os.PathLike[str] | None,
) -> SpawnProcess:
    worker = context.Process(target=_work, args=(tasks, messages, experiment, out, data_dir), daemon=True)
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


def _work(
    tasks: Queue[Network | None],
    messages: Queue[_Message],
    experiment: Experiment,
    out: Path,
    data_dir: str | os.PathLike[str] | None,
) -> None:
    """What a process does: one network after the other, until there are no more."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)

    def say(network: str, text: str) -> None:
        messages.put(_Message(network, text))

    while (network := tasks.get()) is not None:
        try:
            _perform(network, experiment, out, data_dir, say)
        except KeyboardInterrupt:
            return
        except EquilipError as error:
            # Without what it may carry: solutions do not travel between processes.
            messages.put(_Message(network.name, "", error=EquilipError(f"{network.name}: {error}")))
        except Exception as error:
            messages.put(_Message(network.name, "", error=RuntimeError(f"{network.name}: {error!r}")))
        else:
            messages.put(_Message(network.name, "", done=True))


def _die_with_parent() -> None:
    """End this process with the one that started it: two of them must never write into one run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
