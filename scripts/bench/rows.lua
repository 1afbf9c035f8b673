-- rows.lua: the rows of the benchmark: what is measured, against which yardstick, and what has to
-- hold.
--
-- A row has a name, a `job` for the workers (see workloads.lua and torch_workloads.py) and for each
-- precision what has to hold:
--   share    percent of the yardstick at least
--   aim      times PyTorch's speed that is aimed at; to be faster is required
--   most     largest value (of the unit)
-- `unit` is ms, of one run or, with `per`, of one of so many; with `against`, another job, it is
-- what the first takes of the second's time, as "x" or "%". `yardstick` names the limit: "peak" of
-- the precision, "read" or "adamw" bandwidth. `compute` rows are measured with one thread too.

local LAYER = { dim = 288, hidden = 768 }
local BODY = { dim = 288, layers = 6, heads = 6, hidden = 768, vocab = 256, context = 256,
  batch = 16 }
local RECIPE = { kind = "step", dim = 128, layers = 4, heads = 4, hidden = 352, vocab = 256,
  context = 128, batch = 32 }
local EIGHT = { experts = 8, k = 2 }

local function with(...)
  local job = {}
  for _, part in ipairs({ ... }) do
    for key, value in pairs(part) do job[key] = value end
  end
  return job
end

local rows = {
  { name = "MoE FFN forward, 8 experts top-2, 2048 tokens", yardstick = "peak", compute = true,
    job = with(LAYER, EIGHT, { kind = "ffn_forward", tokens = 2048 }),
    f32 = { share = 90, aim = 1.6 }, bf16 = { share = 85, aim = 2.5 } },
  { name = "MoE FFN forward, 8 experts top-2, 64 tokens", yardstick = "peak", compute = true,
    job = with(LAYER, EIGHT, { kind = "ffn_forward", tokens = 64 }),
    f32 = { share = 65, aim = 3 }, bf16 = { share = 80, aim = 3 } },
  { name = "MoE FFN forward and backward, 2048 tokens", yardstick = "peak", compute = true,
    job = with(LAYER, EIGHT, { kind = "ffn_training", tokens = 2048 }),
    f32 = { share = 82, aim = 1.5 }, bf16 = { share = 70, aim = 2.2 } },
  { name = "half of all tokens to one expert, against balanced", unit = "x",
    job = with(LAYER, EIGHT, { kind = "routed", tokens = 2048, crowded = true }),
    against = with(LAYER, EIGHT, { kind = "routed", tokens = 2048 }),
    f32 = { most = 1.05 }, bf16 = { most = 1.05 } },
  { name = "one expert top-1, against the dense FFN", unit = "x",
    job = with(LAYER, { kind = "ffn_training", tokens = 2048, experts = 1, k = 1 }),
    against = with(LAYER, { kind = "ffn_training", tokens = 2048 }),
    f32 = { most = 1.03 }, bf16 = { most = 1.03 } },
  { name = "mixture of tokens, group 32, 32 experts, 64 x 256 tokens", yardstick = "peak",
    compute = true, job = with(LAYER, { kind = "mixture_of_tokens", experts = 32, group = 32,
      batch = 64, context = 256 }),
    f32 = { share = 75, aim = 2 }, bf16 = { share = 75, aim = 2 } },
  { name = "dense training step, 288 x 6, 16 x 256 tokens, vocab 256", yardstick = "peak",
    compute = true, job = with(BODY, { kind = "step" }),
    f32 = { share = 80, aim = 1.5 }, bf16 = { share = 65, aim = 1.5 } },
  { name = "dense training step, 288 x 6, 8 x 256 tokens, vocab 32000", yardstick = "peak",
    compute = true, job = with(BODY, { kind = "step", batch = 8, vocab = 32000 }),
    f32 = { share = 80, aim = 1.5 }, bf16 = { share = 65, aim = 1.5 } },
  { name = "MoE training step, 8 experts top-2, 16 x 256 tokens", yardstick = "peak",
    compute = true, job = with(BODY, EIGHT, { kind = "step" }),
    f32 = { share = 78, aim = 1.5 }, bf16 = { share = 62, aim = 2.2 } },
  { name = "the same, against transformers' Mixtral", job = with(BODY, EIGHT, { kind = "step" }),
    torch = with(BODY, EIGHT, { kind = "transformers_step" }),
    f32 = { aim = 2 }, bf16 = { aim = 2.5 } },
  { name = "causal attention forward and backward, 16 x 6 x 256 x 48", yardstick = "peak",
    compute = true,
    job = { kind = "attention", batch = 16, heads = 6, context = 256, head_dim = 48 },
    f32 = { aim = 1.5 }, bf16 = { aim = 1.5 } },
  { name = "AdamW, 34 M parameters", yardstick = "adamw",
    job = { kind = "adamw", tensors = 77, rows = 288, columns = 1536 },
    f32 = { share = 85, aim = 1.5 } },
  { name = "decode a token, batch 1, 8 x 135M top-2", yardstick = "read", per = "tokens",
    job = with(EIGHT, { kind = "decode", dim = 576, layers = 30, heads = 9, kv_heads = 3,
      hidden = 1536, vocab = 49152, context = 64, tokens = 16 }),
    f32 = { aim = 1 }, bf16 = { share = 80, aim = 1 } },
  { name = "recipe training step, 128 x 4, 32 x 128 tokens", yardstick = "peak", compute = true,
    job = RECIPE, f32 = { aim = 1 }, bf16 = { aim = 1 } },
  -- The same graph with hardly a number in it: Lua, the binding and the tape, and nothing else.
  { name = "of the recipe's step: all but arithmetic", unit = "%",
    job = with(RECIPE, { dim = 8, hidden = 2, vocab = 2, context = 2, batch = 1 }),
    against = RECIPE, f32 = { most = 2 }, bf16 = { most = 2 } },
  { name = "start-up of moelua -e ''", job = { kind = "start_up" }, f32 = { most = 10 } },
}

-- What a smoke test makes of a job: every shape at most this.
local small = { dim = 32, hidden = 48, layers = 1, heads = 2, kv_heads = 1, head_dim = 16,
  vocab = 64, context = 16, batch = 2, group = 2, tokens = 8, tensors = 2, rows = 32, columns = 32 }

local function shrunk(job)
  local result = {}
  for key, value in pairs(job) do
    result[key] = small[key] and math.min(value, small[key]) or value
  end
  return result
end

local function expanded(row, precision, smoke)
  local function job_of(job)
    return job and with(smoke and shrunk(job) or job, { precision = precision })
  end
  local job, limits = job_of(row.job), smoke and {} or row[precision]
  return { workload = row.name, precision = precision, unit = row.unit or "ms",
    yardstick = row.yardstick, compute = row.compute, job = job, against = job_of(row.against),
    torch = row[precision].aim and job_of(row.torch or row.job),
    per = row.per and job[row.per] or 1,
    share = limits.share, aim = limits.aim, most = limits.most }
end

-- A part of the name as it is ("top-2"), or a pattern.
local function matches(name, pattern)
  return name:find(pattern, 1, true) or name:find(pattern)
end

--- One entry per workload and precision. pattern: a part of "workload, precision", or a pattern.
---@param pattern string?
---@param smoke boolean tiny shapes and nothing that has to hold
---@return table[]
return function(pattern, smoke)
  local list = {}
  for _, row in ipairs(rows) do
    for _, precision in ipairs({ "f32", "bf16" }) do
      local wanted = not pattern or matches(row.name .. ", " .. precision, pattern)
      if row[precision] and wanted then list[#list + 1] = expanded(row, precision, smoke) end
    end
  end
  return list
end
