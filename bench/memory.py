"""Peak memory of this process and all that it started, pages they share counted once (Linux)."""

import threading
from pathlib import Path


def children_of(pid):
    """Processes started by a process, and by those, and so on."""
    out = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            out += [int(child), *children_of(child)]
    return out


def memory_mib(pid):
    """PSS (a page that k processes map counts 1/k for each) and RSS of one process."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("Pss", "Rss"))


class PeakMemory:
    """A context in which memory is looked at every `seconds`.

    After it, `peak_pss_mib` is the largest sum of PSS over all processes: pages of a mapped file that several of them
    read are in it once. `peak_rss_mib` is the largest sum of RSS, in which they are once for each process.
    """

    def __init__(self, pid, seconds=0.25):
        self.pid, self.seconds = pid, seconds
        self.peak_pss_mib = self.peak_rss_mib = 0.0
        self.looks = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self._done.wait(self.seconds):
            pss = rss = 0.0
            for pid in [self.pid, *self._children()]:
                try:
                    one = memory_mib(pid)
                except (OSError, ValueError, KeyError):  # it ended while we looked
                    continue
                pss, rss = pss + one[0], rss + one[1]
            self.peak_pss_mib, self.peak_rss_mib = max(self.peak_pss_mib, pss), max(self.peak_rss_mib, rss)
            self.looks += 1

    def _children(self):
        try:
            return children_of(self.pid)
        except OSError:
            return []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
