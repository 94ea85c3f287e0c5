"""Every point at which a task can be cancelled: counted, and then tried one by one."""

import trio

from fuzz.world.hosts import Host


class Points(trio.abc.Instrument):
    """Counts the steps of a host's tasks, each of which ends where the task can be cancelled; and
    cancels `scope` at the one with the number `at`."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.host: Host | None = None
        self.scope: trio.CancelScope | None = None

    def begin(self, host: Host, scope: trio.CancelScope) -> None:
        """Count from here on."""
        self.host, self.scope = host, scope

    def end(self) -> None:
        self.host = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.host is None or not self._is_ours(task):
            return
        if self.count == self.at and self.scope:
            self.scope.cancel()
        self.count += 1

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and self.host is not None:
            if task is self.host.task:
                return True
            task = task.parent_nursery.parent_task if task.parent_nursery else None
        return False
