"""Worker processes of the engine `inline`.

With small batches, processes of one thread use the cores, and threads don't.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import cast

import torch
from flwr.app import Error, Message

from tardis_fl.core.compute import MOST_THREADS
from tardis_fl.federation.engines.inline import Answer, Request
from tardis_fl.federation.engines.shared_memory import SharedArrays
from tardis_fl.federation.engines.worker_process import Done, Handshake, Order, Records

CLIENT_APP_CRASHED = 8  # Flower's code for a process that ended
# requests that may be worked on ahead of the oldest one without an answer: that many updates may
# wait in memory
AHEAD_PER_WORKER = 8
SECONDS_TO_END = 5.0


class WorkerProcesses:
    """A workplace of several processes, each with one thread and one resident model.

    Requests are handed out in their order, the next one to whoever is free. A process that dies
    fails the client that it was working for, and a new one takes its place.

    Args:
        client_app: MODULE:ATTRIBUTE of the app that every node runs.
        count: Processes.
        num_nodes: Nodes that they play.
    """

    def __init__(self, client_app: str, count: int, num_nodes: int) -> None:
        self._handshake = Handshake(list(sys.path), client_app, num_nodes)
        self._records = Records({})
        self._waiting: deque[tuple[int, Request]] = deque()
        # handed out or waiting, by message id, in order
        self._open: dict[str, tuple[int, Request]] = {}
        self._places = 0
        self._own_threads: int | None = None
        self._workers = [_Worker(self._handshake) for _ in range(count)]

    def submit(self, requests: Sequence[Request]) -> None:
        """Takes requests; records that several of them share go to each process once."""
        uses = Counter(
            id(record) for request in requests for record in request.message.content.values()
        )
        shared = {
            id(record): record
            for request in requests
            for record in request.message.content.values()
            if uses[id(record)] > 1
        }
        if requests and self._own_threads is None:
            self._own_threads = torch.get_num_threads()
            # while the workers have the cores, a second thread is only waited for
            torch.set_num_threads(1)
        self._records = Records(shared)
        for worker in self._workers:
            worker.send(self._records)
        for request in requests:
            self._waiting.append((self._places, request))
            self._open[request.message_id] = (self._places, request)
            self._places += 1
        self._hand_out()

    def next(self, message_ids: Sequence[str]) -> Answer:
        """Returns whatever answer comes first."""
        ready = wait([worker.connection for worker in self._workers if worker.orders])
        worker = next(worker for worker in self._workers if worker.connection is ready[0])
        try:
            done = cast(Done, worker.memory.load(worker.connection.recv_bytes()))
        except (EOFError, OSError):
            done = self._replace(worker)
        else:
            worker.orders.popleft()
        _, request = self._open.pop(done.message_id)
        self._hand_out()
        if not self._open and self._own_threads is not None:
            torch.set_num_threads(self._own_threads)
            self._own_threads = None
        if done.error is not None:
            reply = Message(done.error, reply_to=request.message)
        else:
            assert done.content is not None, "an answer has content or an error"
            reply = Message(done.content, reply_to=request.message)
        return Answer(request.node_id, reply, done.state)

    def _hand_out(self) -> None:
        """Gives each process one request to work on, and while there are plenty a second one."""
        for at_hand in (1, 2):
            for worker in self._workers:
                plenty = len(self._waiting) > len(self._workers)
                if (
                    self._waiting
                    and len(worker.orders) < at_hand
                    and (at_hand == 1 or plenty)
                    and self._near(self._waiting[0][0])
                ):
                    _, request = self._waiting.popleft()
                    worker.order(request, self._records)

    def _near(self, place: int) -> bool:
        oldest = next(iter(self._open.values()))[0]
        return place - oldest < AHEAD_PER_WORKER * len(self._workers)

    def _replace(self, worker: _Worker) -> Done:
        """Puts a new process in place of one that died; returns the failure of its client."""
        failed, *unbegun = worker.orders
        for message_id in reversed(unbegun):
            self._waiting.appendleft(self._open[message_id])
        ended = worker.end()
        self._workers[self._workers.index(worker)] = fresh = _Worker(self._handshake)
        fresh.send(self._records)
        return Done(
            failed,
            None,
            Error(CLIENT_APP_CRASHED, f"its worker process died ({ended})"),
            self._open[failed][1].state,
        )

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if self._own_threads is not None:
            torch.set_num_threads(self._own_threads)
        for worker in self._workers:
            worker.connection.close()  # all of them first: each is a process's reason to end
        for worker in self._workers:
            worker.end()


class _Worker:
    """A process, and this side's end of the socket to it.

    Attributes:
        orders: Ids of the messages that it has, the one it works on first; never more than two, so
            that its shared memory suffices.
    """

    def __init__(self, handshake: Handshake) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            MOST_THREADS: "1",
            "PYTHONPATH": os.pathsep.join(path for path in handshake.path if path),
        }
        # in a process group of its own, so that Ctrl-C reaches this side alone, whose end is the
        # end of the worker too
        self.memory = SharedArrays()
        descriptors = [theirs.fileno(), self.memory.file_descriptor]
        # not with -m, which warns of a module that its own package has imported already
        program = "from tardis_fl.federation.engines.worker_process import main; main({}, {})"
        command = [sys.executable, "-c", program.format(*descriptors)]
        self._process = subprocess.Popen(
            command, pass_fds=descriptors, env=environment, process_group=0
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.orders = deque[str]()
        self.send(handshake)

    def send(self, what: object) -> None:
        """Sends something; that the process is gone is noticed where its answer is awaited."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(what)

    def order(self, request: Request, records: Records) -> None:
        """Sends a request."""
        message = request.message
        shared = {
            name: id(record)
            for name, record in message.content.items()
            if id(record) in records.records
        }
        own = {name: record for name, record in message.content.items() if name not in shared}
        metadata = message.metadata
        self.orders.append(metadata.message_id)
        self.send(
            Order(
                metadata.message_id,
                metadata.dst_node_id,
                metadata.message_type,
                metadata.group_id,
                own,
                shared,
                request.state,
            )
        )

    def end(self) -> str:
        """Waits for the process to end, or ends it; returns how it ended."""
        self.connection.close()
        self.memory.close()
        try:
            code = self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}; was there enough memory?"
        return f"exit code {code}"
