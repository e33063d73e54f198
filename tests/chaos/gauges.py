"""What a process holds, sampled from outside, and whether that is flat over time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Final

_MIB: Final = 1024**2
_GROWTH: Final = 1.15
_ENOUGH: Final = 20  # samples


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process held at a moment."""

    memory: int  # resident, in bytes
    threads: int
    files: int
    tasks: int
    objects: int  # that the garbage collector knows


# What may come on top of 15 %: noise, in figures that are small or coarse.
_SLACK: Final = Sample(memory=8 * _MIB, threads=2, files=16, tasks=64, objects=2000)
# A request of the test, a thread that begins with the first read that takes long.
_IDLE_SLACK: Final = {"threads": 4, "files": 8, "tasks": 8}


def sample(pid: int, told: Path | None = None) -> Sample | None:
    """Look at a process, and at the file in which it tells the rest.

    None: it is gone, or has told nothing yet.
    """
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        tasks, objects = (0, 0) if told is None else map(int, told.read_text().split())
        return Sample(
            memory=int(status["VmRSS"].split()[0]) * 1024,
            threads=int(status["Threads"]),
            files=files,
            tasks=tasks,
            objects=objects,
        )
    except (OSError, KeyError, ValueError):
        return None


def more(before: Sample | None, now: Sample | None) -> dict[str, tuple[int, int]]:
    """Return what an idle process has more of than before, of what does not depend on its past."""
    assert before is not None
    assert now is not None
    return {
        name: (getattr(before, name), getattr(now, name))
        for name, slack in _IDLE_SLACK.items()
        if getattr(now, name) > getattr(before, name) + slack
    }


def growth(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Return what grew, as `grown` does."""
    return grown(_series(samples), asdict(_SLACK))


def grown(
    series: Mapping[str, Sequence[float]], slack: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return what grew, by name: its median in the second quarter and in the last one.

    The first quarter is there to warm up: pools fill, caches and the allocator's arenas too.
    """
    found: dict[str, tuple[float, float]] = {}
    for name, values in series.items():
        assert len(values) >= _ENOUGH, f"{len(values)} samples tell nothing"
        early, late = _quarters(values)
        if late > early * _GROWTH + slack.get(name, 0):
            found[name] = (early, late)
    return found


def told(samples: list[Sample]) -> str:
    """Return the figures of the second and the last quarter, to be printed."""
    lines: list[str] = []
    for name, values in _series(samples).items():
        early, late = _quarters(values)
        lines.append(f"{name}: {early:.0f} -> {late:.0f} (most {max(values):.0f})")
    return ", ".join(lines)


def _series(samples: list[Sample]) -> dict[str, list[float]]:
    return {field.name: [getattr(each, field.name) for each in samples] for field in fields(Sample)}


def _quarters(values: Sequence[float]) -> tuple[float, float]:
    quarter = max(len(values) // 4, 1)
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])
