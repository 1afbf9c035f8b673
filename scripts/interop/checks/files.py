"""safetensors and GGUF: ours read by the libraries of those formats, theirs read by us."""

import os

import gguf
import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from beside import Failure, all_equal, farthest, theirs, within
from checks.families import CLASSES, make, plain, write_deepseek

LIMIT = 2e-4                # of logits
IDS = [5, 1, 44, 17, 3, 29, 8, 60, 31, 2, 12, 9]


# ---- safetensors ---------------------------------------------------------------------------------

def numbers(*shape, seed=1, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


FLOATS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def some_tensors():
    """One of every type, in odd shapes and with odd names."""
    out = {f"of.{name}": numbers(3, 5, seed=i).to(kind) for i, (name, kind) in enumerate(
        [*FLOATS.items(), ("f64", torch.float64)])}
    out["flag"] = torch.tensor([True, False, True])
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        out[f"of.{kind}"] = torch.arange(0, 100, 7).to(kind)
    out.update({"ünï \"quoted\" \\ name/": numbers(2, 2), "scalar": torch.tensor(1.5),
                "nothing": torch.zeros(0, 4), "wide": numbers(1, 1, 7, 1)})
    return out


def compared(ours, wanted):
    wrong = [name for name, tensor in wanted.items() if name not in ours
             or ours[name].dtype != tensor.dtype or not torch.equal(ours[name], tensor)]
    return all_equal(wrong, len(wanted), "tensors are equal")


def reading_safetensors(moelua):
    tensors, path = some_tensors(), moelua.path(".safetensors")
    save_file(tensors, path, {"format": "pt"})
    ours = moelua.tensors("convert", file=path)
    return compared(ours, {name: t.float() if t.is_floating_point() else t.int()
                           for name, t in tensors.items()})


def writing_safetensors(kind):
    def check(moelua):
        values = {"a": numbers(7, 9, scale=100.0), "b.c": numbers(4), "one": torch.tensor(0.1),
                  "tiny": numbers(5, scale=1e-7), "nothing": torch.zeros(2, 0)}
        path, out = moelua.path(".safetensors"), moelua.path(".safetensors")
        save_file(values, path)
        moelua.ask("convert", file=path, out=out, dtype=kind)
        with safe_open(out, "pt") as file:
            if file.metadata().get("format") != "pt":
                raise Failure(f"metadata: {file.metadata()}")
        return compared(load_file(out), {n: t.to(FLOATS[kind]) for n, t in values.items()})
    return check


# ---- types of GGUF -------------------------------------------------------------------------------

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K",
         "Q5_K", "Q6_K")
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def stored(kind, rows, columns):
    """Bytes of a matrix of a type: what the library makes of numbers; where it only reads, any
    bits with scales that are numbers."""
    draw = np.random.default_rng(3)
    values = draw.standard_normal((rows, columns)).astype(np.float32)
    values[0, :40] = 0
    if kind == "F32":
        return values
    if kind == "F16":
        return values.astype(np.float16)
    kind_id = gguf.GGMLQuantizationType[kind]
    if kind not in HALVES:
        return gguf.quants.quantize(values, kind_id)
    elements, size = gguf.GGML_QUANT_SIZES[kind_id]
    blocks = draw.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = draw.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def reading_type(kind):
    def check(moelua):
        data, path = stored(kind, 6, 512), moelua.path(".gguf")
        writer = gguf.GGUFWriter(path, "llama")
        kind_id = gguf.GGMLQuantizationType[kind]
        writer.add_tensor("x.weight", data, raw_dtype=kind_id)
        writer.add_tensor("last", np.arange(3, dtype=np.float32))
        finish(writer)
        wanted = torch.from_numpy(np.array(gguf.quants.dequantize(data, kind_id), np.float32))
        ours = moelua.tensors("convert", file=path)["x.weight"]
        scale = wanted.abs().max().item()
        return within(farthest(ours, wanted) / scale, 2e-7, "relative to the largest")
    return check


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def metadata(moelua):
    values = {"a.u8": ("uint8", 200), "a.i8": ("int8", -7), "a.u16": ("uint16", 60000),
              "a.i16": ("int16", -30000), "a.u32": ("uint32", 4_000_000_000),
              "a.i32": ("int32", -2_000_000_000), "a.f32": ("float32", 0.5),
              "a.bool": ("bool", True), "a.string": ("string", "ünï\n\"x\""),
              "a.u64": ("uint64", 1 << 60), "a.i64": ("int64", -(1 << 60)),
              "a.f64": ("float64", 0.1), "a.strings": ("array", ["a", "", "ü"]),
              "a.numbers": ("array", [1, -2, 3]), "a.floats": ("array", [0.5, -0.25]),
              "a.flags": ("array", [True, False])}
    path = moelua.path(".gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value) in values.items():
        getattr(writer, "add_" + kind)(key, value)
    writer.add_tensor("x", np.ones(1, np.float32))
    finish(writer)
    ours = moelua.ask("metadata", file=path)
    wrong = [f"{key}: {ours.get(key)!r}" for key, (_, value) in values.items()
             if ours.get(key) != value]
    return all_equal(wrong, len(values), "values are equal")


# ---- models as GGUF ------------------------------------------------------------------------------

small = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None)
sparse = dict(small, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)


def scaled(kind, **more):
    return dict(small, rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 4.0,
                                        **more})


# name -> family, options, architecture in GGUF; what the graphs of llama.cpp compute.
MODELS = {
    "llama": ("llama", small, "llama"),
    "llama-tied": ("llama", dict(small, tie_word_embeddings=True, head_dim=24), "llama"),
    "llama-linear": ("llama", scaled("linear"), "llama"),
    "llama-yarn": ("llama", scaled("yarn", original_max_position_embeddings=8), "llama"),
    "llama-llama3": ("llama", scaled("llama3", original_max_position_embeddings=16,
                                     low_freq_factor=1.0, high_freq_factor=4.0), "llama"),
    "mistral": ("mistral", small, "llama"),
    "mixtral": ("mixtral", dict(small, num_local_experts=4, num_experts_per_tok=2), "llama"),
    "olmoe": ("olmoe", dict(small, num_experts=4, num_experts_per_tok=2), "olmoe"),
    "qwen2": ("qwen2", small, "qwen2"),
    "qwen3": ("qwen3", dict(small, head_dim=24), "qwen3"),
    "qwen2_moe": ("qwen2_moe", dict(sparse, shared_expert_intermediate_size=64), "qwen2moe"),
    "qwen3_moe": ("qwen3_moe", dict(sparse, head_dim=24, norm_topk_prob=True), "qwen3moe"),
    "deepseek": ("deepseek", dict(
        small, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2,
        moe_intermediate_size=32, first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=False,
        scoring_func="softmax", tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}), "deepseek"),
}
def model_of(name):
    family, options, _ = MODELS[name]
    if family == "deepseek":
        return plain(make.draw(make.deepseek(options), 5))
    config = getattr(transformers, CLASSES[family] + "Config")(**options)
    return plain(make.draw(getattr(transformers, CLASSES[family] + "ForCausalLM")(config), 5))


RENAMED = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}


def interleaved(weight, heads):
    """Rows of q or k as llama.cpp turns them: pairs of neighbours."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def in_gguf(model, arch):
    """Names and tensors in a GGUF file, by llama.cpp's conventions."""
    config, out, stacks = model.config, {}, {}
    for name, weight in model.state_dict().items():
        weight = weight.detach()
        if name in TOP:
            if name != "lm_head.weight" or not config.tie_word_embeddings:
                out[TOP[name]] = weight
            continue
        _, _, layer, rest = name.split(".", 3)
        blk = f"blk.{layer}."
        if rest == "mlp.experts.gate_up_proj":
            gate, up = weight.chunk(2, 1)
            out[blk + "ffn_gate_exps.weight"], out[blk + "ffn_up_exps.weight"] = gate, up
        elif rest == "mlp.experts.down_proj":
            out[blk + "ffn_down_exps.weight"] = weight
        elif ".experts." in rest:
            matrix = rest.split(".")[3].removesuffix("_proj")
            stacks.setdefault(f"{blk}ffn_{matrix}_exps.weight", []).append(weight)
        else:
            module, kind = rest.rsplit(".", 1)
            if arch in ("llama", "deepseek") and module.endswith(("q_proj", "k_proj")):
                heads = config.num_attention_heads if "q_proj" in module \
                    else config.num_key_value_heads
                weight = interleaved(weight, heads)
            if module == "mlp.shared_expert_gate":
                weight = weight[0]
            out[f"{blk}{RENAMED[module]}.{kind}"] = weight
    out.update({name: torch.stack(parts) for name, parts in stacks.items()})
    rope = config.rope_parameters
    if rope["rope_type"] == "llama3":
        half = config.head_dim // 2
        usual = rope["rope_theta"] ** (-torch.arange(half).float() / half)
        out["rope_freqs.weight"] = usual / model.model.rotary_emb.inv_freq
    return out


def head_dim_of(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def experts_keys(writer, options):
    count = next((options[k] for k in ("num_experts", "num_local_experts", "n_routed_experts")
                  if k in options), None)
    if count is None:
        return
    writer.add_expert_count(count)
    writer.add_expert_used_count(options["num_experts_per_tok"])
    if "moe_intermediate_size" in options:
        writer.add_expert_feed_forward_length(options["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in options:
        writer.add_expert_shared_feed_forward_length(options["shared_expert_intermediate_size"])
    if "n_shared_experts" in options:
        writer.add_expert_shared_count(options["n_shared_experts"])
        writer.add_leading_dense_block_count(options["first_k_dense_replace"])
        writer.add_expert_weights_scale(1.0)


def write_gguf(name, model, path):
    """As llama.cpp's converter does it, in F32 and F16."""
    _, options, arch = MODELS[name]
    writer, config = gguf.GGUFWriter(path, arch), model.config
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(options["intermediate_size"])
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim_of(config))
    writer.add_value_length(head_dim_of(config))
    writer.add_rope_dimension_count(head_dim_of(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType[rope["rope_type"].upper()])
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    experts_keys(writer, options)
    for tensor, weight in in_gguf(model, arch).items():
        half = weight.dim() > 1 and "gate_inp" not in tensor
        writer.add_tensor(tensor, (weight.half() if half else weight).contiguous().numpy())
    finish(writer)


def rounded(model):
    """Matrices to numbers of F16, so that a file holds the same."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float())
    return model


def reading_model(name):
    def check(moelua):
        model, path = rounded(model_of(name)), moelua.path(".gguf")
        write_gguf(name, model, path)
        return within(farthest(moelua.logits(path, IDS), theirs(model, IDS)), LIMIT)
    return check


def saved_model(name, moelua):
    model, folder = model_of(name), moelua.path()
    if name == "deepseek":
        write_deepseek(model, MODELS[name][1], folder)
    else:
        model.save_pretrained(folder)
    return model, folder


READ_BY_TRANSFORMERS = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "qwen2_moe",
                        "qwen3_moe")


def exporting(name):
    """What we export has llama.cpp's names, shapes and numbers, and computes the same again."""
    def check(moelua):
        model, folder = saved_model(name, moelua)
        path = moelua.path(".gguf")
        moelua.ask("export", model=folder, out=path, format="gguf", kind="f32")
        wanted = in_gguf(model, MODELS[name][2])
        found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        for tensor in sorted(set(wanted) ^ set(found)):
            raise Failure(f"{tensor} is only in {'ours' if tensor in found else 'theirs'}")
        wrong = []
        for tensor, weight in wanted.items():
            data = torch.from_numpy(np.array(found[tensor].data)).float()
            if data.shape != weight.shape or farthest(data, weight) > 1e-6:
                wrong.append(f"{tensor} {list(data.shape)}, wanted {list(weight.shape)}")
        text = all_equal(wrong, len(wanted), "tensors are equal")
        again = farthest(moelua.logits(path, IDS), theirs(model, IDS))
        return f"{text}; read again, " + within(again, LIMIT)
    return check


def exported_to_transformers(name):
    def check(moelua):
        model, folder = saved_model(name, moelua)
        path = moelua.path(".gguf")
        moelua.ask("export", model=folder, out=path, format="gguf", kind="f32")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32,
            config=model.config if "qwen" in name else None)        # not all keys are read
        return within(farthest(theirs(plain(loaded), IDS), theirs(model, IDS)), LIMIT)
    return check


def exporting_type(kind):
    """Our numbers of a type are those of the library, bit for bit."""
    def check(moelua):
        model, folder = saved_model("mixtral", moelua)
        path = moelua.path(".gguf")
        moelua.ask("export", model=folder, out=path, format="gguf", kind=kind)
        wanted, wrong, count = in_gguf(model, "llama"), [], 0
        for tensor in gguf.GGUFReader(path).tensors:
            weight = wanted[tensor.name].contiguous().numpy()
            same = np.array_equal(gguf.quants.quantize(weight, tensor.tensor_type).view(np.uint8),
                                  np.asarray(tensor.data).view(np.uint8).reshape(
                                      weight.shape[:-1] + (-1,)))
            count += tensor.tensor_type == gguf.GGMLQuantizationType[kind.upper()]
            if not same:
                wrong.append(f"{tensor.name}, {tensor.tensor_type.name}")
        if count < len(wanted) // 2:
            raise Failure(f"only {count} of {len(wanted)} tensors are in {kind}")
        return all_equal(wrong, len(wanted), f"tensors have the same bits, {count} in {kind}")
    return check


CHECKS = [("files/safetensors/read", 60, reading_safetensors)]
CHECKS += [(f"files/safetensors/written-{kind}", 60, writing_safetensors(kind)) for kind in FLOATS]
CHECKS += [(f"files/gguf/{kind}", 60, reading_type(kind)) for kind in TYPES]
CHECKS += [("files/gguf/metadata", 60, metadata)]
CHECKS += [(f"files/gguf/read/{name}", 60, reading_model(name)) for name in MODELS]
CHECKS += [(f"files/gguf/exported/{name}", 60, exporting(name)) for name in MODELS]
CHECKS += [(f"files/gguf/transformers/{name}", 60, exported_to_transformers(name))
           for name in READ_BY_TRANSFORMERS]
CHECKS += [(f"files/gguf/exported-{kind}", 60, exporting_type(kind))
           for kind in ("f32", "f16", "bf16", "q8_0")]
