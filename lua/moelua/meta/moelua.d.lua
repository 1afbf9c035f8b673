---@meta moelua
-- Written by `scripts/dev stubs` from the records of the ops and the doc comments; do not edit.

local moe = {}

---@class moelua.Tensor
---@operator add(moelua.Tensor|number): moelua.Tensor
---@operator sub(moelua.Tensor|number): moelua.Tensor
---@operator mul(moelua.Tensor|number): moelua.Tensor
---@operator div(moelua.Tensor|number): moelua.Tensor
---@operator pow(moelua.Tensor|number): moelua.Tensor
---@operator unm: moelua.Tensor
local Tensor = {}

---@class moelua.Scope
local Scope = {}

---@class moelua.Checkpoint
local Checkpoint = {}

--- Lets go of the file. Tensors that were taken from it stay.
---@param file moelua.Checkpoint
function Checkpoint.close(file) end

--- XXH3-128 of the bytes of a tensor, 32 hexadecimal digits; nil, message, "missing" when there is
--- none.
---@param file moelua.Checkpoint
---@param name string
---@return string?
function Checkpoint.hash(file, name) end

--- { dtype = "BF16", shape = {2, 3}, bytes = 12 } as the file has it; nil, message, "missing" when
--- there is no such tensor.
---@param file moelua.Checkpoint
---@param name string
---@return table?
function Checkpoint.info(file, name) end

--- Strings by strings that the file says of itself.
---@param file moelua.Checkpoint
---@return table
function Checkpoint.metadata(file) end

--- The names of the tensors, sorted.
---@param file moelua.Checkpoint
---@return string[]
function Checkpoint.names(file) end

--- The path that was opened.
---@param file moelua.Checkpoint
---@return string
function Checkpoint.path(file) end

--- The bytes of a tensor as the file has them; nil, message, "missing" when there is none.
---@param file moelua.Checkpoint
---@param name string
---@return string?
function Checkpoint.raw(file, name) end

--- A tensor: f32 for floats, i32 for integers and booleans, unless dtype asks for another; nil,
--- message, "missing" when there is none of that name.
---@param file moelua.Checkpoint
---@param name string
---@param dtype? "f32"|"i32"|"bf16"|"f16"
---@return moelua.Tensor?
function Checkpoint.tensor(file, name, dtype) end

--- True when every byte is the one that was written, as the checksum in the metadata says; else
--- nil, message, "format".
---@param file moelua.Checkpoint
---@return true?
function Checkpoint.verify(file) end

--- Releases the scope's tensors now.
---@param scope moelua.Scope
function Scope.close(scope) end

--- The tensors outlive the scope; they belong to the one around it. Returns them.
---@param scope moelua.Scope
---@param ... moelua.Tensor
---@return moelua.Tensor
function Scope.keep(scope, ...) end

--- a + b, element by element, broadcast like NumPy.
---@param a moelua.Tensor|number
---@param b moelua.Tensor|number
---@return moelua.Tensor
function Tensor.add(a, b) end
moe.add = Tensor.add

--- first, first + step ... last, both ends included. arange(n) is 0 ... n-1.
---@param first number
---@param last? number
---@param step? number default 1
---@return moelua.Tensor
function moe.arange(first, last, step) end

--- Position (from 0) of the largest element along `dim`, or in row-major order of all; the first of
--- equals, NaN before everything.
---@param x moelua.Tensor
---@param dim? integer
---@param keepdim? boolean default false
---@return moelua.Tensor
function Tensor.argmax(x, dim, keepdim) end
moe.argmax = Tensor.argmax

--- Causal grouped-query attention: q [B x T x H x D], k and v [B x S x KV x D] with T <= S and H a
--- multiple of KV; the queries are the last T positions, of `lengths` [B] keys each if that is
--- given: a cache has room for more. -> [B x T x H x D].
---@param q moelua.Tensor
---@param k moelua.Tensor
---@param v moelua.Tensor
---@param lengths? moelua.Tensor
---@return moelua.Tensor
function Tensor.attention(q, k, v, lengths) end
moe.attention = Tensor.attention

--- Gradients of a single number with respect to all leaves it depends on, added to what they have.
--- Frees the graph: a second call is an error.
---@param loss moelua.Tensor
function Tensor.backward(loss) end
moe.backward = Tensor.backward

--- The 0-based expert [T x 1] of every token: of all assignments that give each of N experts T / N
--- tokens, rounded down or up, one with the largest sum of scores [T x N].
---@param scores moelua.Tensor
---@return moelua.Tensor
function Tensor.balanced_assignment(scores) end
moe.balanced_assignment = Tensor.balanced_assignment

--- A table [V x k] for table_route: ids in the order of how often they occur, counts [V], each to
--- the least loaded expert; column j of k has the experts of slice j.
---@param counts moelua.Tensor
---@param experts integer
---@param k? integer default 1
---@param seed? integer default 1
---@return moelua.Tensor
function Tensor.balanced_table(counts, experts, k, seed) end
moe.balanced_table = Tensor.balanced_table

--- How often each of the ids 0 .. count-1 occurs, as an f32 tensor [count]; ids of -1 are passed
--- over, as slots that no expert takes.
---@param ids moelua.Tensor
---@param count integer
---@return moelua.Tensor
function Tensor.bincount(ids, count) end
moe.bincount = Tensor.bincount

--- The elements' bytes in row-major order, of a contiguous tensor.
---@param x moelua.Tensor
---@return string
function Tensor.bytes(x) end
moe.bytes = Tensor.bytes

--- Experts [T x k] of a routing with -1 for the slots beyond `capacity` of an expert in each of so
--- many segments of the tokens, and 1 for the slots that remain, otherwise 0. First come earlier
--- tokens ("position"), all first choices ("choice"), or the largest gates ("probability").
---@param gates moelua.Tensor
---@param experts moelua.Tensor
---@param capacity integer
---@param policy? "position"|"choice"|"probability" default position
---@param segments? integer default 1
---@return moelua.Tensor
---@return moelua.Tensor
function Tensor.capacity_route(gates, experts, capacity, policy, segments) end
moe.capacity_route = Tensor.capacity_route

--- Each element, but `low` where it is below that and `high` where it is above.
---@param x moelua.Tensor
---@param low number
---@param high number
---@return moelua.Tensor
function Tensor.clamp(x, low, high) end
moe.clamp = Tensor.clamp

--- Scales all gradients in place so that their joint 2-norm is at most max; returns the norm
--- before.
---@param list moelua.Tensor[]
---@param max number
---@return number
function moe.clip_grad_norm(list, max) end

--- A contiguous copy outside the graph.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.clone(x) end
moe.clone = Tensor.clone

--- Joins a list of tensors of one type along a dimension.
---@param xs moelua.Tensor[]
---@param dim? integer default 1
---@return moelua.Tensor
function moe.concat(xs, dim) end

--- A copy of x in row-major order.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.contiguous(x) end
moe.contiguous = Tensor.contiguous

--- Overwrites x with the elements of a tensor of the same shape and type. Returns x.
---@param x moelua.Tensor
---@param from moelua.Tensor
---@return moelua.Tensor
function Tensor.copy_(x, from) end
moe.copy_ = Tensor.copy_

--- The number of elements.
---@param x moelua.Tensor
---@return integer
function Tensor.count(x) end
moe.count = Tensor.count

--- Mean of -log softmax(logits)[target]: logits [N x V], targets [N]; rows whose target is `ignore`
--- do not count.
---@param logits moelua.Tensor
---@param targets moelua.Tensor
---@param ignore? integer default -1
---@return moelua.Tensor
function Tensor.cross_entropy(logits, targets, ignore) end
moe.cross_entropy = Tensor.cross_entropy

--- The same storage, but no part of the graph.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.detach(x) end
moe.detach = Tensor.detach

--- The number of dimensions.
---@param x moelua.Tensor
---@return integer
function Tensor.dim(x) end
moe.dim = Tensor.dim

--- a / b, element by element, broadcast like NumPy.
---@param a moelua.Tensor|number
---@param b moelua.Tensor|number
---@return moelua.Tensor
function Tensor.div(a, b) end
moe.div = Tensor.div

--- The element type: f32, i32, bf16 or f16.
---@param x moelua.Tensor
---@return string
function Tensor.dtype(x) end
moe.dtype = Tensor.dtype

--- Rows of `weight` by token id: weight [V x d], ids [..] -> [.. x d].
---@param weight moelua.Tensor
---@param ids moelua.Tensor
---@return moelua.Tensor
function Tensor.embedding(weight, ids) end
moe.embedding = Tensor.embedding

--- e to the power of each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.exp(x) end
moe.exp = Tensor.exp

--- Expert choice: logits [B x S x N] -> gates and 0-based experts [B*S x N]. Of every group of
--- tokens each expert takes `capacity`, those with the largest softmax over the experts, which is
--- their gate; elsewhere the expert is -1 and the gate 0. A group is a "sequence", or a position of
--- the whole "batch". mask, B*S numbers: tokens that it has 0 for are chosen when no others are
--- left.
---@param logits moelua.Tensor
---@param capacity integer
---@param over? "sequence"|"batch" default sequence
---@param mask? moelua.Tensor
---@return moelua.Tensor
---@return moelua.Tensor
function Tensor.expert_choice_route(logits, capacity, over, mask) end
moe.expert_choice_route = Tensor.expert_choice_route

--- Writes the number into every element. Returns x.
---@param x moelua.Tensor
---@param value number
---@return moelua.Tensor
function Tensor.fill_(x, value) end
moe.fill_ = Tensor.fill_

--- Releases the tensor now instead of when it is collected.
---@param x moelua.Tensor
function Tensor.free(x) end
moe.free = Tensor.free

--- The number everywhere.
---@param value number
---@param ... integer|integer[]|table
---@return moelua.Tensor
function moe.full(value, ...) end

--- Rows of x by number (from 0): x [R x ..], rows [N] -> [N x ..].
---@param x moelua.Tensor
---@param rows moelua.Tensor
---@return moelua.Tensor
function Tensor.gather_rows(x, rows) end
moe.gather_rows = Tensor.gather_rows

--- x times the normal distribution's Phi(x), exactly, of each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.gelu(x) end
moe.gelu = Tensor.gelu

--- The gradient that backward() has added up, or nil.
---@param x moelua.Tensor
---@return moelua.Tensor?
function Tensor.grad(x) end
moe.grad = Tensor.grad

--- The 2-norm of the gradients of all tensors in the list together; absent ones count as 0.
---@param list moelua.Tensor[]
---@return number
function moe.grad_norm(list) end

--- 16 hexadecimal digits that change when one of these bytes does.
---@param x moelua.Tensor
---@return string
function Tensor.hash(x) end
moe.hash = Tensor.hash

--- Hash routing: the 0-based experts [B*S x k] of token ids [B x S]. Hash j of k draws one of the
--- experts of slice j, from the id alone (grams = 1) or from it and the one before (2); what stands
--- before the first is `before` [B x 1], -1 for nothing.
---@param ids moelua.Tensor
---@param experts integer
---@param k? integer default 1
---@param grams? integer default 1
---@param seed? integer default 1
---@param before? moelua.Tensor
---@return moelua.Tensor
function Tensor.hash_route(ids, experts, k, grams, seed, before) end
moe.hash_route = Tensor.hash_route

--- Mean cross-entropy in nats of logits x W^T against targets: x [N x d], weight [V x d], targets
--- [N] (0-based ids; `ignore` marks rows that do not count). Computed in chunks.
---@param x moelua.Tensor
---@param weight moelua.Tensor
---@param targets moelua.Tensor
---@param ignore? integer default -1
---@return moelua.Tensor
function Tensor.head_cross_entropy(x, weight, targets, ignore) end
moe.head_cross_entropy = Tensor.head_cross_entropy

--- Do the elements lie side by side in row-major order?
---@param x moelua.Tensor
---@return boolean
function Tensor.is_contiguous(x) end
moe.is_contiguous = Tensor.is_contiguous

--- The number in a tensor that holds just one.
---@param x moelua.Tensor
---@return number
function Tensor.item(x) end
moe.item = Tensor.item

--- Experts [T x s] of a routing with -1, for an unused slot, where `keep` is not above 0: a number
--- for each slot [T x s] or row [T].
---@param experts moelua.Tensor
---@param keep moelua.Tensor
---@return moelua.Tensor
function Tensor.keep_slots(experts, keep) end
moe.keep_slots = Tensor.keep_slots

--- For each of the logits [T x N] the k-th largest of the others in its row: what it has to exceed
--- to be one of the k largest.
---@param logits moelua.Tensor
---@param k integer
---@return moelua.Tensor
function Tensor.kth_excluding(logits, k) end
moe.kth_excluding = Tensor.kth_excluding

--- x W^T + bias: x [.. x in], weight [out x in], bias [out] -> [.. x out]; in f32 if asked to,
--- whatever moe.precision says.
---@param x moelua.Tensor
---@param weight moelua.Tensor
---@param bias? moelua.Tensor
---@param precision? "current"|"f32" default current
---@return moelua.Tensor
function Tensor.linear(x, weight, bias, precision) end
moe.linear = Tensor.linear

--- Natural logarithm of each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.log(x) end
moe.log = Tensor.log

--- Logarithm of softmax along `dim`, without its loss of digits.
---@param x moelua.Tensor
---@param dim? integer default -1
---@return moelua.Tensor
function Tensor.log_softmax(x, dim) end
moe.log_softmax = Tensor.log_softmax

--- Starts the random numbers of rand and randn over, from this seed.
---@param seed integer
function moe.manual_seed(seed) end

--- Matrix product [.. x m x k] x [.. x k x n]; a two-dimensional b serves the whole batch. -> [.. x
--- m x n].
---@param a moelua.Tensor
---@param b moelua.Tensor
---@return moelua.Tensor
function Tensor.matmul(a, b) end
moe.matmul = Tensor.matmul

--- Largest element along `dim`, or of all; NaN if there is one. The gradient goes to the first of
--- equals.
---@param x moelua.Tensor
---@param dim? integer
---@param keepdim? boolean default false
---@return moelua.Tensor
function Tensor.max(x, dim, keepdim) end
moe.max = Tensor.max

--- Mean along `dim`, or of all elements.
---@param x moelua.Tensor
---@param dim? integer
---@param keepdim? boolean default false
---@return moelua.Tensor
function Tensor.mean(x, dim, keepdim) end
moe.mean = Tensor.mean

--- Bytes of tensors: { live, peak, cached, limit }; their count; and the allocations, blocks that
--- were asked from the system. { limit, floor, growth } sets the limit (0: none; below what is
--- live, nothing is freed and nothing made until enough is gone), and from how many live bytes on,
--- growing by which factor, garbage is collected.
---@param settings? table
---@return table
function moe.memory(settings) end

--- Mixture of tokens (Antoniak et al. 2023): x [B x S x d], groups of `group` successive sequences
--- at each position; controller [E x d] (nil: all tokens weigh the same), w1 [E x I x d], w3 like
--- it for swiglu, else nil, w2 [E x d x I], temperature one number (nil: 1) -> [B x S x d].
---@param x moelua.Tensor
---@param controller? moelua.Tensor
---@param w1 moelua.Tensor
---@param w3? moelua.Tensor
---@param w2 moelua.Tensor
---@param temperature? moelua.Tensor|number
---@param group integer
---@param activation? "swiglu"|"relu"|"gelu"|"silu" default relu
---@return moelua.Tensor
function Tensor.mixture_of_tokens(x, controller, w1, w3, w2, temperature, group, activation) end
moe.mixture_of_tokens = Tensor.mixture_of_tokens

--- Experts over routed tokens, dropless: x [T x d], gates and 0-based experts [T x k], w1 and w3 [E
--- x I x d], w2 [E x d x I] -> [T x d]. A slot with expert -1 is empty. "swiglu": W2 (silu(W1 x) *
--- W3 x); the others without w3: W2 f(W1 x).
---@param x moelua.Tensor
---@param gates moelua.Tensor
---@param experts moelua.Tensor
---@param w1 moelua.Tensor
---@param w3? moelua.Tensor
---@param w2 moelua.Tensor
---@param activation? "swiglu"|"relu"|"gelu"|"silu" default swiglu
---@return moelua.Tensor
function Tensor.moe_ffn(x, gates, experts, w1, w3, w2, activation) end
moe.moe_ffn = Tensor.moe_ffn

--- a * b, element by element, broadcast like NumPy.
---@param a moelua.Tensor|number
---@param b moelua.Tensor|number
---@return moelua.Tensor
function Tensor.mul(a, b) end
moe.mul = Tensor.mul

--- `length` positions of a dimension from `start` on; shares storage with x.
---@param x moelua.Tensor
---@param dim integer
---@param start integer
---@param length integer
---@return moelua.Tensor
function Tensor.narrow(x, dim, start, length) end
moe.narrow = Tensor.narrow

--- Each element with the other sign.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.neg(x) end
moe.neg = Tensor.neg

--- Calls f(...) without recording a graph and returns its results. Inside, tensors that require
--- gradients may be written to.
---@param f function
---@param ... unknown
---@return unknown
function moe.no_grad(f, ...) end

--- Probability that a standard normal number lies below each element; the tail below 0 keeps its
--- digits.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.normal_cdf(x) end
moe.normal_cdf = Tensor.normal_cdf

--- For each of the ids 0 .. count-1 a row of zeros with a one at its place; zeros for -1: ids [..]
--- -> [.. x count].
---@param ids moelua.Tensor
---@param count integer
---@return moelua.Tensor
function Tensor.one_hot(ids, count) end
moe.one_hot = Tensor.one_hot

--- Ones; sizes as numbers or in one table.
---@param ... integer|integer[]|table
---@return moelua.Tensor
function moe.ones(...) end

--- Each element to the power of a number.
---@param x moelua.Tensor
---@param exponent number
---@return moelua.Tensor
function Tensor.pow(x, exponent) end
moe.pow = Tensor.pow

--- How products of matrices hold their operands from now on: "f32", or "bf16" with sums in f32.
--- Routers, softmax, norms and losses are f32 in any case, and so are all tensors. Returns what it
--- was before; without a name, what it is.
---@param name? "f32"|"bf16"
---@return string
function moe.precision(name) end

--- Overwrites the rows of x with these numbers (from 0) by the rows of `from`, in their order and
--- converted to the type of x. Returns x.
---@param x moelua.Tensor
---@param rows moelua.Tensor
---@param from moelua.Tensor
---@return moelua.Tensor
function Tensor.put_rows_(x, rows, from) end
moe.put_rows_ = Tensor.put_rows_

--- Uniform numbers in [0, 1). A last argument { std, mean, seed, stream } scales and shifts them,
--- or names the stream they come from.
---@param ... integer|integer[]|table
---@return moelua.Tensor
function moe.rand(...) end

--- Standard normal numbers. A last argument { std, mean, seed, stream } scales and shifts them, or
--- names the stream they come from.
---@param ... integer|integer[]|table
---@return moelua.Tensor
function moe.randn(...) end

--- Calls f(...) and returns its results, which are part of the graph; what f computed in between is
--- not kept. backward() calls f again, with the same arguments and the same random numbers, and
--- goes on through that: time for memory (Chen et al. 2016), and the same gradients bit for bit.
--- Tensors that f makes and does not return are released, also inside tables. f must do the same
--- both times; it may return up to 4 f32 tensors.
---@param f function
---@param ... unknown
---@return unknown
function moe.recompute(f, ...) end

--- The larger of 0 and each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.relu(x) end
moe.relu = Tensor.relu

--- Makes x a leaf that backward() leaves a gradient in, or with false no longer. Returns x.
---@param x moelua.Tensor
---@param wanted? boolean default true
---@return moelua.Tensor
function Tensor.requires_grad(x, wanted) end
moe.requires_grad = Tensor.requires_grad

--- The same elements under another shape; one size may be -1. Shares storage with a contiguous x,
--- copies any other.
---@param x moelua.Tensor
---@param ... integer|integer[]|table
---@return moelua.Tensor
function Tensor.reshape(x, ...) end
moe.reshape = Tensor.reshape

--- Root-mean-square norm along the last dimension, times `weight`: x [.. x d], weight [d].
---@param x moelua.Tensor
---@param weight moelua.Tensor
---@param eps? number default 1e-5
---@return moelua.Tensor
function Tensor.rms_norm(x, weight, eps) end
moe.rms_norm = Tensor.rms_norm

--- Rotary position embedding: x [B x T x H x D]; position t counts from `offset`, or from there
--- plus the batch element's number in `starts` [B]. Pair i turns by theta^(-2i / D) per position,
--- or by frequencies[i] [D/2]; the result is `factor` times as long.
---@param x moelua.Tensor
---@param theta? number default 10000
---@param offset? integer default 0
---@param starts? moelua.Tensor
---@param frequencies? moelua.Tensor
---@param factor? number default 1
---@return moelua.Tensor
function Tensor.rope(x, theta, offset, starts, frequencies, factor) end
moe.rope = Tensor.rope

--- The factors u and p [segments x N] of a balance loss N sum(u p): scores [T x N], gates and
--- 0-based experts [T x k], -1 for a slot that is not used. p is the mean score; u the mean gate
--- ("btx"), the share of tokens with the expert ("switch", its sum is k), the share that has it
--- first ("gshard"), that of "switch" over k ("deepseek"). mask, T numbers: 0 leaves a token out.
---@param scores moelua.Tensor
---@param gates moelua.Tensor
---@param experts moelua.Tensor
---@param form? "btx"|"switch"|"gshard"|"deepseek" default btx
---@param segments? integer default 1
---@param mask? moelua.Tensor
---@return moelua.Tensor
---@return moelua.Tensor
function Tensor.routing_shares(scores, gates, experts, form, segments, mask) end
moe.routing_shares = Tensor.routing_shares

--- Adds row i of x to row rows[i] (from 0) of a zero tensor with `count` rows.
---@param x moelua.Tensor
---@param rows moelua.Tensor
---@param count integer
---@return moelua.Tensor
function Tensor.scatter_rows(x, rows, count) end
moe.scatter_rows = Tensor.scatter_rows

--- Opens a scope: `local s <close> = moe.scope()` releases every tensor made until the end of the
--- block.
---@return moelua.Scope
function moe.scope() end

--- The slice at one position of a dimension, which disappears; shares storage with x.
---@param x moelua.Tensor
---@param dim integer
---@param position integer
---@return moelua.Tensor
function Tensor.select(x, dim, position) end
moe.select = Tensor.select

--- The sizes of all dimensions.
---@param x moelua.Tensor
---@return integer[]
function Tensor.shape(x) end
moe.shape = Tensor.shape

--- 1 / (1 + exp(-x)) of each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.sigmoid(x) end
moe.sigmoid = Tensor.sigmoid

--- x * sigmoid(x) of each element, also called swish.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.silu(x) end
moe.silu = Tensor.silu

--- The size of one dimension, counted from 1 or from -1.
---@param x moelua.Tensor
---@param dim integer
---@return integer
function Tensor.size(x, dim) end
moe.size = Tensor.size

--- exp(x) / sum(exp(x)) along `dim`. A row that is all -inf becomes uniform.
---@param x moelua.Tensor
---@param dim? integer default -1
---@return moelua.Tensor
function Tensor.softmax(x, dim) end
moe.softmax = Tensor.softmax

--- log(1 + exp(x)) of each element, with all digits at both ends.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.softplus(x) end
moe.softplus = Tensor.softplus

--- Square root of each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.sqrt(x) end
moe.sqrt = Tensor.sqrt

--- a - b, element by element, broadcast like NumPy.
---@param a moelua.Tensor|number
---@param b moelua.Tensor|number
---@return moelua.Tensor
function Tensor.sub(a, b) end
moe.sub = Tensor.sub

--- Sum along `dim`, or of all elements.
---@param x moelua.Tensor
---@param dim? integer
---@param keepdim? boolean default false
---@return moelua.Tensor
function Tensor.sum(x, dim, keepdim) end
moe.sum = Tensor.sum

--- silu(gate) * up, element by element.
---@param gate moelua.Tensor
---@param up moelua.Tensor
---@return moelua.Tensor
function Tensor.swiglu(gate, up) end
moe.swiglu = Tensor.swiglu

--- Routing by a table: the experts [T x k] of T token ids of any shape, from a table [V x k] with a
--- row for each id.
---@param ids moelua.Tensor
---@param table moelua.Tensor
---@return moelua.Tensor
function Tensor.table_route(ids, table) end
moe.table_route = Tensor.table_route

--- Hyperbolic tangent of each element.
---@param x moelua.Tensor
---@return moelua.Tensor
function Tensor.tanh(x) end
moe.tanh = Tensor.tanh

--- A tensor with the elements of nested tables of equal lengths.
---@param values table|number
---@param dtype? "f32"|"i32" default f32
---@return moelua.Tensor
function moe.tensor(values, dtype) end

--- x itself when it has that element type, else a converted copy.
---@param x moelua.Tensor
---@param dtype "f32"|"i32"|"bf16"|"f16"
---@return moelua.Tensor
function Tensor.to(x, dtype) end
moe.to = Tensor.to

--- Top-k routing: logits [T x N] -> gates [T x k] in descending order of the logits, and the
--- 0-based experts [T x k]. gate: softmax over the "selected", over "all", or "sigmoid", for k > 1
--- normalised over the selected. bias [N] is added to the scores for selecting alone, which then
--- gives the order.
---@param logits moelua.Tensor
---@param k? integer default 2
---@param gate? "selected"|"all"|"sigmoid" default selected
---@param bias? moelua.Tensor
---@return moelua.Tensor
---@return moelua.Tensor
function Tensor.topk_route(logits, k, gate, bias) end
moe.topk_route = Tensor.topk_route

--- The elements as nested tables; a number for no dimensions.
---@param x moelua.Tensor
---@return table
function Tensor.totable(x) end
moe.totable = Tensor.totable

--- Is x such a leaf, or computed from one?
---@param x moelua.Tensor
---@return boolean
function Tensor.tracks_grad(x) end
moe.tracks_grad = Tensor.tracks_grad

--- Exchanges two dimensions; shares storage with x.
---@param x moelua.Tensor
---@param dim1? integer default -2
---@param dim2? integer default -1
---@return moelua.Tensor
function Tensor.transpose(x, dim1, dim2) end
moe.transpose = Tensor.transpose

--- Calls f(...) and returns its results. Ctrl-C meanwhile is raised when f has returned, so that
--- what belongs together is done as a whole or not at all. f must be short.
---@param f function
---@param ... unknown
---@return unknown
function moe.uninterrupted(f, ...) end

--- Forgets the gradient.
---@param x moelua.Tensor
function Tensor.zero_grad(x) end
moe.zero_grad = Tensor.zero_grad

--- Zeros; sizes as numbers or in one table. A last argument { dtype = "bf16" } asks for another
--- element type than f32.
---@param ... integer|integer[]|table
---@return moelua.Tensor
function moe.zeros(...) end

--- A new model with one more expert by domain, as a copy of one that is there, in every layer that
--- routes by domain. Its domain comes last.
---@param m moelua.Model
---@param given { name: string, from: string }
---@return moelua.Model
function moe.add_expert(m, given) end

--- The uniform average of the weights of models with a common seed, in f32.
---@param models (moelua.Model|string)[] models, or folders of models
---@return moelua.Model
function moe.average(models) end

--- Fills the tables of all balanced hashes of a model, or layer, by how often the ids occur in a
--- text, or by such counts, f32 [vocab]: for before training, because the experts of an id change.
---@param model table
---@param text moelua.Corpus|moelua.Tensor
function moe.balance_hash(model, text) end

--- Trains one copy of the seed per domain, each in a process and a run folder of its own:
---   experts = moe.branch(seed, { name = corpus, ... }, { steps = 400, out = "runs/x/branches" })
--- Options: out (the folder of the run folders), workers (processes at a time; default: one per
--- domain, at most two per processor), modules (Lua modules that each worker requires first),
--- quiet, fresh, and those of moe.train, here or in a table `options`. Without a command line
--- around (an embedding host) the branches run in this process, one after another. Raises when a
--- branch has failed three times; the others are finished first. The same call again goes on where
--- the last one stopped.
---@param seed moelua.Model|string a model, or the folder of one
---@param domains table<string, moelua.Corpus>
---@param given table
---@return table<string, moelua.Model> experts each with what moe.train returned in .summary
function moe.branch(seed, domains, given) end

---@class moelua.checkpoint
local checkpoint = {}
moe.checkpoint = checkpoint

--- Begins a checkpoint that is written tensor by tensor, for what does not fit into memory at once.
--- The result has the methods names() -> the order of the tensors, put(name, tensor or bytes),
--- close(), which makes the checkpoint appear, and abandon(). Leaving the scope of a `<close>`
--- variable abandons what was not closed.
---@param path string as for save
---@param plan table name -> { dtype = "BF16", shape = {2, 3} }, the dtype as the file will have it
---@param metadata table? as for save
---@param given table? max_shard_size and checksum as for save
---@return table? writer
---@return string? message
---@return string? code
function checkpoint.create(path, plan, metadata, given) end

--- Opens a checkpoint for reading. Only headers are read; the data is mapped when it is used.
--- The result has the methods
---   names() -> sorted list           info(name) -> { dtype = "BF16", shape = {2, 3}, bytes = 12 }
---   tensor(name, dtype?) -> Tensor   f32 for floats, i32 for integers and booleans; dtype may ask
---                                    for "bf16" or "f16"
---   raw(name) -> string              metadata(key?) -> table, or the value of a key: strings, and
---                                    in GGUF numbers, booleans and lists too
---   source(name) -> { file, name }   where its numbers lie       close()
---   verify() -> true                 when every byte is the one that was written, as the checksum
---                                    in the metadata says; else nil, message, "format"
--- of which those that take a name return nil, message, "missing" when there is no such tensor.
--- Quantised tensors (of GGUF) are floats: they are dequantised when they are asked for.
---@param path string a .safetensors or .gguf file (of several parts the first), or a folder that
---  holds model.safetensors or an index of shards
---@return table? checkpoint
---@return string? message
---@return string? code
function checkpoint.open(path) end

--- Writes a checkpoint. A path that ends in .safetensors becomes one file; any other becomes a
--- folder with model.safetensors or, beyond max_shard_size, shards and their index. Files appear
--- whole or not at all, and whatever was there before stays until then.
---@param path string
---@param tensors table name -> Tensor, or { dtype = "U8", shape = {3}, data = "abc" }
---@param metadata table? strings by strings; `format = "pt"` unless given
---@param given table? dtype = "f32", "bf16" or "f16" for all tensors of floats (default: as they
---  are); max_shard_size = bytes of data in a file of a folder (default 5e9); checksum = true for
---  files that verify() can check: the metadata gets the XXH3-128 of the file as `checksum`
---@return boolean? done
---@return string? message
---@return string? code
function checkpoint.save(path, tensors, metadata, given) end

---@class moelua.data
local data = {}
moe.data = data

--- The corpus of some files. Options:
---   path       a file, a folder, or a list of them. Folders are searched through, without hidden
---              entries and without following links to folders. Files are taken in byte order of
---              their paths; .gz and .dz are uncompressed.
---   match      Lua pattern for the names of files in folders, as "%.[ch]$"
---   tokenizer  "bytes" (default), a tokenizer, or the path of one. That of a model is what text
---              for the model needs: model.tokenizer
---   separator  tokens around each document: "eos" behind it, "bos" before it, "both" or "none".
---              When left out: eos where the tokenizer has one, and bos where it begins texts with
---              that. They are predicted like others, and stand for no bytes.
---   cache      where to keep the token file. It is used again while the sources (paths, sizes,
---              times) and the options stay the same, and made again when they change or it is
---              damaged. Without it nothing is kept.
---   max_bytes  a cap: whole documents, evenly spaced, are left out; each split keeps its share,
---              and at least one document
---   name       for messages and tables; default: the name of the first path
--- Missing, unreadable or empty sources give nil, message, code.
---@param given table
---@return moelua.Corpus? corpus
---@return string? message
---@return string? code
function data.corpus(given) end

--- Opens a token file. One that holds other text than was written into it is damaged: nil, message,
--- "format".
---@param path string
---@param name string? instead of the name in the file
---@param tok moelua.Tokenizer? the one it was made with, for what shows its text; that of bytes is
---  known
---@return moelua.Corpus? corpus
---@return string? message
---@return string? code
function data.open(path, name, tok) end

--- The files that a Debian package installed and whose path matches a Lua pattern, sorted. Without
--- the package: nil, message with a hint, "missing".
---@param package string as "libc6-dev"
---@param pattern string? as "%.h$"
---@return string[]? files
---@return string? message
---@return string? code
function data.package_files(package, pattern) end

--- Which share of the lines of the test split, longer than 20 bytes, the train split holds too.
---@param corpus moelua.Corpus
---@return number share 0 to 1; 0 when there are no such lines
---@return integer shared
---@return integer lines
function data.shared_lines(corpus) end

--- What moe.data.corpus would return for the same options, as far as that can be counted without
--- writing a file: it has tokens(split), windows() and check() of a corpus, `files`, and in
--- `survey` { source_bytes, new_bytes }: of the sources, and of the token file that is not there
--- yet.
---@param given table
---@return table? corpus
---@return string? message
---@return string? code
function data.survey(given) end

--- The first `n` tokens of a split as text.
---@param corpus moelua.Corpus
---@param split "train"|"validation"|"test"
---@param n integer
---@return string
function data.text(corpus, split, n) end

---@class moelua.domains
local domains = {}
moe.domains = domains

--- { name = corpus }. `sources` as domains.sources gives them; folder keeps the token files; each
--- corpus is cut to max_bytes and must fill windows of `context` tokens in every split. A tokenizer
--- may follow, that of bytes otherwise.
function domains.open(sources, folder, ...) end

--- Where each domain comes from: { name = function that returns the path of moe.data.corpus }.
--- `given` is the list of --domain options, the standard domains when it is empty.
function domains.sources(given) end

--- The same with what moe.data.survey tells of each: nothing is written. Without a folder nothing
--- is there yet.
function domains.survey(...) end

---@type boolean
moe.double = nil

--- Bits per byte of each corpus, over all tokens of its windows, which do not overlap:
---   moe.evaluate(model, { name = corpus, ... }, { split = "test" }) ->
---   { metric = { name = bits per byte }, mean, nats = { name = per token }, tokens = { name = n },
---     bytes = { name = of these tokens }, routing = { name = rows },
---     statistics = { figures or false }, causal, coupled, group, left_out = { name = n } }
--- `mean` is that of the corpora, each with the same weight, and rows[layer][expert] the share of
--- routed slots (false for layers without a router). statistics, by layer and as if all corpora had
--- equally many tokens, has load, max_over_mean, cv, entropy, dropped, dead and mutual_information,
--- see routing.lua. causal is false when the model looks at later tokens, coupled true when it
--- looks at other sequences: such figures do not compare with those of models that generate text.
--- A corpus alone goes by its own name. Options: split ("validation" unless given), batch, windows
--- (at most so many of each corpus, evenly spaced; all when left out), context (the model's when
--- left out), seed, step (both for routers that draw or that change with training), and group.
--- A model that mixes sequences, and any with `group`, reads whole windows in groups that mix all
--- corpora, see groups.lua; left_out has the windows that made no group.
---@param model moelua.Model
---@param texts moelua.Corpus|table<string, moelua.Corpus>
---@param given table?
---@return { metric: table, mean: number, nats: table, tokens: table, bytes: table,
---  routing: table, statistics: table, split: string, causal: boolean, coupled: boolean,
---  group: integer?, left_out: table? }
function moe.evaluate(model, texts, given) end

--- Writes a mixture for programs of others. Options:
---   format            "mixtral": a Hugging Face directory with the names and fields of Mixtral,
---                     and the files of the tokenizer byte for byte; "gguf": a file for llama.cpp,
---                     also of dense models and of the other families that it has. By default what
---                     the ending of `out` says
---   dtype             "f32", "f16", "bf16"; for GGUF also "q8_0". Default: as it is stored, f32
---                     for a model in memory, and for GGUF
---   dense_as_experts  dense layers become identical experts, which is exact
---   memory, max_shard_size    see model_folder.lua
--- What the format cannot say is refused: nil, the reason with the nearest thing that is possible,
--- "unsupported".
---@param m moelua.Model|string a model, or the path of one
---@param out string a folder, or a file for GGUF
---@param given table?
---@return table|true|nil summary
---@return string? message
---@return string? code
function moe.export(m, out, given) end

---@class moelua.flops
local flops = {}
moe.flops = flops

--- Training FLOPs of one token in causal attention without its projections: scores and mixing over
--- half of the context.
---@param width integer heads times head_dim
---@param context integer
---@return number
function flops.attention(width, context) end

--- The width of a dense layer that takes as much compute as a layer with these options.
---@param opts table options of a layer
---@param dim integer
---@return integer
function flops.dense_width(opts, dim) end

--- Training FLOPs of one token in a feed-forward layer, on average: of the matrices that it meets.
---@param opts table options of a layer, as in a model's config
---@param dim integer
---@return number
function flops.ffn(opts, dim) end

--- Training FLOPs of one token at the given context length (default: the model's). Norms and
--- lookups are not counted.
---@param config table of a model
---@param context integer?
---@return number
function flops.per_token(config, context) end

--- The help text for a topic: the name of a function, class or module ("softmax", "nn.Linear"), the
--- thing itself, "ops" for a list, or nothing for a first overview.
function moe.help(topic) end

---@type string
moe.kernels = nil

--- A model from a Hugging Face directory or a .gguf file; nil, message, code when there is none or
--- it does not fit. Weights become f32, or opts.dtype: "bf16" or "f16" give a model for inference,
--- see Model:to. model.tokenizer is set when there is one that we read; model.no_tokenizer says
--- what is wrong with one that we cannot.
---@param path string
---@param opts table?
---@return moelua.Model? model
---@return string? message
---@return string? code
function moe.load(path, opts) end

--- Merges models. The configuration is the path of a file of YAML, as mergekit reads it, or a
--- table of the same form, in which `method` is short for `merge_method` and may be a function
--- (tensors, base, params, name) -> Tensor of f32 tensors; a table may hold the options, too.
--- Models are Hugging Face directories or .gguf files. The tensors are read, merged in f32 and
--- rounded once, in bounded memory; a run that was cut short goes on where it stopped. Options:
---   out            the folder of the result: model, tokenizer, README.md, merge.json (what it was
---                  made of, hashes of what was written), merge.jsonl and report.html
---   memory         most bytes to work with, default "512M"
---   seed           of the masks of methods that drop elements at random, default 1
---   max_shard_size bytes of tensors in a file, default 5e9
---   plan           true reads headers only and returns the plan: { text, facts, stages }
---   allow_crimes   true merges models of different architectures where names and shapes agree
---   hash_inputs    true adds the hashes of the input files to merge.json: they are read once more
---   fresh          true writes over what the folder holds
---   quiet          true shows no progress
--- What is wrong with the configuration or the models is told all at once.
---@param source string|table
---@param given table?
---@return table? summary what merge.json says, with seconds, and lines and table of the report
---@return string? message
---@return string? code
function moe.merge(source, given) end

--- Branch-Train-MiX (Sukhbaatar et al. 2024): every feed-forward layer of every model
--- becomes an expert, everything else is the plain mean over all models, in f32. Routers are the
--- only new parameters: N(0, 0.02^2). The seed model is passed like the others: it becomes the
--- generalist expert and counts in the mean. Narrower layers get hidden units of zeros, which do
--- nothing; in all else the models must have the same shapes. Options:
---   router    see router.lua; default top-2 over the selected, the paper's balance loss with 0.01
---   rest      "mean", or the number of the model whose attention, norms and embeddings are taken
---   layers    which become mixtures, see layer_choice.lua; the others stay dense, as `rest` says
---   split     C: each layer is cut into C experts. Gates that sum to one make the output 1/C of
---             what it was; scale = C undoes that
---   blend     as many experts as models, each of an equal piece of every model
---   scale     of the output of all experts (in W2), default 1
---   vocabulary  of models with different tokenizers: "union", "base" or { model = i }, whose rows
---             come from whoever has the token, see vocabulary.lua
---   init      of the routers from hidden states, one row for each model, see router_init.lua:
---             { by = "means", text = { corpus, corpus, ... } }; the default is N(0, 0.02^2). The
---             states are those of the dense model that `rest` is of
---   freeze    what is not trained afterwards, see freeze.lua: { "experts" }
---   seed      of the routers
---   out, dtype, memory, max_shard_size: instead of a model in memory, a folder that it is written
---             to tensor by tensor, in bounded memory, see model_folder.lua
--- With `init` there is a report on each mixture layer, see router_init.lua.
---@param models (moelua.Model|string)[] models, folders of models, or .gguf files
---@param opts table?
---@return moelua.Model|table|nil model with `out` a summary with `report`; or nil, message, code
---@return table|string|nil report
function moe.mix(models, opts) end

---@class moelua.model
local model = {}
moe.model = model

do

--- One block: attention and feed-forward, each with its norm and residual. config: that of a model;
--- number: of the layer, from 0.
---@class moelua.Block
---@overload fun(config?: any, number?: any): moelua.Block
local Block = {}
model.Block = Block

--- What has to happen after each update of the optimizer, as with the bias of a router.
function Block:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function Block:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function Block:children() end

function Block:forward(x, how, step, layer) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function Block:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function Block:traits(train) end
end

do

--- A decoder made from a configuration, see model.new and moe.load.
---@class moelua.Model
---@overload fun(config?: any, dtype?: any): moelua.Model
local Model = {}
model.Model = Model

--- What has to happen after each update of the optimizer, as with the bias of a router.
function Model:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function Model:buffers(prefix) end

--- The blocks, with the beginnings of their names.
function Model:children() end

--- A model with the same weights and buffers, in memory of its own.
---@return moelua.Model
function Model:copy() end

--- Number of parameters, and of those that one token uses: the mean where that differs from token
--- to token.
---@return integer total
---@return number active
function Model:count() end

--- ids i32 [B x T] -> hidden states after the last norm [B x T x dim], and the infos of the
--- mixture layers by layer number. `how` goes to every layer, see how.lua. With a cache
--- (kv_cache.lua) the ids follow what is in there, and nothing has gradients.
function Model:forward(ids, how, cache) end

--- Text after the prompt, up to the text `stop` if that is given; a list of prompts gives a list of
--- texts. Options as for generate_ids. Special tokens are no text. What is no UTF-8 becomes U+FFFD,
--- but for models of bytes.
---@param prompt string|string[]
---@param given table?
---@return string|string[]
function Model.generate(model, prompt, given) end

--- Token ids after the given ones; those that `stop` is made of, and the one that ends the text,
--- come last. A list of lists gives a list of results. Options: max_tokens, temperature (0: always
--- the most likely token), top_k, top_p (Holtzman et al. 2020), seed, stop (a text), eos (false:
--- tokens that end texts do not), stop_ids (more that do), on_text (called with each piece of
--- text as soon as its characters are whole, and the number of the prompt), domain (its name, where
--- experts are by domain), cache ("f32", "bf16" or "f16": its element type, by default that of the
--- weights).
--- Generation ends at the context length. A prompt that leaves no room loses its beginning.
--- Number i of a list draws as it would alone with seed + i - 1.
---@param ids integer[]|integer[][]
---@param given table?
---@return integer[]|integer[][]
function Model.generate_ids(model, ids, given) end

--- Token ids (a list, or i32 [B x T]) -> logits f32 [T x vocab] ([B x T x vocab] for a batch). They
--- follow what is in the cache, if any; `how` goes to every layer, see how.lua.
function Model:logits(ids, how, cache) end

--- Mean cross-entropy in nats plus the auxiliary losses of the layers, see balance.lua: ids and
--- targets i32 [B x T], target -1 does not count. `how` goes to every layer, see how.lua.
--- Returns the loss, and { nll = tensor, aux = tensor or nil, layers = infos }.
function Model:loss(ids, targets, how) end

--- {name, tensor, layer, field} of every parameter, in the order of checkpoints; layer[field] is
--- the tensor.
function Model:parameters() end

--- Writes the model as a Hugging Face directory: config.json, weights, the tokenizer's files. opts:
--- dtype ("f32", "bf16", "f16"), max_shard_size (bytes of data in a file).
---@param folder string
---@param opts table?
---@return true? ok
---@return string? message
---@return string? code
function Model:save(folder, opts) end

--- Converts the weights in place and returns the model: to "bf16" or "f16" for inference (norms and
--- routers stay f32, and nothing has gradients), to "f32" for training.
---@param dtype string
---@return moelua.Model
function Model:to(dtype) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function Model:traits(train) end

--- A model of the same tensors, not copies of them, whose feed-forward layers have other options:
--- what does it lose without a part, or gain with another k? change(options, number) is called for
--- the complete options of each layer and changes them, or returns others:
---   model:with_ffn(function(ffn) ffn.shared, ffn.router.k = nil, ffn.router.k + 1 end)
---@param change fun(options: table, layer: integer): table?
---@return moelua.Model
function Model:with_ffn(change) end
end

--- The options of a model, checked and with everything filled in: plain data, which a model keeps
--- as its config.
---@param given table see model.new
---@return table config
function model.check_config(given) end

--- A new model with random weights. Options: dim, layers, heads, vocab, context; hidden (width of
--- dense layers) or ffn, one table or a list of one per layer: { kind = "dense", hidden,
--- activation }, { kind = "moe", hidden, experts, shared, segments, activation, router }, see
--- nn.MoE, or { kind = "mot", hidden, experts, group, ... }, see nn.MoT; kv_heads, head_dim,
--- attention_bias ("none", "qkv", "all"), qk_norm ("none", "head", "whole"), clip_qkv, rope_theta,
--- rope_scaling, see nn.Attention; mlp_bias (of dense layers); norm_eps, tied (is the head the
--- embedding?), std (of the weights), seed; recompute (keep only the input of each block for
--- backward and compute the rest again: a third more work, much less memory, the same bits); freeze
--- (what training leaves as it is, see freeze.lua); hf (fields of config.json that are kept as they
--- were read, see hf_config.lua).
---@param given table
---@return moelua.Model
function model.new(given) end

--- How many parameters a model has, and how many of them one token uses, as floats: the product of
--- wrong sizes may be beyond integers. Norms are not counted.
---@param config table
---@return number total
---@return number active
function model.parameters(config) end

---@class moelua.nn
local nn = {}
moe.nn = nn

do

--- Causal grouped-query attention with rotary positions: x [B x T x dim] -> [B x T x dim].
--- Options: dim, heads, kv_heads, head_dim; rope_theta, rope_scaling (see rope_scaling.lua); bias:
--- of "none", "qkv" or "all" projections; qk_norm: queries and keys are normed before they turn,
--- each "head" (Qwen3) or the "whole" vector (OLMoE), with norm_eps; clip_qkv: then no element of
--- q, k and v is further from 0; seed, std.
--- `step` (see kv_cache.lua) and the number of the layer in there make T the newest positions.
---@class moelua.Attention
---@overload fun(opts?: any): moelua.Attention
local Attention = {}
nn.Attention = Attention

--- What has to happen after each update of the optimizer, as with the bias of a router.
function Attention:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function Attention:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function Attention:children() end

function Attention:forward(x, step, layer) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function Attention:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function Attention:traits(train) end
end

do

--- Rows of a table: ids i32 of any shape -> ids' shape x dim.
---@class moelua.Embedding
---@overload fun(count?: any, dim?: any, opts?: any): moelua.Embedding
local Embedding = {}
nn.Embedding = Embedding

--- What has to happen after each update of the optimizer, as with the bias of a router.
function Embedding:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function Embedding:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function Embedding:children() end

function Embedding:forward(ids) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function Embedding:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function Embedding:traits(train) end
end

do

--- A bank of experts, each a feed-forward layer: w1, w3 [E x hidden x dim], w2 [E x dim x hidden].
--- Options: experts, dim, hidden, activation as in nn.FeedForward; seed, std.
---@class moelua.Experts
---@overload fun(opts?: any): moelua.Experts
local Experts = {}
nn.Experts = Experts

--- What has to happen after each update of the optimizer, as with the bias of a router.
function Experts:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function Experts:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function Experts:children() end

--- x [T x dim], gates f32 and experts i32 [T x s] -> [T x dim]; expert -1 is a slot without one.
function Experts:forward(x, gates, experts) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function Experts:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function Experts:traits(train) end
end

do

--- Dense feed-forward: W2 (silu(W1 x) * W3 x) with activation "swiglu", the default, and W2 a(W1 x)
--- with "relu", "gelu" or "silu"; w1, w3 [hidden x dim], w2 [dim x hidden]. Options: dim, hidden,
--- activation, bias (of each matrix); seed, std.
---@class moelua.FeedForward
---@overload fun(opts?: any): moelua.FeedForward
local FeedForward = {}
nn.FeedForward = FeedForward

--- What has to happen after each update of the optimizer, as with the bias of a router.
function FeedForward:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function FeedForward:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function FeedForward:children() end

function FeedForward:forward(x) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function FeedForward:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function FeedForward:traits(train) end
end

do

--- y = x W^T (+ bias): x [.. x input] -> [.. x output].
---@class moelua.Linear
---@overload fun(input?: any, output?: any, opts?: any): moelua.Linear
local Linear = {}
nn.Linear = Linear

--- What has to happen after each update of the optimizer, as with the bias of a router.
function Linear:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function Linear:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function Linear:children() end

function Linear:forward(x) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function Linear:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function Linear:traits(train) end
end

do

--- A mixture layer: y, info = layer(x, how) with x [.. x dim], as a rule [B x S x dim]. Options:
--- dim, hidden (of an expert), experts, activation; router = { kind = "topk", "switch",
--- "noisy_topk", "gshard", "sample", "soft", "expert_choice", "base", "hash" or "domain", ... },
--- see router.Router; shared = K or { experts = K, hidden, gate }: experts that all tokens use;
--- segments = m: each of the experts cut into m, see mixture.lua; seed, std. `how` is explained in
--- how.lua.
--- info: loss (a tensor to add to the training loss, or nil; `rest` is what of it is no balance
--- loss, `balance` what that is made from), counts (slots per expert), load (the same as shares),
--- experts (i32 [T x s], -1 for a slot that is not used), entropy (mean entropy of softmax(logits),
--- nats), dropped (share of the slots that were beyond a capacity). Padding is left out.
--- `stats = false` leaves the figures out.
---@class moelua.MoE
---@overload fun(given?: any): moelua.MoE
local MoE = {}
nn.MoE = MoE

--- What has to happen after each update of the optimizer, as with the bias of a router.
function MoE:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function MoE:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function MoE:children() end

function MoE:forward(x, how) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function MoE:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function MoE:traits(train) end
end

do

--- A mixture of tokens: y, info = layer(x, how) with x [B x S x dim]; the sequences 1 .. g,
--- g + 1 .. 2 g and so on are mixed, position by position. Options: dim, hidden (of an expert),
--- experts, group (g), activation ("relu"), temperature (1), uniform, flop_matched, see
--- mot.declared; seed, std. info.entropy: mean entropy of the weights of an expert, nats, at most
--- log(g); `how.stats = false` leaves it out. A temperature with a schedule follows how.step.
---@class moelua.MixtureOfTokens
---@overload fun(given?: any): moelua.MixtureOfTokens
local MoT = {}
nn.MoT = MoT

--- What has to happen after each update of the optimizer, as with the bias of a router.
function MoT:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function MoT:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function MoT:children() end

function MoT:forward(x, how) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function MoT:parameters(prefix) end

--- The temperature of a step: what was learned, what the schedule has then, or the number. Without
--- a step a schedule has come to its end.
---@param how table?
---@return moelua.Tensor|number
function MoT:temperature_at(how) end

--- The members of a group see each other, and nobody else does; see traits.lua.
function MoT:traits() end
end

do

--- Root-mean-square norm along the last dimension.
---@class moelua.RmsNorm
---@overload fun(dim?: any, eps?: any): moelua.RmsNorm
local RmsNorm = {}
nn.RmsNorm = RmsNorm

--- What has to happen after each update of the optimizer, as with the bias of a router.
function RmsNorm:after_step() end

--- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
--- gradient changes.
function RmsNorm:buffers(prefix) end

--- {prefix, layer} of every part, in order.
function RmsNorm:children() end

function RmsNorm:forward(x) end

--- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
--- name; layer[field] is the tensor.
function RmsNorm:parameters(prefix) end

--- What an output depends on, see traits.lua; in training with `train`.
---@param train boolean?
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function RmsNorm:traits(train) end
end

--- Refuses weights that are stored in 16 bits, which is for inference; `where` is the function.
function nn.check_f32(where, layer) end

--- 16 hex digits that change when a parameter or a buffer does.
function nn.fingerprint(layer) end

--- Whether this is a layer or model: it has parameters.
function nn.is_layer(value) end

--- A class of layers: see the head of this file. It needs init and forward. With `slots`, names of
--- fields, the layers are userdata, which hold tensors there and check what becomes of them.
---@param name string
---@param slots string[]?
---@return table class
function nn.layer_class(name, slots) end

--- Parameters and buffers in one list, as layer:parameters() has them: all that is saved.
function nn.saved(layer) end

--- All parameters of a layer or model, tensors only.
function nn.tensors(layer) end

---@class moelua.optimizer
---@overload fun(...: any): any
local optimizer = {}
moe.optimizer = optimizer

--- layer: a layer or model. given: lr, beta1, beta2, eps, weight_decay, clip.
function optimizer:init(layer, given) end

--- The global norm of the gradients.
function optimizer:norm() end

--- Takes over what state() was after so many steps; `read(name)` gives its tensors.
function optimizer:restore(read, steps) end

--- Parameters, moments and buffers by name: what a training state holds.
function optimizer:state() end

--- One update from the gradients that backward() left, which are then forgotten; the layer is told
--- of it. Parameters without a gradient stay as they are. Returns the norm before clipping. An
--- interrupt comes before all of that or after it.
function optimizer:step(lr, norm) end

--- Forgets the gradients.
function optimizer:zero_grad() end

---@class moelua.options
---@overload fun(...: any): any
local options = {}
moe.options = options

--- Checks a table of options against its declaration. Raises on an unknown name, a wrong type or
--- a missing required option.
---@param where string the function that was called, for messages
---@param given table? as the caller wrote it; not changed
---@param declared table name -> { type, default, required = true } or just the type; a type is
---  "number", "integer", "string", "boolean", "table", "function", "userdata" or "any", several
---  joined with "|", or a list of accepted strings
---@return table options with the defaults filled in
function options.check(where, given, declared) end

--- The second line of a message about a name that is not known: "\nhint: ...".
---@param name any what was written
---@param candidates string[] what exists
---@param prefix string? put before each candidate, as "--"
---@return string
function options.hint(name, candidates, prefix) end

--- A new table with the fields of both; those of `more` win.
---@param base table
---@param more table
---@return table
function options.merge(base, more) end

--- The candidate that `name` was probably meant to be: at most two typing errors away, and closer
--- than a different word of that length would be. nil when there is none.
---@param name string
---@param candidates string[]
---@return string?
function options.nearest(name, candidates) end

--- A new model without the experts of a domain; the others keep their order.
---@param m moelua.Model
---@param name string
---@return moelua.Model
function moe.remove_expert(m, name) end

---@class moelua.router
local router = {}
moe.router = router

do

--- A router of a mixture layer. where: dim, experts, and init (see parameter.lua). given: its kind,
--- with the options of that kind, and of all kinds
---   balance   { form, coef, scope, reduce }, a loss for an even load, see balance.lua; false: none
---   z_loss    coefficient of the mean of logsumexp(l)^2
---   jitter    eps: in training the router sees x times U(1 - eps, 1 + eps)
---   capacity  { factor, evaluation, formula, policy, renormalise, scope }, see capacity.lua;
---             without it no slot is ever dropped
---   scale     factor of all gates
--- where they make sense. The kinds, each explained in routers/KIND.lua, with the settings of its
--- paper as defaults:
---   topk           the k largest logits; gate = "selected", "all" or "sigmoid"; bias = { rate };
---                  skip
---   switch         the largest logit, gate p, capacity 1.25
---   noisy_topk     top-k with learned noise; k, variant, noise, importance, load
---   gshard         top-2, the second by chance; second, threshold, evaluation
---   sample         one expert, drawn; temperature, first, inference
---   soft           all experts, by softmax
---   expert_choice  experts choose tokens; factor, over
---   base           one expert, all equally loaded in training
---   hash           by token id; k, by, seed, vocab
---   domain         by the label of the text; domains
---@class moelua.Router
---@overload fun(given?: any, where?: any): moelua.Router
local Router = {}
router.Router = Router

--- What follows a step of the optimizer: a bias moves.
function Router:after_step() end

--- What is kept without being trained, as layers.0.ffn.router.bias.
function Router:buffers(prefix) end

--- Random numbers for one use, as "jitter": core.rand ("rand") or core.randn ("randn") of that
--- shape. When how tells the step or a seed they come from a stream that is named after router,
--- step, micro-batch and use, so that they are the same after a resume and in any order of layers;
--- otherwise from moe.manual_seed. Those of a token do not depend on how many tokens follow. With
--- how.draws each sequence has numbers of its own, whatever others there are.
---@param law "rand"|"randn"
---@param use string
---@param how table
---@param ... integer sizes, the tokens first
---@return moelua.Tensor
function Router:draw(law, use, how, ...) end

--- The weight by the name of the router itself, layers.0.ffn.router, as checkpoints have it; then
--- what else its kind trains, as layers.0.ffn.router.noise.
function Router:parameters(prefix) end

--- x [.. x dim], as a rule [B x S x dim] -> gates f32 [T x s], experts i32 [T x s] counted from 0,
--- -1 where a slot is not used, and info: unless how.losses is false, loss (a tensor, or nil; of
--- which `rest` is all but the balance loss, and `balance` the shares which that is made from), and
--- unless how.stats is false load, counts, experts, entropy and dropped, see nn.MoE.
function Router:route(x, how) end

--- On what else an output depends, see router.traits.
function Router:traits(train) end
end

--- Raises when a router of these options has nothing to learn from: its gates are constant and no
--- loss reaches it. For the start of a training; such a model can still be used.
---@param opts table as router.options returns them
function router.check_trainable(opts) end

--- The options of one layer's router: those of a whole model, where the kind treats the first
--- mixture layer in a way of its own.
---@param opts table as router.options returns them
---@param is_first boolean of the mixture layers of the model
---@return table opts
function router.for_layer(opts, is_first) end

--- How many matrices [experts x dim] a token is multiplied with to be routed.
---@param opts table as router.options returns them
---@return integer
function router.matrices(opts) end

--- The options of a router of `experts` experts (nil: not known yet), complete and checked.
--- Options that are complete already stay as they are.
---@param given table?
---@param experts integer?
---@return table opts
function router.options(given, experts) end

--- How many experts a token uses, on average over a batch: what its compute is counted by.
---@param opts table as router.options returns them
---@param experts integer
---@return number
function router.slots(opts, experts) end

--- On what else the output of a token depends, in training or in evaluation. causal: not on later
--- positions of its sequence. coupled: "no"; "sequence", on the other positions; "batch", on other
--- sequences as well.
---@param opts table as router.options returns them
---@param train boolean?
---@return { causal: boolean, coupled: "no"|"sequence"|"batch" } traits
function router.traits(opts, train) end

---@class moelua.schedule
local schedule = {}
moe.schedule = schedule

--- The rate at `step` of `steps`. opts: kind, lr (peak), warmup (steps), floor (share of the peak
--- at the end), decay (wsd: share of the steps).
---@param opts table
---@param step integer
---@param steps integer
---@return number
function schedule.rate(opts, step, steps) end

---@class moelua.study
local study = {}
moe.study = study

--- Opens the run folder opt.out and the domains; with opt.dry_run, a plan in their place. parts:
--- recipe, title, about.
function study.open(opt, parts) end

--- Costs added up, with FLOPs and seconds of everything that a model needed.
function study.sum(...) end

---@type number
moe.threads = nil

---@class moelua.tokenizer
local tokenizer = {}
moe.tokenizer = tokenizer

--- The byte tokenizer.
---@return moelua.ByteTokenizer
function tokenizer.bytes() end

--- The tokenizer that the metadata of a GGUF file describe: what its Checkpoint's metadata()
--- returns.
---@param metadata table
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.from_gguf(metadata) end

--- A tokenizer of the table that a tokenizer.json holds. `config` is the table of a
--- tokenizer_config.json: bos_token, eos_token, unk_token, pad_token, chat_template.
---@param file table
---@param config table?
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.from_table(file, config) end

--- Opens a tokenizer.json, that of a model directory, or that of a GGUF file.
---@param path string
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.open(path) end

--- The tokenizer that an option names: "bytes", the path of one, or a tokenizer itself.
---@param where string the function that was called, for messages
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.resolve(where, value) end

--- Learns a byte-level BPE from text, see tokenizer_train.lua.
---@param given table
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.train(given) end

--- Trains the model in place to predict the next token. Options: data (a corpus, or
--- { name = corpus, ... } with even shares), steps, batch (sequences a step), accumulate (equal
--- micro-batches that a step goes through, one after the other: the same gradient in less memory),
--- group (so many sequences in a row share no document; when left out, those that the model mixes),
--- context (tokens), lr (peak), schedule, warmup, floor, decay, beta1, beta2, eps, weight_decay,
--- clip, precision (of products: weights and moments stay f32), seed, out, fresh, log_every,
--- save_every, eval_every, eval_windows, name, quiet, save_model; see train_options.lua.
--- With `out`, a run folder, the same call again goes on where the last one stopped, bit for bit,
--- and the model is saved in out/model; an interrupt saves the state of the last complete step.
--- Raises { message, code = "diverged" } when loss, gradient or weights are no longer finite.
--- The curve has { tokens, bits per byte } for each logged step, validation { step, mean } for
--- each evaluation, routing the coefficient of variation of the experts' load over logged steps and
--- mixture layers (mean and largest) and the mean share of dropped slots.
---@param model moelua.Model
---@param given table
---@return { steps: integer, tokens: integer, flops: number, seconds: number, curve: number[][],
---  validation: number[][], routing: { cv: number, cv_max: number, dropped: number }? }
function moe.train(model, given) end

--- A new model in which every mixture of tokens is a mixture of experts that tokens choose, with
--- the same experts, and the controller, divided by the temperature, as the router. Options: those
--- of the routers, see router.lua; by default top-k with k = 1 and gate = "all", like Switch.
---@param m moelua.Model
---@param given table?
---@return moelua.Model
function moe.transition(m, given) end

--- A mixture of experts from a dense model. Options:
---   experts   how many copies of each feed-forward layer
---   router    see router.lua; by default top-2 over the selected
---   layers    which become mixtures, see layer_choice.lua: "all", "alternate", "last half", a list
---   segments  G: each copy is cut into so many experts, with k = G or a multiple of it
---   scale     of the output of the experts (in W2). The default, G, keeps the function with gates
---             that sum to one; with gate = "all" that is experts * G^2 / k, exact for equal gates
---   vary      { form = "noise", "replace" or "drop", share = 0.5, std = 0.02 }: how copies differ
---   permute   each copy has its hidden units in an order of its own
---   shared    { share = 0.5 }: a copy that all tokens use gives this share of the output, the
---             others the rest
---   init      of the routers from hidden states of the model, one row for each copy, see
---             router_init.lua: { by = "clusters", text = corpus }; the default is N(0, 0.02^2)
---   freeze    what is not trained afterwards, see freeze.lua
---   seed      of the routers, and of all that differs between copies
---   out, dtype, memory, max_shard_size: instead of a model in memory, a folder that it is written
---             to tensor by tensor, in bounded memory, see model_folder.lua
--- With `init` there is a report on each mixture layer, see router_init.lua.
---@param m moelua.Model|string a model, or the path of a folder or .gguf file
---@param given table
---@return moelua.Model|table|nil model with `out` a summary with `report`; or nil, message, code
---@return table|string|nil report
function moe.upcycle(m, given) end

--- Checks a merged model against the manifest beside it: every file is there and has the bytes that
--- were written.
---@param folder string of a finished merge
---@return boolean? whole
---@return string? message
---@return string? code "format" when a file is damaged, "missing" without a manifest
function moe.verify(folder) end

---@type string
moe.version = nil

do
---@class moelua.Corpus
---@field name string
---@field tokenizer moelua.Tokenizer?
---@field path string? the token file, when it has been kept
---@field hash string of tokens, documents and splits: the same for the same text
local Corpus = {}

--- How many tokens a split has; without a split, the whole corpus.
---@param split? "train"|"validation"|"test"
---@return integer
function Corpus:tokens(split) end

--- How many documents a split has; without a split, the whole corpus.
---@param split? "train"|"validation"|"test"
---@return integer
function Corpus:documents(split) end

--- The size of the vocabulary.
---@return integer
function Corpus:vocab() end

--- How many bytes of text these ids stand for. Special tokens stand for none, and so does padding.
---@param ids moelua.Tensor i32
---@return integer
function Corpus:bytes(ids) end

--- What the token file says of itself: sources, options, tokenizer.
---@return table<string, string>
function Corpus:metadata() end

--- A training batch: `batch` windows of `context` tokens and the tokens that follow each, drawn
--- without overlap, every window once per epoch. The same seed, stream and draw give the same
--- batch. With `apart` no two of so many successive rows touch the same document; windows that are
--- too near are left out of their epoch. Throws when the split is too short.
---@param given { batch: integer, context: integer, split?: string, seed?: integer,
---  stream?: string, draw?: integer, apart?: integer }
---@return moelua.Tensor x i32 [batch x context]
---@return moelua.Tensor y i32 [batch x context]
---@return integer next_draw the `draw` of the next batch
function Corpus:batch(given) end

--- How many windows an epoch of training draws from; 0 when the split is too short.
---@return integer
function Corpus:epoch(split, context) end

--- How many windows an evaluation reads: all, the last of them partly filled; or at most `limit`,
--- whole ones, evenly spaced.
---@param split "train"|"validation"|"test"
---@param context integer
---@param limit integer?
---@return integer
function Corpus:windows(split, context, limit) end

--- Windows first .. first+n-1 of those.
---@return moelua.Tensor x i32 [n x context], 0 behind the end of the split
---@return moelua.Tensor y i32 [n x context], -1 behind the end of the split
function Corpus:window_batch(split, context, limit, first, n) end

--- The first and the last document that each of those windows touches, its targets included.
---@return moelua.Tensor documents i32 [windows x 2], counted from 0
function Corpus:window_documents(split, context, limit) end

--- Whether each split can fill a window; if not: nil, message, "format".
---@param context integer
---@param splits string[]? all three when left out
---@return true? ok
---@return string? message
---@return string? code
function Corpus:check(context, splits) end

--- Writes the token file to `path`, where moe.data.open finds it, also in another process.
---@param path string
---@return true? ok
---@return string? message
---@return string? code
function Corpus:save(path) end

--- Lets go of the token file at once.
function Corpus:release() end
end

do
---@class moelua.Tokenizer
---@field name string
---@field vocab integer how many ids there are, gaps included
---@field bos integer? id of the token that begins a text
---@field eos integer? id of the token that ends a text
---@field unk integer? id of the token for what has none
---@field pad integer? id of the token that fills batches
---@field handle userdata
---@field description table what tokenizer_build.lua read, files(), chat_template
local Tokenizer = {}

--- The ids of a text. opts:
---   special  tokens like <|endoftext|> in the text stand for themselves (default), or are plain
---            text
---   add      put around what the post-processor adds: most often a token that begins a text
---            (default true)
---@param text string any bytes
---@param opts table?
---@return integer[]
function Tokenizer:encode(text, opts) end

--- The text of ids. Ids without a token are left out. opts:
---   skip_special  special tokens are left out (default false)
---   raw           bytes as they are; without it U+FFFD stands for those that are no UTF-8
---@param ids integer[]|moelua.Tensor a list, or an i32 tensor of one dimension
---@param opts table?
---@return string
function Tokenizer:decode(ids, opts) end

--- The ids of bytes `first` to `last` as little-endian numbers, of 16 bits when the vocabulary has
--- at most 65536, else of 32; and how many they are. Special tokens are plain text, and nothing is
--- put around.
---@param text string
---@param first integer?
---@param last integer?
---@return string packed
---@return integer count
function Tokenizer:pack(text, first, last) end

--- What a token is written as in the vocabulary; nil where there is none.
---@param id integer
---@return string?
function Tokenizer:token(id) end

--- The id of a token as it is written in the vocabulary; nil when there is none.
---@param token string
---@return integer?
function Tokenizer:id(token) end

--- How many bytes each token adds to a text that has begun: 0 for special tokens and gaps. Summed
--- over the ids of a text they give its length, but for what a normalizer changes or puts in front.
---@return moelua.Tensor lengths i32 [vocab]
function Tokenizer:byte_lengths() end

--- A hash of all that decides what comes out: equal for tokenizers that do the same, however their
--- files are written.
---@return string 16 hexadecimal digits
function Tokenizer:hash() end

--- The files of the tokenizer in a model directory: name -> content. Those of one that was opened
--- are what they were, byte for byte.
---@return table<string, string>
function Tokenizer:files() end

--- The template of conversations that comes with it; nil when there is none.
---@return string?
function Tokenizer:chat_template() end

--- The metadata of a GGUF file that describe it: key -> value. What these cannot say gives nil, the
--- reason, "unsupported".
---@return table? metadata
---@return string? message
---@return string? code
function Tokenizer:gguf() end

--- Writes the tokenizer into a model directory, which is made if need be.
---@param folder string
---@return true? ok
---@return string? message
---@return string? code
function Tokenizer:save(folder) end
end

return moe
