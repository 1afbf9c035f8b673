"""Makes the models beside it: tiny random ones of every family, with the logits of transformers.

    python make.py [NAME...]        with torch, transformers and safetensors: scripts/interop/setup

Each folder has config.json, model.safetensors and expected.json: {"ids": [...], "logits": [[...]]}
in float32. Weights are large, norms are far from 1 and biases from 0, so that whatever is left out
shows. They are stored in bf16, which float32 holds exactly. Most configurations are spelled as
transformers 4 does (rope_theta, rope_scaling, torch_dtype), as nearly all published ones are; those
of NEW_SPELLING as transformers 5 does, those of FUSED with its stacks of experts.
"""

import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
HERE = os.path.dirname(os.path.abspath(__file__))
NEW_SPELLING = {"llama-yarn", "mixtral-fused", "qwen3_moe-fused"}
FUSED = {"mixtral-fused", "qwen3_moe-fused"}
LONG, SHORT = 40, 20                # tokens: beyond the original context of scaled RoPE, and else

common = dict(
    vocab_size=61, hidden_size=32, intermediate_size=44, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
narrow = dict(common, moe_intermediate_size=16, intermediate_size=28, num_experts=5,
              num_experts_per_tok=3)
scaled = dict(common, max_position_embeddings=64)


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more}


MODELS = {
    "llama": ("Llama", dict(common)),
    "llama-llama3": ("Llama", dict(scaled, rope_parameters=rope(
        "llama3", low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16))),
    "llama-yarn": ("Llama", dict(scaled, rope_parameters=rope(
        "yarn", original_max_position_embeddings=16))),
    "llama-linear": ("Llama", dict(scaled, rope_parameters=rope("linear"))),
    "llama-dynamic": ("Llama", dict(scaled, max_position_embeddings=16,
                                    rope_parameters=rope("dynamic"))),
    "llama-bias": ("Llama", dict(common, attention_bias=True, mlp_bias=True)),
    "llama-head_dim": ("Llama", dict(common, head_dim=12)),
    "llama-tied": ("Llama", dict(common, tie_word_embeddings=True)),
    "mistral": ("Mistral", dict(common, sliding_window=SHORT)),
    "mixtral": ("Mixtral", dict(common, intermediate_size=20, num_local_experts=5,
                                num_experts_per_tok=2, sliding_window=None)),
    "mixtral-fused": ("Mixtral", dict(common, intermediate_size=20, num_local_experts=5,
                                      num_experts_per_tok=2, head_dim=12)),
    "olmoe": ("Olmoe", dict(common, intermediate_size=20, num_experts=6, num_experts_per_tok=3)),
    "olmoe-clip": ("Olmoe", dict(common, intermediate_size=20, num_experts=6,
                                 num_experts_per_tok=3, clip_qkv=0.8, norm_topk_prob=True)),
    "qwen2_moe": ("Qwen2Moe", dict(narrow, shared_expert_intermediate_size=24)),
    "qwen2_moe-sparse": ("Qwen2Moe", dict(
        narrow, shared_expert_intermediate_size=24, num_hidden_layers=4, mlp_only_layers=[1],
        decoder_sparse_step=2, norm_topk_prob=True, num_experts=4, intermediate_size=20)),
    "qwen3_moe": ("Qwen3Moe", dict(narrow, head_dim=12, norm_topk_prob=True)),
    "qwen3_moe-raw": ("Qwen3Moe", dict(narrow, head_dim=12, norm_topk_prob=False,
                                       num_hidden_layers=3, mlp_only_layers=[1])),
    "qwen3_moe-fused": ("Qwen3Moe", dict(narrow, head_dim=8, norm_topk_prob=True)),
    "qwen2": ("Qwen2", dict(common)),
    "qwen3": ("Qwen3", dict(common, head_dim=12)),
}

# DeepSeek-MoE-16B's own code is on no registry: transformers' Llama with its feed-forward layers.
DEEPSEEK = dict(common, n_routed_experts=5, n_shared_experts=2, num_experts_per_tok=3,
                moe_intermediate_size=16, first_k_dense_replace=1, moe_layer_freq=1,
                scoring_func="softmax", norm_topk_prob=False, num_hidden_layers=3)


class SwiGLU(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DeepseekMoE(nn.Module):
    """Softmax over all experts, the first k, ungated shared experts as one wide one."""

    def __init__(self, c):
        super().__init__()
        dim, hidden = c["hidden_size"], c["moe_intermediate_size"]
        self.k = c["num_experts_per_tok"]
        self.norm = c["norm_topk_prob"] and self.k > 1
        self.gate = nn.Linear(dim, c["n_routed_experts"], bias=False)
        self.experts = nn.ModuleList(SwiGLU(dim, hidden) for _ in range(c["n_routed_experts"]))
        if c["n_shared_experts"]:
            self.shared_experts = SwiGLU(dim, hidden * c["n_shared_experts"])

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1, dtype=torch.float32).topk(self.k, -1)
        if self.norm:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        y = sum(weights[..., j, None] * torch.stack([e(x) for e in self.experts], -2).gather(
            -2, chosen[..., j, None, None].expand(*x.shape[:-1], 1, x.shape[-1])).squeeze(-2)
            for j in range(self.k))
        return y + self.shared_experts(x) if hasattr(self, "shared_experts") else y


def deepseek(c):
    """A model of transformers that computes what DeepSeek-MoE-16B's code does."""
    own = {"n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size",
           "first_k_dense_replace", "moe_layer_freq", "scoring_func", "norm_topk_prob"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **{k: v for k, v in c.items() if k not in own}))
    for index, layer in enumerate(model.model.layers):
        if index >= c["first_k_dense_replace"] and index % c["moe_layer_freq"] == 0:
            layer.mlp = DeepseekMoE(c)
    return model


def draw(model, seed, std=0.3):
    """Every weight anew: bf16's numbers, in float32."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            values = torch.randn(weight.shape, generator=generator)
            wide = 1.0 if "embed_tokens" in name else std
            weight.copy_((values * wide + (1.0 if "norm" in name else 0.0)).bfloat16().float())
    return model.eval()


def old_spelling(config):
    """config.json as transformers 4 has it."""
    parameters = dict(config.pop("rope_parameters"))
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters if parameters["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    return config


def write_json(path, value, **how):
    with open(path, "w") as file:
        json.dump(value, file, **how)
        file.write("\n")


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def save(model, name, folder):
    if name != "deepseek":
        model.bfloat16().save_pretrained(folder, save_original_format=name not in FUSED)
        model.float()
        generation = os.path.join(folder, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        with open(os.path.join(folder, "config.json")) as file:
            config = json.load(file)
        if name not in NEW_SPELLING:
            config = old_spelling(config)
    else:
        weights = {k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, os.path.join(folder, "model.safetensors"), {"format": "pt"})
        config = dict(DEEPSEEK, model_type="deepseek", architectures=["DeepseekForCausalLM"],
                      hidden_act="silu", rope_theta=10000.0, rope_scaling=None,
                      torch_dtype="bfloat16", tie_word_embeddings=False, attention_bias=False)
    write_json(os.path.join(folder, "config.json"), config, indent=2, sort_keys=True)


def make(name, seed):
    if name == "deepseek":
        model = deepseek(DEEPSEEK)
    else:
        kind, options = MODELS[name]
        config = getattr(transformers, kind + "Config")(**options)
        model = getattr(transformers, kind + "ForCausalLM")(config)
    draw(model, seed)
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    count = LONG if "rope_parameters" in MODELS.get(name, ("", {}))[1] else SHORT
    ids = torch.randint(3, common["vocab_size"], (count,),
                        generator=torch.Generator().manual_seed(seed)).tolist()
    logits = logits_of(model, ids)
    save(model, name, folder)
    if name != "deepseek":
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager")
        assert (logits_of(loaded, ids) - logits).abs().max() < 5e-5, name
    rows = [[float(f"{x:.7g}") for x in row] for row in logits.tolist()]
    write_json(os.path.join(folder, "expected.json"), {"ids": ids, "logits": rows})
    print(f"{name}: |logits| <= {logits.abs().max():.2f}")


if __name__ == "__main__":
    for number, name in enumerate([*MODELS, "deepseek"]):
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            make(name, number + 1)
