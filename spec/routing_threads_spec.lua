-- What routes gives the same bits for any number of threads: values and gradients of its ops on
-- sizes that no block divides, each number of threads in a process of its own.

local host = require("moelua.host")
local core = require("moelua.core")
local helper = require("spec.helper")

local json, system = core.json, core.system

local SCRIPT = [[
local core = require("moelua.core")
local moe = require("moelua")
local bits = {}

-- The results of f and the gradients of the tensors in `leaves`.
local function note(name, leaves, f)
  for _, leaf in ipairs(leaves) do leaf:requires_grad() end
  local results, loss = table.pack(f(table.unpack(leaves))), nil
  for i = 1, results.n do
    bits[("%s: result %d"):format(name, i)] = core.system.hash(results[i]:bytes())
    if results[i]:dtype() == "f32" then loss = (results[i] * results[i]):sum() + (loss or 0) end
  end
  if #leaves > 0 then loss:backward() end
  for i, leaf in ipairs(leaves) do
    bits[("%s: gradient %d"):format(name, i)] = core.system.hash(leaf:grad():bytes())
  end
end

local T, N, k = 1901, 13, 3
local logits, bias = moe.randn(T, N, { seed = 1 }), moe.randn(N, { seed = 2 })
note("topk_route", { logits }, function(l) return l:topk_route(k, "sigmoid", bias) end)
local gates, experts = logits:detach():topk_route(k)
note("routing_shares", { logits:detach():softmax(-1), gates }, function(scores, g)
  return scores:routing_shares(g, experts)
end)

note("kth_excluding", { logits:detach() }, function(l) return l:kth_excluding(k) end)
for _, policy in ipairs({ "position", "choice", "probability" }) do
  note("capacity_route by " .. policy, {}, function()
    local g, e = gates:narrow(1, 1, 1900), experts:narrow(1, 1, 1900)
    return g:capacity_route(e, 40, policy, 19)
  end)
end

local E, h, d = 5, 45, 50
note("mixture_of_tokens", { moe.randn(62, 7, d, { seed = 4 }), moe.randn(E, d, { seed = 5 }),
  moe.randn(E, h, d, { seed = 6 }), moe.randn(E, h, d, { seed = 7 }),
  moe.randn(E, d, h, { seed = 8 }), moe.full(1.3, 1) }, function(...)
  local x, controller, w1, w3, w2, temperature = ...
  return x:mixture_of_tokens(controller, w1, w3, w2, temperature, 31, "swiglu")
end)

print(core.json.encode({ threads = core.threads, bits = bits }))
]]

describe("routing", function()
  local folder = helper.tmpdir()
  local script = folder .. "/route.lua"
  assert(system.write(script, SCRIPT))

  local function run(threads)
    local out, err = folder .. "/out", folder .. "/err"     -- spawn appends to what is there
    os.remove(out)
    os.remove(err)
    local process = assert(system.spawn({ host.program, script, stdout = out, stderr = err,
      env = { MOELUA_THREADS = tostring(threads) } }))
    local status = assert(process:wait(60), "the child hangs")
    assert.same({ exited = 0 }, status, assert(system.read(err)))
    local result = assert(json.decode(assert(system.read(out))))
    assert.equal(threads, result.threads)
    return result.bits
  end

  it("has the same bits for 1, 2 and 3 threads", function()
    local one = run(1)
    assert.is_not_nil(one["topk_route: gradient 1"])
    assert.is_not_nil(one["mixture_of_tokens: gradient 6"])
    assert.same(one, run(2))
    assert.same(one, run(3))
  end)
end)
