"""PyTorch's side of the benchmark: makes and runs workloads on request.

    torch_worker.py THREADS        started by the driver; requests and answers are lines of JSON

    {"make": job, "as": name}      tries every way to do the job and keeps the fastest
        -> {"way": its name, "tried": {way: seconds, or why it failed}}
    {"run": name}                  -> {"seconds": of one run}
    {"drop": name}                 -> {}
Whatever fails is answered with {"error": text}.
"""

import faulthandler
import gc
import json
import logging
import os
import sys
import time

PATIENCE = 900        # seconds after which a request has failed
SAMPLE = 0.1          # seconds that a measurement lasts at least
TRIALS = 3            # measurements that decide which way is the fastest
HOPELESS = 2          # times the fastest: no second measurement

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)         # nobody else speaks on the line
here = os.path.dirname(os.path.abspath(__file__))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(here, ".torch", "compiled"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402

import torch_workloads  # noqa: E402

logging.disable(logging.ERROR)
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(1)


def seconds_of(run):
    """Of one run; short ones are repeated."""
    count, began = 0, time.perf_counter()
    while True:
        run()
        count += 1
        spent = time.perf_counter() - began
        if spent >= SAMPLE:
            return spent / count


def trial(run, best):
    seconds = seconds_of(run)
    if best is not None and seconds > HOPELESS * best:
        return seconds
    return min([seconds] + [seconds_of(run) for _ in range(TRIALS - 1)])


def fastest(job):
    best, tried = None, {}
    for name, make in torch_workloads.ways(job):
        try:
            run = make()
            run()
            tried[name] = trial(run, best and tried[best[0]])
        except Exception as problem:
            tried[name] = str(problem).strip().split("\n")[0] or repr(problem)
            continue
        if best is None or tried[name] < tried[best[0]]:
            best = name, run
        del run
        gc.collect()
    if best is None:
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in tried.items()))
    return best, tried


jobs = {}


def answer(request):
    if "make" in request:
        (way, run), tried = fastest(request["make"])
        jobs[request["as"]] = run
        return {"way": way, "tried": tried}
    if "run" in request:
        return {"seconds": seconds_of(jobs[request["run"]])}
    if "drop" in request:
        jobs.pop(request["drop"], None)
        torch._dynamo.reset()
        gc.collect()
        return {}
    return {"pytorch": torch.__version__, "transformers": transformers.__version__}


for line in sys.stdin:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        said = answer(json.loads(line))
    except Exception as problem:
        said = {"error": str(problem) or repr(problem)}
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(said), file=answers, flush=True)
