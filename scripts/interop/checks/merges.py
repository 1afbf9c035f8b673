"""Every method of mergekit on small random Llamas, in float32, from the same YAML.

Differences are relative to the largest sum over the models of |x| in a tensor. What draws masks
(DARE, DELLA) is compared by the share that is kept and by the size of what is left.
"""

import glob
import os

import tokenizers
import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers

from beside import Failure, farthest, within
from strings import CODE, WORDS

LIMIT = 2e-6
LAYERS = 4


# ---- models -------------------------------------------------------------------------------------

def config_of(**more):
    return transformers.LlamaConfig(**{**dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1,
        eos_token_id=2, pad_token_id=None), **more})


made = {}


def models(moelua):
    """Folders of a base and of three that went on from it, each its own way and far."""
    if moelua.work not in made:
        generator, folders = torch.Generator().manual_seed(11), []
        base = transformers.LlamaForCausalLM(config_of())
        start = {name: torch.randn(w.shape, generator=generator) * 0.3 + ("norm" in name)
                 for name, w in sorted(base.state_dict().items())}
        for number in range(4):
            with torch.no_grad():
                for name, weight in sorted(base.state_dict().items()):
                    change = torch.randn(weight.shape, generator=generator) * 0.1
                    weight.copy_(start[name] + (change if number else 0.0))
            folders.append(moelua.path(f"-model{number}"))
            base.save_pretrained(folders[-1])
        made[moelua.work] = folders
    return made[moelua.work]


def with_tokenizers(moelua):
    """Folders of three models whose vocabularies differ; the second has rows that nobody uses."""
    key = moelua.work + "/tokenizers"
    if key in made:
        return made[key]
    generator, folders = torch.Generator().manual_seed(12), []
    texts = (WORDS * 3, [piece for piece in CODE for _ in range(5)], WORDS * 3)
    for number, lines in enumerate(texts):
        tokenizer = Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        if number == 2:
            tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        rows = tokenizer.get_vocab_size() + (5 if number == 1 else 0)
        model = transformers.LlamaForCausalLM(config_of(vocab_size=rows, num_hidden_layers=1))
        with torch.no_grad():
            for _, weight in sorted(model.state_dict().items()):
                weight.copy_(torch.randn(weight.shape, generator=generator))
        folders.append(moelua.path(f"-vocabulary{number}"))
        model.save_pretrained(folders[-1])
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
                folders[-1])
    made[key] = folders
    return folders


def tensors_of(folder):
    out = {}
    for path in glob.glob(os.path.join(folder, "*.safetensors")):
        out.update(load_file(path))
    return out


# ---- both ---------------------------------------------------------------------------------------

def with_paths(value, folders):
    """@0 to @3 are the folders of the models."""
    if isinstance(value, dict):
        return {key: with_paths(one, folders) for key, one in value.items()}
    if isinstance(value, list):
        return [with_paths(one, folders) for one in value]
    if isinstance(value, str) and value.startswith("@"):
        return folders[int(value[1:])]
    return value


def by_both(config, moelua, made_of=models):
    """Tensors of ours and of theirs."""
    ours, theirs = folders_by_both(config, moelua, made_of)
    return tensors_of(ours), tensors_of(theirs)


def folders_by_both(config, moelua, made_of):
    config = with_paths(config, made_of(moelua))
    ours, theirs, path = moelua.path("-ours"), moelua.path("-theirs"), moelua.path(".yaml")
    with open(path, "w") as file:
        yaml.safe_dump(config, file)
    moelua.ask("merge", config=path, out=ours)
    run_merge(MergeConfiguration.model_validate(config), theirs, MergeOptions(
        quiet=True, copy_tokenizer=False, write_model_card=False, random_seed=1))
    return ours, theirs


def same_names(ours, theirs):
    for name in sorted(set(ours) ^ set(theirs)):
        raise Failure(f"{name} is only in {'ours' if name in ours else 'theirs'}")
    for name, tensor in theirs.items():
        if ours[name].shape != tensor.shape or ours[name].dtype != tensor.dtype:
            raise Failure(f"{name} is {ours[name].dtype} {list(ours[name].shape)} instead of "
                          f"{tensor.dtype} {list(tensor.shape)}")


def exact(config):
    def check(moelua):
        ours, theirs = by_both(config, moelua)
        same_names(ours, theirs)
        inputs, most, worst = [tensors_of(folder) for folder in models(moelua)], 0.0, ""
        for name, tensor in theirs.items():
            like = name if name in inputs[0] and inputs[0][name].shape == tensor.shape else None
            scale = sum(one[like].abs() for one in inputs).max().item() if like else 4.0
            figure = (ours[name] - tensor).abs().max().item() / scale
            if not figure <= most:
                most, worst = figure, name
        if not most <= LIMIT:
            raise Failure(f"{worst}: relative {most:.2g}, limit {LIMIT:g}")
        return f"{len(theirs)} tensors, " + within(most, LIMIT, "relative")
    return check


def vocabulary_of(folder):
    return Tokenizer.from_file(os.path.join(folder, "tokenizer.json")).get_vocab()


def united(config):
    """The rows of every token, whatever its number is, and the other tensors."""
    def check(moelua):
        folders = folders_by_both(config, moelua, with_tokenizers)
        (ours, ids), (theirs, wanted) = [(tensors_of(f), vocabulary_of(f)) for f in folders]
        for token in sorted(set(ids) ^ set(wanted)):
            raise Failure(f"token {token!r} is only in {'ours' if token in ids else 'theirs'}")
        tokens, most, worst = sorted(wanted), 0.0, ""
        for name, tensor in theirs.items():
            mine = ours[name]
            if "embed_tokens" in name or "lm_head" in name:
                mine, tensor = mine[[ids[t] for t in tokens]], tensor[[wanted[t] for t in tokens]]
            figure = farthest(mine, tensor)
            if figure > most:
                most, worst = figure, name
        return f"{len(tokens)} tokens, " + within(most, 3 * LIMIT, f"max abs {worst}".strip())
    return check


def rounded(config):
    """Results in bf16: one rounding of nearly equal numbers seldom differs."""
    def check(moelua):
        ours, theirs = by_both(config, moelua)
        same_names(ours, theirs)
        equal = sum((ours[name] == theirs[name]).sum().item() for name in theirs)
        total = sum(tensor.numel() for tensor in theirs.values())
        if any(tensor.dtype != torch.bfloat16 for tensor in theirs.values()):
            raise Failure("theirs is not in bf16")
        return within(1 - equal / total, 1e-3, "share of different numbers")
    return check


def drawn(config, kept):
    """`kept`: the share of the delta that is expected to survive."""
    def check(moelua):
        ours, theirs = by_both(config, moelua)
        same_names(ours, theirs)
        base = tensors_of(models(moelua)[0])
        figures = []
        for result in (ours, theirs):
            deltas = torch.cat([(result[n] - base[n]).flatten() for n in sorted(base)])
            figures.append(((deltas.abs() > 1e-7).float().mean().item(), deltas.abs().mean().item(),
                            deltas.square().mean().item()))
        (share, size, square), (share2, size2, square2) = figures
        text = (f"kept {share:.3f} and {share2:.3f}, mean |delta| {size:.4f} and {size2:.4f}, "
                f"mean square {square:.5f} and {square2:.5f}")
        near = abs(share - kept) < 0.012 and abs(share2 - kept) < 0.012      # of 35,104 numbers
        if not (near and abs(size / size2 - 1) < 0.05 and abs(square / square2 - 1) < 0.06):
            raise Failure(text)
        return text
    return check


# ---- configurations -----------------------------------------------------------------------------

def of(method, *parameters, base=None, **shared):
    """One entry per model from 1 on, with its parameters."""
    out = {"merge_method": method, "dtype": "float32", "models": [
        {"model": f"@{i + 1}", "parameters": each} if each else {"model": f"@{i + 1}"}
        for i, each in enumerate(parameters)]}
    if base is not None:
        out["base_model"] = f"@{base}"
    if shared:
        out["parameters"] = {key.rstrip("_"): value for key, value in shared.items()}
    return out


def weights(*values, **more):
    return [dict(more, weight=value) for value in values]


def layers(model, first, last, **parameters):
    source = {"model": model, "layer_range": [first, last]}
    return dict(source, parameters=parameters) if parameters else source


GRADIENT = [{"filter": "self_attn", "value": [0.0, 0.5, 0.3, 0.7, 1.0]},
            {"filter": "mlp", "value": [1.0, 0.5, 0.7, 0.3, 0.0]}, {"value": 0.5}]
PAIR = [{}]

EXACT = {
    "linear": of("linear", *weights(0.6, 0.3, 0.4)),
    "linear/unnormalised": of("linear", *weights(0.6, -0.3, 0.4), normalize=False),
    "linear/gradients": of("linear", {"weight": GRADIENT}, {"weight": [0.1, 0.9]},
                           {"weight": 0.3}),
    "slerp": of("slerp", *PAIR, base=0, t=0.35),
    "slerp/gradients": of("slerp", *PAIR, base=0, t=GRADIENT),
    "slerp/beyond": of("slerp", *PAIR, base=0, t=1.2),
    "nuslerp": of("nuslerp", *weights(0.7, 0.4)),
    "nuslerp/base": of("nuslerp", *weights(0.7, 0.4), base=0),
    "nuslerp/rows": of("nuslerp", *weights(0.7, 0.4), nuslerp_flatten=False),
    "nuslerp/columns": of("nuslerp", *weights(0.2, 0.4), base=0, nuslerp_flatten=False,
                          nuslerp_row_wise=True),
    "multislerp": of("multislerp", *weights(0.5, 0.3, 0.4)),
    "multislerp/base": of("multislerp", *weights(0.5, 0.3, 0.4), base=0),
    "multislerp/unnormalised": of("multislerp", *weights(0.5, 0.3, 0.4), normalize_weights=False),
    "karcher": of("karcher", {}, {}, {}),
    "karcher/few": of("karcher", {}, {}, {}, max_iter=2, tol=1e-3),
    "task_arithmetic": of("task_arithmetic", *weights(0.6, -0.3, 0.4), base=0),
    "task_arithmetic/lambda": of("task_arithmetic", *weights(0.6, 0.3), base=0, lambda_=0.7,
                                 normalize=True),
    "ties": of("ties", *weights(0.6, 0.3, 0.5, density=0.3), base=0),
    "ties/unnormalised": of("ties", *weights(0.6, -0.3, 0.5, density=0.7), base=0,
                            normalize=False, lambda_=1.3, int8_mask=True),
    "ties/gradients": of("ties", {"weight": GRADIENT, "density": [0.3, 0.9]},
                         {"weight": 0.5, "density": 0.5}, base=0),
    "ties/rescaled": of("ties", *weights(0.6, 0.3, density=0.4), base=0, rescale=True),
    "dare_linear/whole": of("dare_linear", *weights(0.6, 0.3, density=1.0), base=0),
    "dare_ties/whole": of("dare_ties", *weights(0.6, 0.3, density=1.0), base=0),
    "breadcrumbs": of("breadcrumbs", *weights(0.6, 0.3, density=0.6, gamma=0.05), base=0),
    "breadcrumbs_ties": of("breadcrumbs_ties", *weights(0.6, 0.3, density=0.9), base=0),
    "breadcrumbs/dense": of("breadcrumbs", *weights(0.6, 0.3, density=0.97, gamma=0.2), base=0),
    "sce": of("sce", {}, {}, {}, base=0),
    "sce/top": of("sce", {}, {}, {}, base=0, select_topk=0.4),
    "model_stock": of("model_stock", {}, {}, {}, base=0),
    "model_stock/filters": of("model_stock", {}, {}, {}, base=0, filter_wise=True),
    "nearswap": of("nearswap", *PAIR, base=0, t=0.02),
    "arcee_fusion": of("arcee_fusion", *PAIR, base=0),
    "ram": of("ram", {}, {}, {}, base=0, epsilon=0.08),
    "ramplus_tl": of("ramplus_tl", {}, {}, {}, base=0, epsilon=0.08, r=0.3, alpha=1.0),
    "passthrough/scale": dict(of("passthrough", {"scale": [{"filter": "o_proj", "value": 0.5},
                                                           {"value": 1.0}]})),
    "passthrough/stack": {"merge_method": "passthrough", "dtype": "float32", "slices": [
        {"sources": [layers("@1", 0, 3)]}, {"sources": [layers("@2", 1, 4)]}]},
    "slices/linear": {"merge_method": "linear", "dtype": "float32", "slices": [
        {"sources": [layers("@1", 0, 2, weight=0.3), layers("@2", 2, 4, weight=0.8)]},
        {"sources": [layers("@1", 1, 4, weight=[0.1, 0.9]), layers("@3", 0, 3, weight=0.5)],
         "parameters": {"normalize": False}}]},
    "slices/slerp": {"merge_method": "slerp", "dtype": "float32", "base_model": "@0",
                     "parameters": {"t": GRADIENT}, "slices": [
                         {"sources": [layers("@0", 0, 4), layers("@1", 0, 4)]}]},
    "slices/ties": {"merge_method": "ties", "dtype": "float32", "base_model": "@0",
                    "parameters": {"density": 0.5, "weight": [0.2, 0.8]}, "slices": [
                        {"sources": [layers("@0", 0, 2), layers("@1", 0, 2), layers("@2", 0, 2)]},
                        {"sources": [layers("@0", 2, 4), layers("@3", 2, 4, weight=1.0)]}]},
}

DRAWN = {
    "dare_linear": (of("dare_linear", *weights(1.0, density=0.4), base=0), 0.4),
    "dare_ties": (of("dare_ties", *weights(1.0, density=0.7), base=0), 0.7),
    "dare/unscaled": (of("dare_linear", *weights(1.0, density=0.4), base=0, rescale=False), 0.4),
    "dare/two": (of("dare_linear", *weights(1.0, 1.0, density=0.5), base=0), 0.75),
    "della": (of("della", *weights(1.0, density=0.5, epsilon=0.2), base=0), 0.5),
    "della_linear": (of("della_linear", *weights(1.0, density=0.6, epsilon=0.3), base=0), 0.6),
}

UNITED = {
    "union": of("task_arithmetic", *weights(0.5, 0.3), base=0) | {"tokenizer": {"source": "union"}},
    "union/all": {"merge_method": "linear", "dtype": "float32", "tokenizer_source": "union",
                  "models": [{"model": f"@{i}", "parameters": {"weight": 0.4}} for i in range(3)]},
    "base": of("ties", *weights(0.5, 0.3, density=1.0), base=0) | {"tokenizer_source": "base"},
    "slerp": of("slerp", *PAIR, base=2, t=0.4) | {"tokenizer_source": "union"},
}
ROUNDED = {
    "linear": of("linear", *weights(0.6, 0.3, 0.4)) | {"out_dtype": "bfloat16"},
    "ties": of("ties", *weights(0.6, 0.3, density=0.5), base=0) | {"out_dtype": "bfloat16"},
    "slerp": of("slerp", *PAIR, base=0, t=0.35) | {"out_dtype": "bfloat16"},
}

CHECKS = [(f"merges/{name}", 60, exact(config)) for name, config in EXACT.items()]
CHECKS += [(f"merges/{name}", 60, drawn(*case)) for name, case in DRAWN.items()]
CHECKS += [(f"merges/tokenizer/{name}", 60, united(config)) for name, config in UNITED.items()]
CHECKS += [(f"merges/bfloat16/{name}", 60, rounded(config)) for name, config in ROUNDED.items()]
