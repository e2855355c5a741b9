"""What every task shares: calling, results, saving."""

from kerasneuro.tasks.base import Result, Task

__all__ = ["Result", "Task"]
