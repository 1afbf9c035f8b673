"""Every family of models on small random ones: read by us, written by us, continued by both."""

import importlib.util
import json
import os
import random

import torch
import transformers
from safetensors.torch import load_file, save_file

from beside import ROOT, Failure, all_equal, continued, farthest, theirs, within

LIMIT = 2e-4                # of logits of about 10, in float32
SHAPES = 6                  # of each family
CONTINUED = 24              # tokens

spec = importlib.util.spec_from_file_location(
    "make", os.path.join(ROOT, "spec", "golden", "families", "make.py"))
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

CLASSES = {"llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral", "olmoe": "Olmoe",
           "qwen2": "Qwen2", "qwen3": "Qwen3", "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe",
           "deepseek": None}
KEEPS_HEAD_DIM = {"llama", "mistral", "mixtral", "qwen3", "qwen3_moe"}
DENSE = {"llama", "mistral", "qwen2", "qwen3"}


ROPES = ("default", "linear", "llama3", "yarn", "default", "yarn")


def scaling(draw, kind, context):
    """Parameters of RoPE."""
    out = {"rope_type": kind, "rope_theta": draw.choice([1e4, 5e5, 1e6])}
    original = context // draw.choice([2, 4])
    if kind != "default":
        out["factor"] = draw.choice([2.0, 4.0, 8.5])
    if kind == "llama3":
        out.update(low_freq_factor=1.0, high_freq_factor=draw.choice([2.0, 4.0]),
                   original_max_position_embeddings=original)
    if kind == "yarn":
        out.update(original_max_position_embeddings=original, **draw.choice([
            {}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 1.3},
            {"mscale": 0.7, "mscale_all_dim": 1.2}, {"truncate": False}]))
    return out


def shape(family, draw, seed):
    """Options of a configuration of transformers, small and odd."""
    kv = draw.choice([1, 2, 3])
    heads, head_dim = kv * draw.choice([1, 2, 3]), draw.choice([4, 8, 10, 16])
    layers, context = draw.choice([1, 2, 4]), draw.choice([48, 64])
    options = dict(
        vocab_size=draw.randint(40, 120), hidden_size=heads * head_dim,
        intermediate_size=draw.randint(17, 70), num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=context,
        rms_norm_eps=draw.choice([1e-5, 1e-6, 1e-2]),
        rope_parameters=scaling(draw, ROPES[seed % len(ROPES)], context),
        tie_word_embeddings=draw.random() < 0.3, bos_token_id=1, eos_token_id=2, pad_token_id=None)
    if family in KEEPS_HEAD_DIM and draw.random() < 0.5:
        options.update(hidden_size=draw.choice([24, 40]), head_dim=head_dim)
    experts = draw.randint(2, 9)
    k = draw.randint(1, experts)
    if family in ("mistral", "mixtral"):
        options["sliding_window"] = draw.choice([None, 32])
    if family == "llama":
        options.update(attention_bias=draw.random() < 0.5, mlp_bias=draw.random() < 0.5)
    elif family == "mixtral":
        options.update(num_local_experts=experts, num_experts_per_tok=k)
    elif family == "deepseek":
        options.update(
            n_routed_experts=experts, num_experts_per_tok=k, norm_topk_prob=draw.random() < 0.5,
            n_shared_experts=draw.choice([None, 1, 2]), moe_layer_freq=draw.choice([1, 1, 2]),
            moe_intermediate_size=draw.randint(9, 30), scoring_func="softmax",
            first_k_dense_replace=draw.choice([0, 1]), attention_bias=draw.random() < 0.3)
    elif family not in DENSE:
        options.update(num_experts=experts, num_experts_per_tok=k,
                       norm_topk_prob=draw.random() < 0.5)
    if family == "olmoe":
        options.update(clip_qkv=draw.choice([None, 0.5]), attention_bias=draw.random() < 0.3)
    if family in ("qwen2_moe", "qwen3_moe"):
        options.update(
            moe_intermediate_size=draw.randint(9, 30), decoder_sparse_step=draw.choice([1, 1, 2]),
            mlp_only_layers=draw.choice([[], [0], [layers - 1]]))
    if family == "qwen2_moe":
        options["shared_expert_intermediate_size"] = draw.randint(9, 40)
        options["qkv_bias"] = draw.random() < 0.8
    return options


def plain(model):
    """The fast kernels for experts refuse odd widths."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model.eval()


def random_model(family, options, seed):
    if family == "deepseek":
        model = make.deepseek(options)
    else:
        name = CLASSES[family]
        model = getattr(transformers, name + "ForCausalLM")(
            getattr(transformers, name + "Config")(**options))
    return plain(make.draw(model, seed))


def write_deepseek(model, options, folder):
    os.makedirs(folder)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    if options["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    save_file(weights, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    config = dict(options, model_type="deepseek", architectures=["DeepseekForCausalLM"],
                  hidden_act="silu", dtype="float32")
    make.write_json(os.path.join(folder, "config.json"), make.old_spelling(config))


def write(model, family, options, folder, draw):
    """In a spelling by chance: of transformers 4 or 5, experts fused or not, in shards or not."""
    if family == "deepseek":
        return write_deepseek(model, options, folder)
    model.save_pretrained(folder, save_original_format=draw.random() < 0.6,
                          max_shard_size=draw.choice(["5GB", "40KB"]))
    path = os.path.join(folder, "config.json")
    if draw.random() < 0.6:
        with open(path) as file:
            config = json.load(file)
        make.write_json(path, make.old_spelling(config))


def read(folder, family):
    """A folder that we wrote, read by transformers; for DeepSeek by the code of make.py."""
    if family != "deepseek":
        model, said = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True)
        unknown = [*said["missing_keys"], *said["unexpected_keys"], *said["mismatched_keys"]]
        if unknown:
            raise Failure(f"not where transformers expects it: {unknown[0]}")
        return plain(model)
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    for key in ("model_type", "architectures", "moelua", "torch_dtype", "transformers_version"):
        config.pop(key, None)
    model = make.deepseek(config).eval()
    weights = {}
    for name in os.listdir(folder):
        if name.endswith(".safetensors"):
            weights.update(load_file(os.path.join(folder, name)))
    weights = {k: v.float() for k, v in weights.items()}
    if config["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


def cases(family, moelua):
    """(what, model of transformers, its folder, ids) of every shape; the same in every run."""
    for seed in range(SHAPES):
        draw = random.Random(f"{family} {seed}")
        options = shape(family, draw, seed)
        model, folder = random_model(family, options, seed), moelua.path()
        write(model, family, options, folder, draw)
        longest = options.get("sliding_window") or options["max_position_embeddings"]
        ids = [draw.randrange(options["vocab_size"]) for _ in range(longest - CONTINUED)]
        yield f"shape {seed}", model, folder, ids


def told(case, function, *arguments, **more):
    """What went wrong names its shape."""
    try:
        return function(*arguments, **more)
    except (RuntimeError, Failure) as problem:
        raise Failure(f"{case}: {problem}") from None


def reading(family):
    def check(moelua):
        most = 0.0
        for case, model, folder, ids in cases(family, moelua):
            figure = farthest(told(case, moelua.logits, folder, ids), theirs(model, ids))
            told(case, within, figure, LIMIT)
            most = max(most, figure)
        return f"{SHAPES} shapes, " + within(most, LIMIT)
    return check


def writing(family):
    def check(moelua):
        most = 0.0
        for case, model, folder, ids in cases(family, moelua):
            written = moelua.path()
            told(case, moelua.ask, "save", model=folder, out=written, max_shard_size=50000)
            figure = farthest(theirs(told(case, read, written, family), ids), theirs(model, ids))
            told(case, within, figure, LIMIT)
            most = max(most, figure)
        return f"{SHAPES} shapes, " + within(most, LIMIT)
    return check


def continuing(family):
    def check(moelua):
        wrong = []
        for case, model, folder, ids in cases(family, moelua):
            ours = told(case, moelua.ask, "continued", model=folder, ids=ids, count=CONTINUED)
            wanted = continued(model, ids, CONTINUED)
            if ours != wanted:
                wrong.append(f"{case}: {ours} instead of {wanted}")
        return all_equal(wrong, SHAPES, f"continued alike for {CONTINUED} tokens")
    return check


CHECKS = [(f"families/{family}/{what}", 120, kind(family)) for family in CLASSES
          for what, kind in (("read", reading), ("written", writing), ("continued", continuing))]
