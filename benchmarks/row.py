"""One line of a benchmark's result, with the bar it is held to."""

from typing import NamedTuple


class Row(NamedTuple):
    """What was measured: ours beside the bare baseline (`limit`) of the same run; only their ratio counts.

    bar
        the ratio ours / limit that passes: at least this where higher is better, at most this otherwise.
    """

    name: str
    ours: float
    limit: float
    bar: float
    unit: str = "/s"
    higher_is_better: bool = True

    @property
    def ratio(self) -> float:
        """Ours over the limit."""
        return self.ours / self.limit

    @property
    def passed(self) -> bool:
        """Whether the bar is met."""
        return self.ratio >= self.bar if self.higher_is_better else self.ratio <= self.bar

    def __str__(self) -> str:
        sign, verdict = ">=" if self.higher_is_better else "<=", "ok" if self.passed else "MISSED"
        figures = f"ours {self.ours:,.1f} {self.unit}, limit {self.limit:,.1f} {self.unit}"
        return f"{self.name}: {figures}, ratio {self.ratio:.2f} (bar {sign} {self.bar:g}) {verdict}"
