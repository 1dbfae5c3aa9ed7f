"""The store in plain Python: the reference that says what every change means, and the store of simulations."""

from runtime.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
