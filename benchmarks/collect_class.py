"""How long collecting takes for a class: `python -m benchmarks.collect_class [--copies 200]`.

It makes copies of the lessons' solutions, ten of them replaced
by notebooks that mean harm, collects them, and prints the time, what was marked, and whether a file
beside them is still whole. See INSTRUCTORS.md.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from course_staff.collecting import collect, running  # noqa: E402
from course_staff.notebooks import store  # noqa: E402
from course_utils import settings  # noqa: E402
from tests.staff import handed_in  # noqa: E402

HOSTILE = 10


def main() -> int:
    """Collect and print; 1 where a hostile notebook was not marked, or harmed something."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    settings.prepare()
    with tempfile.TemporaryDirectory() as place:
        folder, victim = Path(place, "in"), Path(place, "desk", "grades.csv")
        victim.parent.mkdir()
        victim.write_text("whole")
        folder.mkdir()
        honest = [
            path.read_text(encoding="utf-8")
            for path in sorted((store.FOLDER / "solutions").glob("0*"))
        ]
        hostile = dict(list(handed_in.hostile(victim).items())[::2][:HOSTILE])
        for n in range(args.copies - len(hostile)):
            (folder / f"learner-{n:03}.ipynb").write_text(honest[n % len(honest)], encoding="utf-8")
        for kind, (source, _) in hostile.items():
            (folder / f"{kind}.ipynb").write_text(handed_in.notebook(source))
        began = time.monotonic()
        rows = collect.collect(folder, args.at_once, running.SECONDS)
        took = time.monotonic() - began
        said = Counter(row["solved"] for row in rows if row["learner"] not in hostile)
        marked = {
            row["learner"] for row in rows if row["learner"] in hostile and row["solved"] == "no"
        }
        whole = victim.read_text() == "whole"
    print(f"{args.copies} notebooks, {args.at_once} at once: {took:.0f} s")
    print(f"{said['yes']} of {sum(said.values())} exercises of honest notebooks solved")
    print(f"{len(marked)} of {len(hostile)} hostile notebooks marked: {', '.join(sorted(marked))}")
    print("the file beside them is whole" if whole else "A FILE WAS HARMED")
    return int(not (whole and len(marked) == len(hostile) and set(said) == {"yes"}))


if __name__ == "__main__":
    sys.exit(main())
