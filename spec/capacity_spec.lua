-- Capacity: the formulas, who is dropped, and what that couples.
local capacity = require("moelua.capacity")
local helper = require("spec.helper")
local misuse = require("spec.models").misuse
local moe = require("moelua")
local router = require("moelua.router")
local support = require("spec.routers.support")

describe("capacity", function()
  it("follows the formula of each program", function()
    -- factor, tokens, experts, k -> flaxformer, v-moe, gshard, megatron, llm-random, st-moe
    local names = { "flaxformer", "v-moe", "gshard", "megatron", "llm-random", "st-moe" }
    for _, case in ipairs({
      { 1.25, 100, 8, 1, want = { 16, 16, 16, 16, 15, 15 } },
      { 1.25, 100, 8, 2, want = { 16, 16, 16, 32, 31, 15 } },
      { 1, 100, 8, 1, want = { 12, 16, 13, 13, 12, 12 } },      -- 12.5 is rounded to even
      { 1.08, 100, 8, 1, want = { 14, 16, 14, 14, 13, 13 } },   -- 13.5 as well
      { 2, 100, 8, 2, want = { 25, 28, 26, 50, 50, 25 } },      -- 2 ceil(S / N) is 26
      { 1.1, 100, 10, 1, want = { 11, 12, 11, 11, 11, 11 } },   -- 1.1 * 100 / 10 exactly
      { 1, 4, 8, 1, want = { 4, 4, 1, 1, 0, 4 } },
    }) do
      for i, name in ipairs(names) do
        assert.equal(case.want[i], capacity.limit(name, table.unpack(case)), name)
      end
    end
  end)

  it("of all tokens and more is the same as none", function()
    local x = moe.randn(24, 4, { seed = 1 })
    for _, policy in ipairs({ "position", "choice", "probability" }) do
      local gates, experts, info = support.route({ gate = "all", capacity = { factor = 4,
        policy = policy } }, x, { train = true })
      local all, same = support.route({ gate = "all" }, x, { train = true })
      assert.equal(same:bytes(), experts:bytes())
      assert.equal(all:bytes(), gates:bytes())
      assert.equal(0, info.dropped)
    end
  end)

  -- Gates fall from token to token, each has both experts.
  local rows = { { 1, 0 }, { 2, 0 }, { 0, 3 } }

  it("lets tokens in by position, choice or probability", function()
    local function left(policy)
      local _, experts = support.route({ gate = "all", capacity = { factor = 2 / 3,
        policy = policy } }, rows, { train = true })
      return experts:totable()
    end
    assert.same({ { 0, 1 }, { 0, 1 }, { -1, -1 } }, left("position"))
    assert.same({ { 0, 1 }, { 0, -1 }, { 1, -1 } }, left("choice"))
    assert.same({ { 0, 1 }, { 0, -1 }, { 1, -1 } }, left("probability"))
  end)

  it("leaves gates as they are, or divides them by what is left", function()
    local p = support.softmax({ 2, 0 })
    local function gates(renormalise)
      return (support.route({ gate = "all", capacity = { factor = 2 / 3, policy = "choice",
        renormalise = renormalise } }, rows, { train = true })):totable()
    end
    helper.close(gates(false)[2], { p[1], p[2] }, 1e-6)
    helper.close(gates(true), { support.softmax({ 1, 0 }), { 1, 0 }, { 1, 0 } }, 1e-6)
  end)

  it("gives a token that has lost all its experts no gate, and finite gradients", function()
    local logits = moe.tensor(rows):requires_grad()
    local gates, experts = support.route({ gate = "all", capacity = { factor = 2 / 3,
      renormalise = true } }, logits, { train = true })
    assert.same({ -1, -1 }, experts:totable()[3])
    helper.close(gates:totable()[3], { 0, 0 }, 0)
    gates:narrow(2, 1, 1):sum():backward()
    helper.close(logits:grad():totable()[3], { 0, 0 }, 0)
  end)

  it("is shared by the batch or by each sequence", function()
    local x = moe.tensor({ { { 1, 0 }, { 1, 0 } }, { { 1, 0 }, { 0, 1 } } })
    local function left(scope)
      local _, experts = support.route({ k = 1, gate = "all", capacity = { factor = 1,
        scope = scope } }, x, { train = true })
      return experts:reshape(-1):totable()
    end
    assert.same({ 0, 0, -1, 1 }, left("batch"))             -- 2 of 4 tokens
    assert.same({ 0, -1, 0, 1 }, left("sequence"))          -- 1 of 2
  end)

  it("holds in training, and in evaluation with a factor of its own", function()
    local x = support.repeated({ 1, 0 }, 8)
    local function dropped(opts, train)
      local _, _, info = support.route({ k = 1, gate = "all", capacity = opts }, x,
        { train = train })
      return info.dropped
    end
    assert.equal(0.5, dropped({ factor = 1 }, true))
    assert.equal(0, dropped({ factor = 1 }, false))
    assert.equal(0.25, dropped({ factor = 1, evaluation = 1.5 }, false))
  end)

  it("counts what is dropped of the tokens that count", function()
    local _, _, info = support.route({ k = 1, gate = "all", capacity = { factor = 1 } },
      support.repeated({ 1, 0 }, 8),
      { train = true, mask = moe.tensor({ 1, 1, 1, 1, 1, 0, 0, 0 }) })
    helper.close(info.dropped, 1 / 5, 1e-12)
    assert.same({ 4, 0 }, info.counts)
  end)

  it("is not for padding, which takes no room and keeps its experts", function()
    local mask = moe.tensor({ 0, 0, 0, 1, 1, 1, 1, 1 })
    for _, policy in ipairs({ "position", "choice", "probability" }) do
      local gates, experts, info = support.route({ k = 1, gate = "all", capacity = { factor = 1,
        policy = policy, renormalise = true } }, support.repeated({ 1, 0 }, 8),
        { train = true, mask = mask })
      assert.same({ 0, 0, 0, 0, 0, 0, 0, -1 }, experts:reshape(-1):totable())
      helper.close(gates:reshape(-1):totable(), { 1, 1, 1, 1, 1, 1, 1, 0 }, 1e-6)
      assert.same({ 4, 0 }, info.counts)
    end
  end)
end)

describe("the traits of a router with capacity", function()
  local function traits(more, train)
    local opts = { gate = "all", capacity = { factor = 0.5 } }
    for k, v in pairs(more) do opts.capacity[k] = v end
    return router.traits(router.options(opts), train)
  end

  it("say what competes", function()
    assert.same({ causal = true, coupled = "batch" }, traits({}, true))
    assert.same({ causal = true, coupled = "sequence" }, traits({ scope = "sequence" }, true))
    assert.same({ causal = false, coupled = "batch" }, traits({ policy = "choice" }, true))
    assert.same({ causal = false, coupled = "batch" }, traits({ policy = "probability" }, true))
    assert.same({ causal = true, coupled = "no" }, traits({ policy = "choice" }, false))
    assert.same({ causal = false, coupled = "batch" },
      traits({ policy = "choice", evaluation = 1 }, false))
  end)

  -- Which positions of both sequences change when token (1, 5) of the input does.
  local function changed(more)
    local capacity_opts = { factor = 0.6 }
    for k, v in pairs(more) do capacity_opts[k] = v end
    local reached = {}
    for seed = 1, 40 do
      local made = support.router({ gate = "all", capacity = capacity_opts }, 4)
      local x = moe.randn(2, 8, 4, { seed = seed })
      local _, before = made:route(x, { train = true })
      moe.no_grad(function()
        x:select(1, 1):narrow(1, 5, 1):copy_(moe.randn(1, 4, { seed = 100 + seed }) * 3)
      end)
      local _, after = made:route(x, { train = true })
      before, after = before:totable(), after:totable()
      for t = 1, 16 do
        if before[t][1] ~= after[t][1] or before[t][2] ~= after[t][2] then reached[t] = true end
      end
    end
    return reached
  end

  it("hold: by position nothing earlier changes, and later tokens do", function()
    local reached = changed({})
    for t = 1, 4 do assert.is_nil(reached[t]) end
    assert.is_true(reached[6] or reached[7] or reached[8])
    local other = false
    for t = 9, 16 do other = other or reached[t] end
    assert.is_true(other)                                        -- coupled = "batch"
  end)

  it("hold: by sequence the others do not change", function()
    local reached = changed({ scope = "sequence" })
    for t = 9, 16 do assert.is_nil(reached[t]) end
  end)

  it("hold: other policies reach earlier tokens", function()
    for _, policy in ipairs({ "choice", "probability" }) do
      local reached = changed({ policy = policy })
      assert.is_true(reached[1] or reached[2] or reached[3] or reached[4])
    end
  end)
end)

it("capacity refuses factors that are none, and other names", function()
  misuse(function() router.options({ capacity = { factor = 0 } }) end,
    "router.capacity: factor must be above 0 and finite, not 0")
  misuse(function() router.options({ capacity = { evaluation = -1 } }) end,
    "router.capacity: evaluation must be above 0 and finite, not -1")
  misuse(function() router.options({ capacity = { formula = "switch" } }) end,
    "router.capacity: option 'formula' is 'switch': unknown\nhint: known are flaxformer, v-moe, " ..
      "gshard, megatron, llm-random, st-moe")
  assert.is_false(pcall(router.options, { capacity = true }))
end)
