"""moelua beside Python: a process that answers requests, and a folder for what they exchange."""

import json
import os
import select
import subprocess
import time

import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Moelua:
    """Starts with the first request, and anew after a crash: a crash costs one answer."""

    def __init__(self, work):
        self.work, self.process, self.count = work, None, 0

    def start(self):
        self.log = open(os.path.join(self.work, "moelua.log"), "ab")
        self.process = subprocess.Popen(
            [os.environ["MOELUA"], os.path.join(HERE, "answers.lua")], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.rest = b""

    def read_line(self, until):
        pipe = self.process.stdout
        while b"\n" not in self.rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.stop()
                raise RuntimeError("moelua did not answer in time")
            part = os.read(pipe.fileno(), 1 << 20)
            if not part:
                code = self.process.wait()
                self.process = None
                raise RuntimeError(f"moelua ended with {code}: see {self.log.name}")
            self.rest += part
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def ask(self, do, seconds=120, **request):
        """The answer to a request, see answers.lua; an error there is one here."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        line = json.dumps(dict(request, do=do)).encode() + b"\n"
        self.process.stdin.write(line)
        self.process.stdin.flush()
        answer = json.loads(self.read_line(time.monotonic() + seconds))
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def tensors(self, do, **request):
        """The tensors that a request leaves in a file."""
        out = self.path(".safetensors")
        self.ask(do, out=out, **request)
        tensors = load_file(out)
        os.remove(out)
        return tensors

    def logits(self, model, ids, **request):
        return self.tensors("logits", model=model, ids=ids, **request)["logits"]

    def path(self, ending=""):
        """A new name in the folder of this run."""
        self.count += 1
        return os.path.join(self.work, f"{self.count}{ending}")

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def farthest(a, b):
    """Largest absolute difference; infinite when shapes differ or something is no number."""
    if a.shape != b.shape or not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("inf")
    return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0


def theirs(model, ids):
    """Logits of a model of transformers."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def continued(model, ids, count):
    """The `count` most likely tokens, one after the other."""
    ids = list(ids)
    with torch.no_grad():
        for _ in range(count):
            said = model(torch.tensor([ids]), use_cache=False)
            ids.append(said.logits[0, -1].argmax().item())
    return ids[-count:]


class Failure(Exception):
    """A check that found a difference; the text says which."""


def within(figure, limit, what="max abs"):
    text = f"{what} {figure:.2g}, limit {limit:g}"
    if not figure <= limit:
        raise Failure(text)
    return text


def all_equal(wrong, total, what="equal"):
    """`wrong`: descriptions of the cases that differ."""
    text = f"{total - len(wrong)} of {total} {what}"
    if wrong:
        raise Failure(f"{text}; the first: {wrong[0]}")
    return text
