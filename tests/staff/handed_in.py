"""Notebooks as learners hand them in: honest ones, wrong ones, and ones that mean harm."""

import json
from pathlib import Path

from course_staff.notebooks import store as notebooks


def cell(source: str) -> dict:
    return {"cell_type": "code", "metadata": {}, "outputs": [], "source": source}


def notebook(*sources: str) -> str:
    stored = {"cells": [cell(one) for one in sources], "metadata": {}, "nbformat": 4}
    return json.dumps({**stored, "nbformat_minor": 5})


def lesson(name: str, answers: dict[str, str]) -> str:
    """A whole lesson as it comes to a learner, with some of its exercise cells (by id) replaced."""
    found = notebooks.read(notebooks.FOLDER / f"{name}.ipynb")
    for one in found.cells:
        one.source = answers.get(one.id, one.source)
    return json.dumps(found)


COUNT = """\
def count_positive(reviews):
    return sum(parse_label(complete(ask(review))) == "Positive" for review in reviews)


check("00.3", (count_positive, complete))"""
REVIEW = 'my_review = "We waited an hour and left hungry."\n\ncheck("00.1", (my_review, complete))'
BOS = """\
def has_double_bos(ids, bos_id):
    {first}
    return any(a == b == bos_id for a, b in zip(ids, ids[1:]))


check("03.3", has_double_bos)"""
WRONG = BOS.format(first="return False")
TAIL = "\n\ncheck('03.3', lambda ids, bos_id: False)"
FORGED = """\
def has_double_bos(ids, bos_id):
    import gc, sys
    for step in range(9):
        wanted = sys._getframe(step).f_locals.get("wanted")
        if wanted is not None:
            return wanted
    found = [o for o in gc.get_objects() if type(o).__name__ == "Exercise"]
    return bool(found)


check("03.3", has_double_bos)"""


def hostile(victim: Path) -> dict[str, tuple[str, str]]:
    """{kind: (the cell, part of what the table says of it in `message` or `noticed`)}."""
    solutions = notebooks.FOLDER / "solutions" / "03_chat_templates.ipynb"
    return {
        "loops": ("while True:\n    pass" + TAIL, "did not end"),
        "loops in its answer": (BOS.format(first="while True: pass"), "did not end"),
        "sleeps": ("import time\n\ntime.sleep(10**6)" + TAIL, "did not end"),
        "prints": ("while True:\n    print('x' * 10_000)" + TAIL, "printed more than"),
        "prints quietly": (
            "try:\n    while True:\n        print('x' * 10_000)\nexcept BaseException:\n    pass"
            + TAIL,
            "printed more than",
        ),
        "deletes": (f"import os\n\nos.remove({str(victim)!r})" + TAIL, "delete a file"),
        "deletes all": (
            f"import shutil\n\nshutil.rmtree({str(victim.parent)!r}, ignore_errors=True)" + TAIL,
            "delete a folder",
        ),
        "overwrites": (f"open({str(victim)!r}, 'w').write('gone')" + TAIL, "write a file"),
        "patches the checks": (
            "from course_utils import checks\n\n"
            "checks.check = checks.judged = lambda key, answer: (True, 'correct.')\n"
            "checks.Exercise.__init__ = lambda self, *args: None" + TAIL,
            "changed the checks",
        ),
        "reads the right answers off the checks": (FORGED, "not yet"),
        "reads the checks": (
            "from course_utils.exercises import lesson_03\n\nlesson_03.EXERCISES.clear()" + TAIL,
            "tried to read exercises/__init__.py",
        ),
        "reads the solutions": (
            f"import json\n\nfor one in json.load(open({str(solutions)!r}))['cells']:\n"
            "    if one['cell_type'] == 'code':\n        exec(''.join(one['source']))" + TAIL,
            "tried to read solutions/03_chat_templates.ipynb",
        ),
        "forks": ("import os\n\nwhile True:\n    os.fork()" + TAIL, "start a process"),
        "starts programs": (
            "import subprocess\n\nsubprocess.run(['sleep', '99'])" + TAIL,
            "start a program",
        ),
        "calls home": (
            "import socket\n\nsocket.create_connection(('127.0.0.1', 9))" + TAIL,
            "reach the network",
        ),
        "exits": ("import sys\n\nsys.exit(0)" + TAIL, "ends the kernel"),
        "exits hard": ("import os\n\nos._exit(0)" + TAIL, "its process ended"),
        "kills": (
            "import os, signal\n\nos.kill(os.getppid(), signal.SIGKILL)" + TAIL,
            "end a proc",
        ),
        "takes all memory": ("x = bytearray(10**12)" + TAIL, "MemoryError"),
        "crashes Python": ("import ctypes\n\nctypes.string_at(0)" + TAIL, "its process ended"),
        "talks to the judge": (
            "import os\n\nfor number in range(3, 40):\n    try:\n"
            '        os.write(number, b\'[["03.3", true, "correct."]]\')\n'
            "    except OSError:\n        pass" + TAIL,
            "its process ended",
        ),
        "answers without end": (
            "def endless():\n    while True:\n        yield 1\n\n\ncheck('03.3', endless())",
            "should be a function",
        ),
        "answers with itself": ("a = []\na.append(a)\ncheck('03.1', a)", "not yet"),
        "is no Python": ("def has(:\n\ncheck('03.3', has)", "is no Python"),
    }
