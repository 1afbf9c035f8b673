"""The models of the benchmark as PyTorch likes them best: fused projections, flash attention, and a
mixture that sorts its tokens by expert and multiplies contiguous slices.
"""

import torch
import torch.nn.functional as F
from torch import nn


def weight(*shape):
    return nn.Parameter(torch.randn(shape) * 0.02)


class FeedForward(nn.Module):
    """Dense SwiGLU; gate and up are one matrix."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_up, self.down = weight(2 * hidden, dim), weight(dim, hidden)

    def forward(self, x):
        gate, up = F.linear(x, self.gate_up).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down)


class Mixture(nn.Module):
    """Top-k experts: tokens sorted by expert, multiplied slice by slice (or in one grouped call),
    weighted and added to their places."""

    def __init__(self, dim, hidden, experts, k, grouped=False):
        super().__init__()
        self.k, self.grouped = k, grouped
        self.router = weight(experts, dim)
        self.gate_up = weight(experts, 2 * hidden, dim)
        self.down = weight(experts, dim, hidden)

    def slices(self, rows, counts):
        out = []
        parts = zip(rows.split(counts.tolist()), self.gate_up.unbind(), self.down.unbind())
        for part, gate_up, down in parts:
            gate, up = F.linear(part, gate_up).chunk(2, -1)
            out.append(F.linear(F.silu(gate) * up, down))
        return torch.cat(out)

    def groups(self, rows, counts):
        ends = counts.cumsum(0, dtype=torch.int32)
        gate_up, down = self.gate_up, self.down
        if torch.is_autocast_enabled("cpu"):    # which does not know grouped_mm
            rows, gate_up, down = (t.bfloat16() for t in (rows, gate_up, down))
        gate, up = F.grouped_mm(rows, gate_up.mT, offs=ends).chunk(2, -1)
        return F.grouped_mm(F.silu(gate) * up, down.mT, offs=ends)

    def single(self, x, gates, experts):
        """One token needs no sorting. The compiler makes one pass over the chosen weights."""
        if torch.compiler.is_compiling():
            gate, up = (self.gate_up[experts] * x).sum(-1).chunk(2, -1)
            y = (self.down[experts] * (F.silu(gate) * up).unsqueeze(1)).sum(-1)
            return (gates.unsqueeze(-1).to(y.dtype) * y).sum(0, keepdim=True)
        y = 0
        for share, e in zip(gates.to(x.dtype), experts.tolist()):
            gate, up = F.linear(x, self.gate_up[e]).chunk(2, -1)
            y = y + share * F.linear(F.silu(gate) * up, self.down[e])
        return y

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        probability = F.softmax(F.linear(flat, self.router).float(), -1)
        gates, experts = torch.topk(probability, self.k, -1)
        gates = gates / gates.sum(-1, keepdim=True)
        if len(flat) == 1:
            return self.single(flat, gates[0], experts[0]).view_as(x)
        order = experts.flatten().argsort(stable=True)
        token = order // self.k
        counts = torch.bincount(experts.flatten(), minlength=len(self.router))
        rows = flat.index_select(0, token)
        rows = self.groups(rows, counts) if self.grouped else self.slices(rows, counts)
        rows = rows * gates.flatten().index_select(0, order).unsqueeze(-1).to(rows.dtype)
        return torch.zeros_like(flat, dtype=rows.dtype).index_add(0, token, rows).view_as(x)


def rope_table(context, head_dim, theta=10000.0):
    angle = theta ** (-torch.arange(0, head_dim, 2) / head_dim)
    angle = torch.outer(torch.arange(context), angle).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class MixtureOfTokens(nn.Module):
    """Groups of tokens at one position, mixed for every expert; products as einsum writes them, or
    as batches of matrices with the rows of an expert side by side."""

    def __init__(self, dim, hidden, experts, group, products):
        super().__init__()
        self.group, self.products = group, getattr(self, products)
        self.controller = weight(experts, dim)
        self.up, self.down = weight(experts, hidden, dim), weight(experts, dim, hidden)

    def einsum(self, x, weights):
        merged = torch.einsum("bgse,bgsd->ebsd", weights, x)
        hidden = F.relu(torch.einsum("ebsd,ehd->ebsh", merged, self.up))
        given = torch.einsum("ebsh,edh->ebsd", hidden, self.down)
        return torch.einsum("bgse,ebsd->bgsd", weights, given)

    def bmm(self, x, weights):
        sets, group, length, dim = x.shape
        x = x.transpose(1, 2).reshape(sets * length, group, dim)
        weights = weights.transpose(1, 2).reshape(sets * length, group, -1)
        merged = torch.bmm(weights.mT, x).transpose(0, 1)
        hidden = F.relu(torch.bmm(merged, self.up.mT))
        given = torch.bmm(hidden, self.down.mT).transpose(0, 1)
        y = torch.bmm(weights, given)
        return y.reshape(sets, length, group, dim).transpose(1, 2)

    def forward(self, x):
        groups = x.view(-1, self.group, *x.shape[1:])
        weights = F.softmax(F.linear(groups, self.controller).float(), 1).to(x.dtype)
        return self.products(groups, weights).reshape(x.shape)


class Attention(nn.Module):
    def __init__(self, dim, heads, kv_heads, head_dim):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.qkv = weight((heads + 2 * kv_heads) * head_dim, dim)
        self.out = weight(dim, heads * head_dim)

    def forward(self, x, cos, sin, cache=None, position=None):
        """With a cache ([B, KV, context, D] of keys and of values) x is the token at `position`."""
        batch, length, _ = x.shape
        qkv = F.linear(x, self.qkv).view(batch, length, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        mask = None
        if cache is not None:
            keys, values = cache
            k, v = keys.index_copy_(2, position, k), values.index_copy_(2, position, v)
            mask = (torch.arange(k.shape[2]) <= position).view(1, 1, 1, -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=cache is None,
                                           enable_gqa=self.heads != self.kv_heads)
        return F.linear(y.transpose(1, 2).reshape(batch, length, -1), self.out)


class Block(nn.Module):
    def __init__(self, dim, heads, kv_heads, head_dim, ffn):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.attention, self.ffn = Attention(dim, heads, kv_heads, head_dim), ffn

    def forward(self, x, *where):
        x = x + self.attention(self.norm1(x), *where)
        return x + self.ffn(self.norm2(x))


class Decoder(nn.Module):
    """A Llama-style decoder with tied embeddings; a mixture in every layer when `experts` is given.
    """

    def __init__(self, shape, grouped=False):
        super().__init__()
        dim, heads, hidden = shape["dim"], shape["heads"], shape["hidden"]
        self.kv_heads = shape.get("kv_heads", heads)
        self.head_dim = dim // heads
        self.embedding, self.norm = weight(shape["vocab"], dim), nn.RMSNorm(dim, eps=1e-5)

        def ffn():
            if "experts" not in shape:
                return FeedForward(dim, hidden)
            return Mixture(dim, hidden, shape["experts"], shape["k"], grouped)

        self.blocks = nn.ModuleList(Block(dim, heads, self.kv_heads, self.head_dim, ffn())
                                    for _ in range(shape["layers"]))
        cos, sin = rope_table(shape["context"], self.head_dim)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, ids):
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.embedding)

    def loss(self, ids):
        return F.cross_entropy(self(ids).flatten(0, 1).float(), ids.flatten())

    def new_cache(self, context):
        shape = (1, self.kv_heads, context, self.head_dim)
        return [[torch.zeros(shape, dtype=self.embedding.dtype) for _ in range(2)]
                for _ in self.blocks]

    def next_id(self, token, position, cache):
        """The most likely token after the one at `position`, as tensors [1]."""
        cos, sin = self.cos.index_select(0, position), self.sin.index_select(0, position)
        x = F.embedding(token.view(1, 1), self.embedding)
        for block, part in zip(self.blocks, cache):
            x = block(x, cos, sin, part, position)
        return F.linear(self.norm(x), self.embedding).argmax(-1).flatten()
