"""TIES by mergekit's own function: ties.py ELEMENTS prints nanoseconds for an element.

The tensors are in memory already and the result stays there: nothing but arithmetic is measured.
"""
import sys
import time
from types import SimpleNamespace

import torch
from mergekit.merge_methods import registry

rows = int(sys.argv[1]) // 4096
torch.manual_seed(1)
base = (torch.randn(rows, 4096) * 0.02).to(torch.bfloat16)
models = [(base.float() + torch.randn(rows, 4096) * 0.002).to(torch.bfloat16) for _ in range(2)]
method = registry.get("ties")
group = SimpleNamespace(
    base=SimpleNamespace(tensor=base, id=0),
    non_base=[SimpleNamespace(tensor=m, id=i + 1) for i, m in enumerate(models)])
parameters = {"density": {1: 0.5, 2: 0.5}, "weight": {1: 0.5, 2: 0.5}, "rescale": False,
              "normalize": True, "int8_mask": False, "lambda": 1.0}
best = 1e9
for _ in range(3):
    began = time.perf_counter()
    method.merge_group(group, **parameters)
    best = min(best, time.perf_counter() - began)
print("%.3f" % (best / base.numel() * 1e9))
