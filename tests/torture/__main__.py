"""`make torture`: places to die, kills, damaged files and long runs, as many as asked for, and a count of each.

Ends with 1 where a fault was found, and names each with what finds it again.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/torture", description=__doc__)
    for name, number in (("crash-points", 330), ("kills", 110), ("mutations", 10_100), ("soak", 500)):
        parser.add_argument(
            f"--{name}", type=int, default=number, help=f"how many (epochs of a soak); default {number}"
        )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="attacks at a time")
    arguments = parser.parse_args()

    from torture import crashes, kills, mutations, soak, tasks

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        work = kills.tasks(arguments.kills, arguments.seed) + soak.tasks(arguments.soak)
        work += crashes.tasks(arguments.crash_points, arguments.seed, Path(folder) / "crashes")
        work += mutations.tasks(arguments.mutations, arguments.seed)
        tallies = tasks.run(work, arguments.jobs, Path(folder) / "tasks")
    print(f"{'':14}{'tried':>8}{'faults':>8}  outcomes")
    for attack, tally in tallies.items():
        outcomes = ", ".join(f"{number:,} {name}" for name, number in sorted(tally.outcomes.items()))
        print(f"{attack:14}{sum(tally.outcomes.values()):8,}{len(tally.faults):8,}  {outcomes}")
    print(f"seed {arguments.seed}, {(time.monotonic() - started) / 60:.1f} minutes, {arguments.jobs} at a time")
    return any(tally.faults for tally in tallies.values())


if __name__ == "__main__":
    sys.path[:0] = [str(_TESTS), str(_TESTS.parent)]
    from torture.forks import preloaded

    if "LD_PRELOAD" not in os.environ:  # before anything is imported, as a process is attacked from its start
        with tempfile.TemporaryDirectory(prefix="dying-") as built:
            os.environ |= preloaded(Path(built))
            os.environ["OMP_NUM_THREADS"] = "1"
            sys.exit(os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv], os.environ))
    sys.exit(main())
