"""What PyTorch does in each workload of the benchmark, in every way that a good user would try.

`ways(job)` gives (name, make) pairs: make() returns a function that does the work once. A job is
what the driver sends: {"kind": ..., "precision": "f32" or "bf16", and the shapes}.
"""

import torch
import torch.nn.functional as F

import torch_models as models


def autocast(job):
    """Mixed precision as a user would train: f32 weights, bf16 operands."""
    return torch.autocast("cpu", torch.bfloat16, enabled=job["precision"] == "bf16")


def eager_and_compiled(name, module, use):
    """Two ways: use(module) makes the work; compiling is by block where there are blocks."""
    def compiled():
        made = module()
        for block in getattr(made, "blocks", [made]):
            block.compile()
        return use(made)
    yield "eager, " + name, lambda: use(module())
    yield "compiled, " + name, compiled


# ---- feed-forward layers ------------------------------------------------------------------------


def mixtral_config(shape, experts="grouped_mm"):
    from transformers import MixtralConfig
    config = MixtralConfig(
        hidden_size=shape["dim"], intermediate_size=shape["hidden"],
        num_local_experts=shape["experts"], num_experts_per_tok=shape["k"],
        num_hidden_layers=shape.get("layers", 1), num_attention_heads=shape.get("heads", 1),
        num_key_value_heads=shape.get("heads", 1), vocab_size=shape.get("vocab", 256),
        max_position_embeddings=shape.get("context", 256), tie_word_embeddings=True,
        rope_theta=10000.0, bos_token_id=None, eos_token_id=None)
    config._attn_implementation, config._experts_implementation = "sdpa", experts
    return config


def mixtral_block(job, experts):
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    block = MixtralSparseMoeBlock(mixtral_config(job, experts))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return block


def mixtures(job, use, more=""):
    """The ways of one mixture layer; use(module) makes the work."""
    def own(grouped):
        return lambda: models.Mixture(job["dim"], job["hidden"], job["experts"], job["k"], grouped)
    yield from eager_and_compiled("slices" + more, own(False), use)
    yield from eager_and_compiled("grouped_mm" + more, own(True), use)
    for experts in ("eager", "grouped_mm"):
        yield (f"transformers' block, {experts} experts{more}",
               lambda experts=experts: use(mixtral_block(job, experts)))


def ffn_forward(job):
    """Without mixed precision: pure bf16 weights are faster."""
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    x = torch.randn(1, job["tokens"], job["dim"], dtype=dtype)

    def use(layer):
        layer.to(dtype)

        @torch.inference_mode()
        def run():
            layer(x)
        return run
    return mixtures(job, use, ", bf16 weights" if dtype == torch.bfloat16 else "")


def ffn_training(job):
    x = torch.randn(1, job["tokens"], job["dim"], requires_grad=True)
    above = torch.randn(1, job["tokens"], job["dim"])

    def use(layer):
        def run():
            layer.zero_grad()
            x.grad = None
            with autocast(job):
                y = layer(x)
            y.backward(above.to(y.dtype))
        return run
    return mixtures(job, use)


def mixture_of_tokens(job):
    shape = (job["batch"], job["context"], job["dim"])
    x, above = torch.randn(shape, requires_grad=True), torch.randn(shape)

    def use(layer):
        def run():
            layer.zero_grad()
            x.grad = None
            with autocast(job):
                y = layer(x)
            y.backward(above.to(y.dtype))
        return run

    def module(products):
        return lambda: models.MixtureOfTokens(job["dim"], job["hidden"], job["experts"],
                                              job["group"], products)
    for products in ("einsum", "bmm"):
        yield from eager_and_compiled(products, module(products), use)


# ---- training steps -----------------------------------------------------------------------------


def training(job, model, loss):
    """Forward, backward, clipping and a fused AdamW step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95),
                                  weight_decay=0.1, fused=True)

    def run():
        with autocast(job):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return run


def step(job):
    ids = torch.randint(job["vocab"], (job["batch"], job["context"]))

    def use(model):
        return training(job, model, lambda: model.loss(ids))

    if "experts" not in job:
        yield from eager_and_compiled("by block", lambda: models.Decoder(job), use)
        return
    yield from eager_and_compiled("slices", lambda: models.Decoder(job), use)
    yield from eager_and_compiled("grouped_mm", lambda: models.Decoder(job, True), use)


def transformers_step(job):
    from transformers import MixtralForCausalLM
    ids = torch.randint(job["vocab"], (job["batch"], job["context"]))

    def use(model):
        return training(job, model, lambda: model(ids, labels=ids, use_cache=False).loss)

    def module(experts):
        def made():
            model = MixtralForCausalLM(mixtral_config(job, experts))
            model.blocks = list(model.model.layers)
            return model
        return made

    for experts in ("eager", "grouped_mm"):
        yield from eager_and_compiled(f"transformers' model, {experts} experts", module(experts),
                                      use)


# ---- the rest -----------------------------------------------------------------------------------


def attention(job):
    shape = (job["batch"], job["heads"], job["context"], job["head_dim"])
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    above = torch.randn(shape, dtype=dtype)

    def run():
        q.grad = k.grad = v.grad = None
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(above)
    yield "scaled_dot_product_attention", lambda: run


def adamw(job):
    def use(**how):
        def made():
            parameters = [models.weight(job["rows"], job["columns"])
                          for _ in range(job["tensors"])]
            for p in parameters:
                p.grad = torch.randn_like(p) * 0.02
            return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, **how).step
        return made
    yield "fused", use(fused=True)
    yield "foreach", use(foreach=True)


def decode(job):
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32

    def module():
        with torch.device("meta"):
            model = models.Decoder(job)
        model = model.to_empty(device="cpu").to(dtype)
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -0.03, 0.03)
        cos, sin = models.rope_table(job["context"], model.head_dim)
        model.cos, model.sin = cos.to(dtype), sin.to(dtype)
        return model

    def use(model):
        cache = model.new_cache(job["context"])

        @torch.inference_mode()
        def run():
            token = torch.tensor([1])
            for position in range(job["tokens"]):
                token = model.next_id(token, torch.tensor([position]), cache)
        return run

    yield from eager_and_compiled("static cache", module, use)


kinds = {f.__name__: f for f in (ffn_forward, ffn_training, mixture_of_tokens, step,
                                 transformers_step, attention, adamw, decode)}


def ways(job):
    if job["kind"] not in kinds:
        raise ValueError(f"{job['kind']} has no counterpart in PyTorch")
    return kinds[job["kind"]](job)
