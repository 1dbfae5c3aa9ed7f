"""The channels of a child process to the daemon: reports on descriptor 3, answers to its questions on what was stdin.

A report is a line of JSON with one member. A question is the report `{"ask": [n, what, fields]}`; its answer is the
line `{"n": n, "is": ...}`, or with `error` (an error of ours) or `lost` in place of `is`. Questions of several threads
are asked side by side. An order, the first line and in a kept process any that has no `n`, is what to run next.
"""

import json
import os
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final

REPORT_FD: Final = 3


class Wire:
    """Both channels. Threads of the function may write too; a slow reader makes the writer wait."""

    def __init__(self, report_fd: int = REPORT_FD, answer_fd: int = 0) -> None:
        os.set_inheritable(report_fd, False)
        self._reports = os.fdopen(report_fd, "wb", buffering=0)
        self._answers: BinaryIO = os.fdopen(os.dup(answer_fd), "rb")
        self._lock = threading.Lock()
        self._waiting: dict[int, _Question] = {}
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asked = 0
        self._reader: threading.Thread | None = None
        self._gone = False

    def order(self) -> Any:
        """Wait for what is to be done next; None when there will be nothing more."""
        if self._reader is not None:  # it reads every line from its first question on
            return self._orders.get()
        for line in self._answers:
            order = json.loads(line)
            if "n" not in order:  # else it answers a question that was not asked here: the user's code can write too
                return order
        return None

    def send(self, name: str, value: bytes) -> None:
        """Write one report: *value* is JSON already."""
        rest = memoryview(b'{"%b":%b}\n' % (name.encode(), value))
        with self._lock:
            while rest:
                rest = rest[self._reports.write(rest) or 0 :]

    def beat(self, every: float) -> None:
        """Tell every so many seconds that this process lives, whatever its code does: from a thread, so a process that
        is stopped, or whose code never lets go of the interpreter, is not heard of.
        """
        over = threading.Event()

        def run() -> None:
            while not over.wait(every):
                try:
                    self.send("beat", b"1")
                except OSError:  # nobody listens any more; the guard will see to us
                    return

        start_deaf(run, "beat")

    def ask(self, what: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Ask, and wait for the answer: a dict with `is`, `error` or `lost`. With the daemon gone all is lost."""
        question = _Question()
        with self._lock:
            if self._gone:
                return {"lost": True}
            self._asked += 1
            number = self._asked
            self._waiting[number] = question
            if self._reader is None:
                self._reader = start_deaf(self._read, "answers")
        try:
            self.send("ask", json.dumps([number, what, fields]).encode())
            question.over.wait()
        finally:
            self._waiting.pop(number, None)
        return question.answer

    def _read(self) -> None:
        for line in self._answers:
            answer = json.loads(line)
            if "n" not in answer:
                self._orders.put(answer)
                continue
            question = self._waiting.get(answer["n"])
            if question is not None:
                question.answer = answer
                question.over.set()
        with self._lock:
            self._gone = True
            left = list(self._waiting.values())
        for question in left:
            question.over.set()
        self._orders.put(None)


class DeafThread(threading.Thread):
    """One of our own threads, which serves the process and not the function in it."""


def start_deaf(run: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that takes no signals.

    After a stop the kernel gives what came meanwhile to whichever thread wakes first. Were that one of ours, the main
    thread would sleep on, and only there Python runs the handler that ends it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread = DeafThread(target=run, name=name, daemon=True)
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


class _Question:
    """One who waits for an answer."""

    __slots__ = ("answer", "over")

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {"lost": True}
        self.over = threading.Event()
