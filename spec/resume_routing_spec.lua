-- Runs whose routers draw random numbers or change themselves go on bit by bit, as all others do.
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local run = require("moelua.run")

local prose, code = models.corpus("prose", nil, 6), models.corpus("code", nil, 6)

local routers = {
  ["a bias that evens the load"] = { k = 2, gate = "sigmoid", bias = { rate = 1e-2 } },
  ["learned noise"] = { kind = "noisy_topk", k = 2 },
  ["a second expert by chance"] = { kind = "gshard", second = "random" },
  ["samples"] = { kind = "sample" },
  ["jitter"] = { kind = "switch", jitter = 1e-1 },
  ["a balance loss of the whole step"] = { k = 2,
    balance = { form = "switch", coef = 0.1, scope = "step" } },
  ["expert choice over the batch"] = { kind = "expert_choice", over = "batch" },
  ["a table of hashes"] = { kind = "hash", by = "balanced", vocab = 256 },
  ["experts by domain"] = { kind = "domain", domains = { "a", "code", "b", "prose" } },
}

local function options(folder, more)
  local opts = models.training({ code = code, prose = prose }, { batch = 4, accumulate = 2,
    steps = 9, save_every = 3, log_every = 2, eval_every = 4, eval_windows = 4, out = folder })
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

local function bits_of(m)
  local list = {}
  for _, entry in ipairs(nn.saved(m)) do list[entry[1]] = entry[2]:bytes() end
  return list
end

local function log_of(folder)
  local log = run.read_log(folder)
  for _, entry in ipairs(log) do entry.seconds = nil end
  return log
end

local layers = { ["a mixture of tokens"] = { kind = "mot", hidden = 24, experts = 4, group = 2,
  temperature = { from = 2, to = 0.5, steps = 8 } } }
for name, router in pairs(routers) do layers[name] = models.mixture({ router = router }) end

-- A run of `new_model` that stops at draw number `stop` of a corpus, and goes on.
local function in_two_parts(new_model, stop)
  local folder, m = models.run_folder(), new_model()
  local broken = models.watched(code, function(n)
    if n == stop then error("the power is gone", 0) end
  end)
  assert.is_false(pcall(moe.train, new_model(),
    options(folder, { data = { code = broken, prose = prose } })))
  moe.train(m, options(folder))
  return bits_of(m), folder
end

describe("a run that was stopped goes on as if nothing had happened, with", function()
  for name, ffn in pairs(layers) do
    for _, recompute in ipairs({ false, true }) do
      it(name .. (recompute and ", recomputed" or ""), function()
        local function new_model()
          return models.tiny({ recompute = recompute, ffn = { {}, ffn } })
        end
        local whole, straight = models.run_folder(), new_model()
        local before = bits_of(straight)
        moe.train(straight, options(whole))
        for _, stop in ipairs({ 5, 8 }) do
          local after, folder = in_two_parts(new_model, stop)
          for tensor, bytes in pairs(bits_of(straight)) do
            assert.is_true(bytes == after[tensor], tensor)
            local changes = not tensor:find("table$")
            assert.is_true((bytes ~= before[tensor]) == changes, tensor)
          end
          assert.same(log_of(whole), log_of(folder))
          assert.same(after, bits_of(assert(moe.load(folder .. "/model"))))
        end
      end)
    end
  end

  it("what an interrupted step has counted is nobody's", function()
    local function new_model()
      return models.tiny({ ffn = models.mixture({
        router = { k = 2, gate = "sigmoid", bias = { rate = 1e-2 } } }) })
    end
    local straight, m = new_model(), new_model()
    local folder = models.run_folder()
    moe.train(straight, options(models.run_folder()))
    local calls, loss = 0, m.loss
    m.loss = function(...)
      calls = calls + 1
      if calls == 10 then error("the power is gone", 0) end       -- in the middle of a step
      return loss(...)
    end
    assert.is_false(pcall(moe.train, m, options(folder)))
    m.loss = nil
    moe.train(m, options(folder))
    assert.same(bits_of(straight), bits_of(m))
  end)
end)
