"""What a seed makes of a day: the configuration, the jobs, and how often each thing goes wrong."""

import random
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.jobs import Dependency, NewJob

STARTS: Final = (
    1_767_268_800_000,  # 2026-01-01 12:00 UTC, a day like others
    1_774_700_000_000,  # 2026-03-28, the day before clocks go forward in Berlin
    1_792_850_000_000,  # 2026-10-24, the day before they go back
    1_772_280_000_000,  # 2026-02-28, the end of a month
)
QUEUES: Final = ("a", "b", "c", "d")
MAX_ACTIVE: Final = {"a": 3, "b": 2}
RATE: Final = (60, 600_000)
"""Jobs of queue c that may start within so many milliseconds."""
KEYS: Final = {"key-1": 1, "key-2": 2}

CRONS: Final = (
    ("*/10 */6 * * *", "UTC"),
    ("*/40 * * * *", "Europe/Berlin"),
    ("30 2 * * *", "Europe/Berlin"),
    ("0,30 1-3 * * *", "America/New_York"),
    ("5 * * * *", "Australia/Lord_Howe"),
)


@dataclass
class Day:
    """The knobs of one history, all from its seed."""

    seed: int
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"a day of seed {self.seed}")
        self.start_ms = self.rng.choice(STARTS)
        self.overall = self.rng.choice((None, 4, 6))
        self.gap = self.rng.uniform(400, 1300)
        """Seconds between two things that somebody does, on average."""
        self.catchups = {f"s{n}": self.rng.choice(("skip", "one", "all")) for n in range(3)}
        self.config = self._config()

    def _config(self) -> str:
        lease = self.rng.choice((180, 300, 600))
        overall = "" if self.overall is None else f"max_active = {self.overall}\n"
        text = (
            f"[runtime]\nlease = '{lease}s'\nheartbeat = '{lease // 3}s'\nreconcile = '10m'\ndrain = '20s'\n"
            f"pool = {self.rng.randint(2, 4)}\nchild_pool = {self.rng.randint(1, 3)}\n{overall}"
            "[kinds.act]\nrun = 'tests.simulation.acts:play'\nin_loop = true\ntimeout = '20m'\nmax_attempts = 4\n"
            "queue = 'a'\nretry = { base = '1s', max = '2m' }\n"
            "[kinds.work]\nrun = 'tests.simulation.acts:play'\ntimeout = '30m'\nmax_attempts = 4\nqueue = 'b'\n"
            "retry = { base = '1s', max = '2m' }\n"
            f"[queues.a]\nmax_active = {MAX_ACTIVE['a']}\n[queues.b]\nmax_active = {MAX_ACTIVE['b']}\n"
            f"[queues.c]\nrate = {{ requests = {RATE[0]}, per = '{RATE[1] // 1000}s' }}\n"
            "[queues.d.retention]\ncompleted = '1h'\n"
            "[pools.own]\nlane = 'loop'\nsize = 1\nqueues = ['d']\n"
            "[retention]\ncompleted = '5h'\ncompleted_max = 150\nfailed = '9h'\n"
        )
        crons = self.rng.sample(CRONS, len(self.catchups))
        for (name, catchup), (cron, tz) in zip(self.catchups.items(), crons, strict=True):
            overlap = self.rng.choice(("allow", "allow", "skip"))
            kind, queue = self.rng.choice((("act", "c"), ("work", "b")))
            text += (
                f"[schedules.{name}]\ncron = '{cron}'\ntz = '{tz}'\nkind = '{kind}'\nqueue = '{queue}'\n"
                f"catchup = '{catchup}'\noverlap = '{overlap}'\n"
                f"args = {{ script = [['nap', {self.rng.choice((0, 5, 200))}]] }}\n"
            )
        return text

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def script(self, kind: str, depth: int = 0) -> list[list[Any]]:
        """Return what a job does."""
        acts = [self._act(kind, depth) for _ in range(self.rng.choice((1, 1, 1, 2, 3)))]
        parts = [act for act in acts if act[0] == "children"]
        return [act for act in acts if act not in parts[1:]]  # each wait is for all of them

    def _act(self, kind: str, depth: int) -> list[Any]:
        rng = self.rng
        acts: dict[str, tuple[int, Any]] = {
            "nap": (30, lambda: [rng.choice((0, 0.5, 5, 60, 600))]),
            "step": (20, lambda: [rng.choice((0, 1, 30))]),
            "fail": (12, lambda: [rng.randint(1, 5)]),
            "give_up": (2, list),
            "call_off": (1, list),
            "retry": (4, lambda: [rng.choice((1, 60))]),
            "snooze": (4, lambda: [rng.choice((1, 600))]),
            "rest": (6, lambda: [rng.choice((0.5, 30, 3600))]),
            "signal": (6, lambda: ["go", rng.choice((30, 1800))]),
            "report": (4, list),
            "children": (0 if depth else 5, lambda: self._children(kind)),
            "die": (6 if kind == "work" else 0, lambda: [rng.randint(1, 4)]),
            "freeze": (8 if kind == "work" else 0, lambda: [rng.choice((30, 900))]),
        }
        name = rng.choices(list(acts), [weight for weight, _ in acts.values()])[0]
        return [name, *acts[name][1]()]

    def _children(self, kind: str) -> list[Any]:
        return [[self.script(kind, 1) for _ in range(self.rng.randint(1, 4))], kind]

    def job(self, **fields: Any) -> NewJob:
        """Return a job of chance."""
        rng = self.rng
        kind = rng.choice(("act", "act", "work"))
        more: dict[str, Any] = {"queue": rng.choice(("c", "d")) if kind == "act" else None}
        if rng.random() < 0.5:
            more["queue"] = None
        if rng.random() < 0.2:
            more["delay_ms"] = rng.choice((500, 60_000, 3_600_000))
        if rng.random() < 0.1:
            more["deadline_ms"] = rng.choice((10_000, 1_800_000))
        if rng.random() < 0.3:
            more["priority"] = rng.choice((0, 50, 1000))
        if rng.random() < 0.2:
            key = rng.choice(list(KEYS))
            more |= {"limit_key": key, "limit_max": KEYS[key]}
        if rng.random() < 0.05:
            more["unique"] = rng.choice(("one", "two"))
        if rng.random() < 0.1:
            more["timeout_ms"] = rng.choice((1_000, 40_000))
        if rng.random() < 0.05 and kind == "act":
            more["heartbeat_ms"] = 20_000
        if rng.random() < 0.1:
            more["tags"] = (rng.choice(("keep", "red", "blue")),)
        return NewJob(kind=kind, args={"script": self.script(kind)}, **(more | fields))

    def sure_job(self) -> NewJob:
        """Return a job that completes whatever happens, as long as nobody cancels it."""
        return NewJob(kind="act", args={"script": [["nap", self.rng.choice((0, 3, 40))]]}, max_attempts=50)

    def batch(self) -> tuple[NewJob, ...]:
        """Return jobs that wait for one another."""
        rng, jobs = self.rng, []
        for n in range(rng.randint(2, 9)):
            parents = rng.sample(range(n), min(n, rng.randint(0, 3)))
            edges = tuple(
                Dependency(job=f"#j{p}", on_failure=rng.choice(("cancel", "cancel", "run", "hold"))) for p in parents
            )
            jobs.append(self.job(ref=f"j{n}", depends_on=edges))
        rng.shuffle(jobs)
        return tuple(jobs)
