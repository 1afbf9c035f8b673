"""Makes rope_scaling.json: frequencies of scaled rotary positions as transformers computes them.

    python rope_scaling.py        with torch and transformers: scripts/interop/setup

Each case: theta, head_dim, context, length (dynamic alone), the options, and what comes of them.
"""

import json
import os

import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = os.path.dirname(os.path.abspath(__file__))
L31 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0)
CASES = [
    (1e4, 64, 4096, None, dict(rope_type="linear", factor=2.5)),
    (1e4, 64, 2048, 2048, dict(rope_type="dynamic", factor=4.0)),
    (1e4, 64, 2048, 2049, dict(rope_type="dynamic", factor=4.0)),
    (1e6, 6, 16, 1000, dict(rope_type="dynamic", factor=2.0)),
    (5e5, 128, 131072, None, dict(L31, factor=8.0, original_max_position_embeddings=8192)),
    (5e5, 64, 131072, None, dict(L31, factor=32.0, original_max_position_embeddings=8192)),
    (1e4, 10, 512, None, dict(L31, factor=3.0, original_max_position_embeddings=100,
                              low_freq_factor=2.0, high_freq_factor=2.5)),
    (1e4, 128, 65536, None, dict(rope_type="yarn", factor=16.0,
                                 original_max_position_embeddings=4096)),
    (1e6, 128, 131072, None, dict(rope_type="yarn", factor=4.0,
                                  original_max_position_embeddings=32768, truncate=False)),
    (1e4, 64, 163840, None, dict(rope_type="yarn", factor=40.0, beta_fast=16, beta_slow=2,
                                 original_max_position_embeddings=4096, mscale=0.7,
                                 mscale_all_dim=1.0)),
    (1e4, 8, 64, None, dict(rope_type="yarn", factor=0.5, original_max_position_embeddings=128)),
    (1e4, 2, 64, None, dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=8,
                            attention_factor=1.25)),
    (1e4, 16, 80, None, dict(rope_type="yarn", factor=5.0, mscale=1.0, mscale_all_dim=0,
                             original_max_position_embeddings=16)),
]


def case(theta, head_dim, context, length, scaling):
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
        max_position_embeddings=context, rope_parameters=dict(scaling, rope_theta=theta))
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu", seq_len=length)
    return dict(theta=theta, head_dim=head_dim, context=context, length=length, scaling=scaling,
                frequencies=[float(f"{f:.8g}") for f in frequencies.tolist()], factor=factor)


with open(os.path.join(HERE, "rope_scaling.json"), "w") as file:
    json.dump([case(*c) for c in CASES], file, indent=0)
    file.write("\n")
