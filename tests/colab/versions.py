"""Which versions the look-alike of Colab has: `python tests/colab/versions.py LIST [DATE]`.

LIST is a copy of `pip-freeze.txt` of the GitHub repository googlecolab/backend-info; DATE is the
list's, today where it is left out. It rewrites `constraints.txt` beside this file with what the
list has of the packages that the course installs.
"""

import re
import sys
import time
from pathlib import Path

from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
CONSTRAINTS = HERE / "constraints.txt"
COURSE = HERE.parent.parent / "constraints.txt"
ALSO = {"notebook", "widgetsnbextension", "ipython-genutils"}  # what ipywidgets 7 asks for
HEAD = """\
# Google Colab's versions of what the course uses, from its list of {date}.
# Made by    python tests/colab/versions.py LIST    LIST is pip-freeze.txt of the GitHub
# repository googlecolab/backend-info. What is not named here is not there, or follows from these.
"""


def listed(text: str) -> dict[str, str]:
    """The lines `name==version` of a list, as {canonical name: line}; no local versions.

    Colab's list also has lines like `torch @ https://…/torch-2.11.0%2Bcu128-cp313-….whl`.
    """
    found = {}
    for line in text.splitlines():
        match = re.match(r"([\w.-]+)==([\w.]+)", line) or re.match(
            r"([\w.-]+) @ \S+/[\w.]+-(\d[\w.]*?)(?:%2B[\w.]+)?-\w+-", line
        )
        if match:
            found[canonicalize_name(match[1])] = f"{match[1]}=={match[2]}"
    return found


def constraints(text: str, date: str) -> str:
    """The constraints file for a list."""
    wanted = {*listed(COURSE.read_text(encoding="utf-8")), *ALSO}
    lines = [line for name, line in sorted(listed(text).items()) if name in wanted]
    return HEAD.format(date=date) + "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    today = time.strftime("%Y-%m-%d", time.gmtime())
    source = Path(sys.argv[1]).read_text(encoding="utf-8")
    CONSTRAINTS.write_text(constraints(source, (sys.argv[2:] or [today])[0]), encoding="utf-8")
    print(f"{CONSTRAINTS}: {len(listed(CONSTRAINTS.read_text(encoding='utf-8')))} packages")
