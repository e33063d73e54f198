"""Run every `bench_*.py` of this folder and print the figures; with a path, also write JSON.

Each module's `run()` measures its own baseline in the same process, so ratios travel between
machines where absolute figures do not. Nothing here is a test: no figure fails a build.
"""

import importlib
import json
import platform
import sys
from pathlib import Path


def main() -> None:
    chosen = sys.argv[2:]
    figures: dict[str, dict[str, float]] = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        if chosen and name not in chosen:
            continue
        figures[name] = importlib.import_module(f"tests.bench.{path.stem}").run()
        for figure, value in figures[name].items():
            print(f"{name:12} {figure:48} {value:>14,.3f}", flush=True)
    if len(sys.argv) > 1:
        report = {"machine": platform.platform(), "python": sys.version, "figures": figures}
        Path(sys.argv[1]).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
