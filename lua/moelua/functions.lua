-- functions.lua: the functions in C that are no ops, in the manner of op records (core/tape/op.h):
-- a signature and what it does. help() and the editor stubs read them. Types beyond those of ops
-- are written as LuaLS writes them.

local function of(sig, doc) return { sig = sig, doc = doc } end

return {
  -- what a tensor is
  shape = of("x:any -> integer[]", "The sizes of all dimensions."),
  size = of("x:any, dim:dim -> integer", "The size of one dimension, counted from 1 or from -1."),
  count = of("x:any -> integer", "The number of elements."),
  dim = of("x:any -> integer", "The number of dimensions."),
  dtype = of("x:any -> string", "The element type: f32, i32, bf16 or f16."),
  is_contiguous = of("x:any -> boolean", "Do the elements lie side by side in row-major order?"),
  item = of("x:any -> number", "The number in a tensor that holds just one."),
  totable = of("x:any -> table", "The elements as nested tables; a number for no dimensions."),
  bytes = of("x:any -> string", "The elements' bytes in row-major order, of a contiguous tensor."),
  hash = of("x:any -> string", "16 hexadecimal digits that change when one of these bytes does."),

  -- gradients
  requires_grad = of("x:tensor, wanted:bool=true -> tensor",
    "Makes x a leaf that backward() leaves a gradient in, or with false no longer. Returns x."),
  tracks_grad = of("x:any -> boolean", "Is x such a leaf, or computed from one?"),
  grad = of("x:tensor -> moelua.Tensor?", "The gradient that backward() has added up, or nil."),
  zero_grad = of("x:tensor", "Forgets the gradient."),
  backward = of("loss:tensor",
    "Gradients of a single number with respect to all leaves it depends on, added to what they " ..
    "have. Frees the graph: a second call is an error."),
  detach = of("x:tensor -> tensor", "The same storage, but no part of the graph."),
  no_grad = of("f:function, ...:unknown -> unknown",
    "Calls f(...) without recording a graph and returns its results. Inside, tensors that " ..
    "require gradients may be written to."),
  recompute = of("f:function, ...:unknown -> unknown",
    "Calls f(...) and returns its results, which are part of the graph; what f computed in " ..
    "between is not kept. backward() calls f again, with the same arguments and the same random " ..
    "numbers, and goes on through that: time for memory (Chen et al. 2016), and the same " ..
    "gradients bit for bit. Tensors that f makes and does not return are released, also inside " ..
    "tables. f must do the same both times; it may return up to 4 f32 tensors."),
  uninterrupted = of("f:function, ...:unknown -> unknown",
    "Calls f(...) and returns its results. Ctrl-C meanwhile is raised when f has returned, so " ..
    "that what belongs together is done as a whole or not at all. f must be short."),
  grad_norm = of("list:tensors -> number",
    "The 2-norm of the gradients of all tensors in the list together; absent ones count as 0."),
  clip_grad_norm = of("list:tensors, max:num -> number",
    "Scales all gradients in place so that their joint 2-norm is at most max; returns the norm " ..
    "before."),

  -- copying and writing
  clone = of("x:any -> any", "A contiguous copy outside the graph."),
  to = of("x:any, dtype:{f32|i32|bf16|f16} -> any",
    "x itself when it has that element type, else a converted copy."),
  fill_ = of("x:any, value:num -> any", "Writes the number into every element. Returns x."),
  copy_ = of("x:any, from:any -> any",
    "Overwrites x with the elements of a tensor of the same shape and type. Returns x."),
  put_rows_ = of("x:any, rows:itensor, from:any -> any",
    "Overwrites the rows of x with these numbers (from 0) by the rows of `from`, in their order " ..
    "and converted to the type of x. Returns x."),
  free = of("x:any", "Releases the tensor now instead of when it is collected."),

  -- making tensors
  zeros = of("shape:sizes -> tensor",
    "Zeros; sizes as numbers or in one table. A last argument { dtype = \"bf16\" } asks for " ..
    "another element type than f32."),
  ones = of("shape:sizes -> tensor", "Ones; sizes as numbers or in one table."),
  full = of("value:num, shape:sizes -> tensor", "The number everywhere."),
  arange = of("first:num, last:number?, step:num=1 -> tensor",
    "first, first + step ... last, both ends included. arange(n) is 0 ... n-1."),
  rand = of("shape:sizes -> tensor",
    "Uniform numbers in [0, 1). A last argument { std, mean, seed, stream } scales and shifts " ..
    "them, or names the stream they come from."),
  randn = of("shape:sizes -> tensor",
    "Standard normal numbers. A last argument { std, mean, seed, stream } scales and shifts " ..
    "them, or names the stream they come from."),
  tensor = of("values:table|number, dtype:{f32|i32}=f32 -> any",
    "A tensor with the elements of nested tables of equal lengths."),
  manual_seed = of("seed:int", "Starts the random numbers of rand and randn over, from this seed."),

  -- arithmetic
  precision = of("name:{f32|bf16}? -> string",
    "How products of matrices hold their operands from now on: \"f32\", or \"bf16\" with sums " ..
    "in f32. Routers, softmax, norms and losses are f32 in any case, and so are all tensors. " ..
    "Returns what it was before; without a name, what it is."),

  -- checkpoints
  ["Checkpoint.names"] = of("file:moelua.Checkpoint -> string[]",
    "The names of the tensors, sorted."),
  ["Checkpoint.info"] = of("file:moelua.Checkpoint, name:string -> table?",
    "{ dtype = \"BF16\", shape = {2, 3}, bytes = 12 } as the file has it; nil, message, " ..
    "\"missing\" when there is no such tensor."),
  ["Checkpoint.tensor"] = of(
    "file:moelua.Checkpoint, name:string, dtype:{f32|i32|bf16|f16}? -> moelua.Tensor?",
    "A tensor: f32 for floats, i32 for integers and booleans, unless dtype asks for another; " ..
    "nil, message, \"missing\" when there is none of that name."),
  ["Checkpoint.raw"] = of("file:moelua.Checkpoint, name:string -> string?",
    "The bytes of a tensor as the file has them; nil, message, \"missing\" when there is none."),
  ["Checkpoint.metadata"] = of("file:moelua.Checkpoint -> table",
    "Strings by strings that the file says of itself."),
  ["Checkpoint.path"] = of("file:moelua.Checkpoint -> string", "The path that was opened."),
  ["Checkpoint.hash"] = of("file:moelua.Checkpoint, name:string -> string?",
    "XXH3-128 of the bytes of a tensor, 32 hexadecimal digits; nil, message, \"missing\" when " ..
    "there is none."),
  ["Checkpoint.verify"] = of("file:moelua.Checkpoint -> true?",
    "True when every byte is the one that was written, as the checksum in the metadata says; " ..
    "else nil, message, \"format\"."),
  ["Checkpoint.close"] = of("file:moelua.Checkpoint",
    "Lets go of the file. Tensors that were taken from it stay."),

  -- memory
  scope = of("-> moelua.Scope",
    "Opens a scope: `local s <close> = moe.scope()` releases every tensor made until the end of " ..
    "the block."),
  ["Scope.keep"] = of("scope:moelua.Scope, ...:any -> any",
    "The tensors outlive the scope; they belong to the one around it. Returns them."),
  ["Scope.close"] = of("scope:moelua.Scope", "Releases the scope's tensors now."),
  memory = of("settings:table? -> table",
    "Bytes of tensors: { live, peak, cached, limit }; their count; and the allocations, blocks " ..
    "that were asked from the system. { limit, floor, growth } sets the limit (0: none; below " ..
    "what is live, nothing is freed and nothing made until enough is gone), and from how many " ..
    "live bytes on, growing by which factor, garbage is collected."),
}
