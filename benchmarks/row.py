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

    @property
    def half_passed(self) -> bool:
        """Whether at least half of the bar is met: what a run on a shared machine is held to."""
        return self.ratio >= self.bar / 2 if self.higher_is_better else self.ratio <= self.bar * 2

    def as_table_line(self) -> str:
        """Return the row as a line of a Markdown table."""
        sign = "≥" if self.higher_is_better else "≤"
        verdict = "ok" if self.passed else "half" if self.half_passed else "**missed**"
        ours, limit = f"{self.ours:,.4g} {self.unit}", f"{self.limit:,.4g} {self.unit}"
        if self.unit == "/s":
            ours, limit = f"{self.ours:,.0f} /s", f"{self.limit:,.0f} /s"
        return f"| {self.name} | {ours} | {limit} | {self.ratio:.2f} | {sign} {self.bar:g} | {verdict} |"

    def __str__(self) -> str:
        sign, verdict = ">=" if self.higher_is_better else "<=", "ok" if self.passed else "MISSED"
        figures = f"ours {self.ours:,.1f} {self.unit}, limit {self.limit:,.1f} {self.unit}"
        return f"{self.name}: {figures}, ratio {self.ratio:.2f} (bar {sign} {self.bar:g}) {verdict}"
