"""Does moelua agree with the libraries that others use? See scripts/interop/run.

A module of checks/ has a list CHECKS of (name, seconds, function): the function is given moelua
(beside.Moelua), returns the figure as text and raises Failure where the limit is missed.
"""

import importlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import torch  # noqa: E402
import transformers  # noqa: E402

from beside import Failure, Moelua  # noqa: E402

MODULES = ("families", "files", "texts", "merges", "smollm2")

logging.disable(logging.ERROR)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)            # small models: a second thread would only wait


def too_long(*_):
    raise TimeoutError


def outcome(check, seconds, moelua):
    """Whether it passed, and its figure."""
    signal.alarm(seconds)
    try:
        return True, check(moelua)
    except Failure as difference:
        return False, str(difference)
    except TimeoutError:
        moelua.stop()
        return False, f"not done within {seconds} s"
    except Exception as problem:
        moelua.stop()
        lines = str(problem).strip().split("\n")
        return False, f"{type(problem).__name__}: " + " / ".join(lines)[:400]
    finally:
        signal.alarm(0)


def chosen(words):
    for module in MODULES:
        for name, seconds, check in importlib.import_module("checks." + module).CHECKS:
            if not words or any(word in name for word in words):
                yield name, seconds, check


def main(words):
    if words == ["--list"]:
        for name, _, _ in chosen([]):
            print(name)
        return 0
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))         # and leaves nothing behind
    work = tempfile.mkdtemp(prefix="moelua-interop-")
    moelua, counts = Moelua(work), [0, 0]
    try:
        for name, seconds, check in chosen(words):
            passed, figure = outcome(check, seconds, moelua)
            counts[passed] += 1
            print(f"{'PASS' if passed else 'FAIL'} {name}: {figure}", flush=True)
    finally:
        moelua.stop()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{counts[True]} passed, {counts[False]} failed")
    return 1 if counts[False] or not counts[True] else 0


sys.exit(main(sys.argv[1:]))
