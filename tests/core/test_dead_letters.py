"""The bounded record of messages that reached nobody."""

from runtime.core.dead_letters import KEPT, DeadLetter, DeadLetters


def test_the_oldest_gives_way_and_the_counts_go_on():
    letters = DeadLetters()
    for n in range(KEPT + 10):
        letters.add(DeadLetter("expired" if n % 2 else "stopped", "t", "to", None, n))
    assert len(letters) == KEPT
    assert next(iter(letters)).at == 10
    assert letters.counts == {"expired": (KEPT + 10) // 2, "stopped": (KEPT + 10) // 2}
