"""Does a test read this number? Errors of one line, planted one at a time in a copy of the tree; survivors are listed.

    python bench/mutate.py                  all of bench/mutations.toml, before a release (two hours)
    python bench/mutate.py predict he/      those whose file or note has one of these words
    python bench/mutate.py --list           only say what there is

A mutation names a file, a text that occurs there exactly once, what takes its place, the tests that should fail, and
what would be wrong. It is caught when one of these tests fails, and survives when all of them pass. A mutation of a
``.pyx`` or ``.h`` file has its kernels built again in the copy, which takes Cython, setuptools and a compiler. The exit
status is the number of survivors and of broken mutations.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "bench" / "mutations.toml"
COPIED = ("slamglmm", "tests", "bench", "docs", "pyproject.toml", "README.md")
COMPILED = (".pyx", ".pxd", ".h")
# Seconds after which a mutation counts as caught: the tests do not end.
PATIENCE = 900
# Builds the kernels that are made from one file, where they are imported from.
BUILD = """
import sys, tomllib
from setuptools import Distribution, Extension
from slamglmm._build import build_ext
entries = tomllib.load(open("pyproject.toml", "rb"))["tool"]["setuptools"]["ext-modules"]
made = [e for e in entries if sys.argv[1] in (*e["sources"], *e.get("depends", []))]
assert made, f"no kernel of pyproject.toml is made from {sys.argv[1]}"
command = build_ext(Distribution({"ext_modules": [Extension(**entry) for entry in made]}))
command.inplace = True
command.ensure_finalized()
command.run()
"""


@dataclass(frozen=True)
class Mutation:
    """One planted error.

    Attributes
    ----------
    file : str
        Relative to the root of the tree.
    old, new : str
        Text that occurs once, and what takes its place.
    tests : list of str
        What pytest is asked to run: files, or ``file::test``.
    note : str
        What would be wrong.
    """

    file: str
    old: str
    new: str
    tests: list[str]
    note: str

    @property
    def compiled(self) -> bool:
        """Whether a kernel has to be built."""
        return self.file.endswith(COMPILED)


def read_mutations(path: Path = LIST) -> list[Mutation]:
    """The list."""
    return [Mutation(**entry) for entry in tomllib.loads(path.read_text())["mutation"]]


def faults(mutation: Mutation, root: Path = ROOT) -> list[str]:
    """What is wrong with an entry of the list: files or tests that are gone, a text that no longer occurs once."""
    path = root / mutation.file
    if not path.is_file():
        return [f"{mutation.file} does not exist"]
    found = []
    times = path.read_text().count(mutation.old)
    if times != 1:
        found.append(f"{mutation.file}: {mutation.old!r} occurs {times} times, expected once")
    if mutation.old == mutation.new:
        found.append(f"{mutation.file}: {mutation.old!r} is replaced by itself")
    for test in mutation.tests:
        file, _, name = test.partition("::")
        if not (root / file).is_file():
            found.append(f"{mutation.file}: its test {file} does not exist")
        elif name and f"def {name.partition('[')[0]}(" not in (root / file).read_text():
            found.append(f"{mutation.file}: its test {test} does not exist")
    if not mutation.tests:
        found.append(f"{mutation.file}: {mutation.old!r} names no tests")
    return found


class Tree:
    """A copy of the tree in which mutations are planted."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
            else:
                shutil.copy2(ROOT / name, folder / name)
        # Without byte code, which is told from new text by size and second only.
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, tests: Iterable[str]) -> tuple[str, str]:
        """Verdict of tests ("passed", "failed", "crashed", "did not end" or "broken"), and what pytest says last."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return "did not end", ""
        # A signal is a crash of compiled code, which nobody overlooks.
        words = {0: "passed", 1: "failed"}
        outcome = "crashed" if done.returncode < 0 else words.get(done.returncode, "broken")
        return outcome, done.stdout[-2000:]

    def build(self, file: str) -> str:
        """Build the kernels made from a file; what the compiler says when that fails."""
        done = subprocess.run(
            [sys.executable, "-c", BUILD, file], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        return done.stderr[-2000:] if done.returncode else ""

    def verdict(self, mutation: Mutation) -> tuple[str, str]:
        """Plant a mutation, run its tests, take it out again: "caught", "SURVIVES" or "broken", and the last words."""
        path = self.folder / mutation.file
        before = path.read_text()
        kernels = {so: so.read_bytes() for so in path.parent.glob("*.so")} if mutation.compiled else {}
        path.write_text(before.replace(mutation.old, mutation.new))
        try:
            problem = self.build(mutation.file) if mutation.compiled else ""
            if problem:
                return "broken", problem
            outcome, said = self.run(mutation.tests)
        finally:
            path.write_text(before)
            for so, content in kernels.items():
                so.write_bytes(content)
        words = {"passed": "SURVIVES", "failed": "caught", "did not end": "caught", "crashed": "caught"}
        return words.get(outcome, outcome), said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutations whose file or note has one of these")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    chosen = parser.parse_args()
    mutations = [
        m for m in read_mutations() if not chosen.words or any(word in f"{m.file} {m.note}" for word in chosen.words)
    ]
    stale = [fault for mutation in mutations for fault in faults(mutation)]
    if stale:
        print(*stale, sep="\n")
        return len(stale)
    if chosen.list:
        print(*(f"{m.file}: {m.note}" for m in mutations), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        outcome, said = tree.run(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
        if outcome != "passed":
            print(f"the tests do not pass as they are:\n{said}")
            return 1
        bad = []
        for number, mutation in enumerate(mutations, 1):
            begin = time.perf_counter()
            verdict, said = tree.verdict(mutation)
            seconds = time.perf_counter() - begin
            print(f"{number:3d} {verdict:8s} {seconds:5.0f} s  {mutation.file}: {mutation.note}", flush=True)
            if verdict == "broken":
                print(said)
            if verdict != "caught":
                bad.append(mutation)
    print(f"{len(mutations) - len(bad)} of {len(mutations)} caught")
    for mutation in bad:
        print(f"not caught: {mutation.file}: {mutation.note}\n    {mutation.old!r}\n -> {mutation.new!r}")
    return len(bad)


if __name__ == "__main__":
    sys.exit(main())
