-- A model that computes its blocks again, against central differences, in the double build.
local moe = require("moelua")
local core = require("moelua.core")

local STEP, TOLERANCE = 1e-5, 1e-6

describe("gradients of a model that recomputes", function()
  it("are those of its loss", function()
    local model = moe.model.new({ dim = 6, layers = 2, heads = 1, vocab = 9, context = 5, std = 0.3,
      recompute = true, ffn = { { hidden = 7 }, { kind = "moe", hidden = 5, experts = 3,
        router = { k = 2, balance = { form = "btx" }, z_loss = 1e-2 } } } })
    local x = moe.tensor({ { 1, 2, 3, 4, 5 }, { 8, 7, 0, 7, 8 } }, "i32")
    local function loss() return (model:loss(x, x)) end
    loss():backward()
    for _, entry in ipairs(model:parameters()) do
      local flat, grad = entry[2]:detach():reshape(-1), entry[2]:grad():reshape(-1):totable()
      for i = 1, #grad, math.max(1, #grad // 9) do
        local place, values = flat:narrow(1, i, 1), {}
        local before = place:item()
        for sign = -1, 1, 2 do
          place:fill_(before + sign * STEP)
          values[sign] = moe.no_grad(loss):item()
        end
        place:fill_(before)
        local numeric = (values[1] - values[-1]) / (2 * STEP)
        assert.is_true(math.abs(numeric - grad[i]) < TOLERANCE * math.max(1, math.abs(numeric)),
          ("%s, element %d: %.9g, numerically %.9g"):format(entry[1], i, grad[i], numeric))
      end
    end
    assert.is_true(core.double)
  end)
end)
