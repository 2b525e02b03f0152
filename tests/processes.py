"""Real service processes under test: started on a free port, watched through their log."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from file_service.config import PREFIX

READY_SECONDS = 30


@dataclass
class ServiceProcess:
    """A running `file-service serve`: where it listens, what it logged."""

    process: subprocess.Popen[bytes]
    url: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    _arrived: "queue.Queue[dict[str, Any] | None]" = field(default_factory=queue.Queue)

    def wait_for(self, message: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until `message` was logged `count` times and return those lines."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            found = [line for line in self.lines if str(line.get("message")).startswith(message)]
            if len(found) >= count:
                return found
            try:
                line = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{message!r} was not logged in time: {self.lines}") from None
            if line is None:
                raise AssertionError(f"the service ended before {message!r}: {self.lines}")

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 20) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait(seconds=seconds)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the service and its workers, at once."""
        pid = self.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, workers)]:
            os.kill(each, number)

    def kill_all(self) -> None:
        """Kill the service and its workers, all at once."""
        self.signal_all(signal.SIGKILL)
        self.process.wait()

    def wait(self, *, seconds: float = 20) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(timeout=seconds)

    def end(self) -> None:
        """Make sure that nothing of it is left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def read_lines(self) -> None:
        """Collect log lines until the process ends."""
        assert self.process.stdout is not None
        try:
            for text in self.process.stdout:
                line = json.loads(text)
                self.lines.append(line)
                self._arrived.put(line)
        except ValueError:  # the pipe was closed at the end of the test
            pass
        self._arrived.put(None)


def service_environment(**variables: str) -> dict[str, str]:
    """This process's environment, without our variables other than those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | variables


def running_service(*flags: str, **variables: str) -> ServiceProcess:
    """Start `file-service serve` on a free port and return once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "file_service", "serve", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        env=service_environment(**variables),
    )
    service = ServiceProcess(process)
    threading.Thread(target=service.read_lines, daemon=True).start()
    try:
        line = service.wait_for("listening on ")[0]
        service.url = str(line["message"]).removeprefix("listening on ")
        service.wait_for("worker started", int(line["workers"]))
    except BaseException:
        service.end()
        raise
    return service
