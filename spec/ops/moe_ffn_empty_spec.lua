-- moe_ffn with empty slots, those whose expert is -1: what they leave alone, and what they cost.

local experts = require("spec.ops.experts")
local helper = require("spec.helper")
local moe = require("moelua")

local close = helper.close

local function ids(rows) return moe.tensor(rows, "i32") end

local function both_precisions(f)
  f()
  experts.in_bf16(f)
end

-- Empties the slots that `empty(t, s)` names. Their gates become large: nobody may look at them.
local function emptied(given, empty)
  local chosen, gates = given.experts:totable(), given.gates:totable()
  for t, row in ipairs(chosen) do
    for s = 1, #row do
      if empty(t, s) then row[s], gates[t][s] = -1, 1e30 end
    end
  end
  given.experts, given.gates = ids(chosen), moe.tensor(gates)
  return given
end

-- The same routing with more slots, all of them empty, before and between the ones there are.
local function widened(given)
  local chosen, gates = given.experts:totable(), given.gates:totable()
  local wide = { experts = {}, gates = {} }
  for t, row in ipairs(chosen) do
    wide.experts[t], wide.gates[t] = {}, {}
    for s = 1, 2 * #row do
      local used = s % 2 == 0
      wide.experts[t][s] = used and row[s // 2] or -1
      wide.gates[t][s] = used and gates[t][s // 2] or -7
    end
  end
  local out = {}
  for name, tensor in pairs(given) do out[name] = tensor end
  out.experts, out.gates = ids(wide.experts), moe.tensor(wide.gates)
  return out
end

-- Every second column of a gradient of gates: the slots that were there before widened().
local function narrowed(dgates)
  local T, slots = dgates:size(1), dgates:size(2)
  local pairs_of = dgates:reshape(T, slots // 2, 2)
  close(pairs_of:select(3, 1):contiguous(), moe.zeros(T, slots // 2), 0)
  return pairs_of:select(3, 2):contiguous()
end

-- T tokens of which expert e takes those with t % E == e, in its own slot: T x E slots, T used.
local function one_each(given, E)
  local chosen, gates = {}, {}
  for t = 1, given.x:size(1) do
    chosen[t], gates[t] = {}, {}
    for e = 0, E - 1 do
      chosen[t][e + 1], gates[t][e + 1] = t % E == e and e or -1, 0.5
    end
  end
  given.experts, given.gates = ids(chosen), moe.tensor(gates)
  return given
end

describe("moe_ffn with empty slots", function()
  local cases = { { 1, 2, 3, 5, 4 }, { 7, 3, 5, 33, 17 }, { 150, 3, 6, 40, 33 },
    { 400, 2, 3, 64, 32 } }
  for _, case in ipairs(cases) do
    it("follows its formula for T, k, E, I, d = " .. table.concat(case, ", "), function()
      local given = experts.make(table.unpack(case))
      local chosen = given.experts:totable()
      emptied(given, function(t, s)     -- the last expert gets nothing, every fifth token neither
        return chosen[t][s] == case[3] - 1 or t % 5 == 2 or (t + s) % 4 == 0
      end)
      local want = experts.expected(given)
      experts.agrees(given, want, 2e-6)
      experts.in_bf16(function() experts.agrees(given, want, 3e-2) end)
    end)
  end

  it("gives a token without experts nothing, and takes nothing from it", function()
    both_precisions(function()
      local given = emptied(experts.make(90, 2, 4, 20, 12), function(t) return t == 9 end)
      local out = experts.computed(given)
      for _, name in ipairs({ "y", "x" }) do close(out[name]:select(1, 9), moe.zeros(12), 0) end
      close(out.gates:select(1, 9), moe.zeros(2), 0)
    end)
  end)

  it("may consist of nothing else", function()
    both_precisions(function()
      for _, T in ipairs({ 3, 70 }) do
        local given = emptied(experts.make(T, 2, 4, 20, 12), function() return true end)
        for _, tensor in pairs(experts.computed(given)) do close(tensor, tensor * 0, 0) end
        local y = experts.apply(given)
        close(y, moe.zeros(T, 12), 0)
      end
    end)
  end)

  it("adds to gradients that are there, and adds nothing for what is empty", function()
    local given = emptied(experts.make(40, 2, 3, 8, 6), function(t) return t <= 20 end)
    local x = given.x:clone():requires_grad()
    local y = moe.moe_ffn(x, given.gates, given.experts, given.w1, given.w3, given.w2);
    (x:sum() + y:sum()):backward()
    close(x:grad():narrow(1, 1, 20), moe.ones(20, 6), 0)
    local alone = given.x:clone():requires_grad()
    moe.moe_ffn(alone, given.gates, given.experts, given.w1, given.w3, given.w2):sum():backward()
    close(x:grad(), alone:grad() + 1, 1e-6)
  end)

  it("gives the bits of the same routing without them", function()
    both_precisions(function()
      for _, case in ipairs({ { 5, 2, 4, 20, 12 }, { 203, 3, 5, 70, 45 },
        { 900, 1, 2, 33, 40 } }) do
        local given = experts.make(table.unpack(case))
        local full, wide = experts.computed(given), experts.computed(widened(given))
        wide.gates = narrowed(wide.gates)
        for name, tensor in pairs(full) do
          assert.equal(tensor:bytes(), wide[name]:bytes(), name)
        end
      end
    end)
  end)

  it("gives these bits to the few tokens of a decoding step too", function()
    for _, dtype in ipairs({ "f32", "bf16", "f16" }) do
      local given = experts.make(6, 2, 4, 40, 12)
      for _, name in ipairs({ "w1", "w3", "w2" }) do given[name] = given[name]:to(dtype) end
      local y = experts.apply
        local full = y(given)
      assert.equal(full:bytes(), y(widened(given)):bytes())
      local some = y(emptied(given, function(t) return t % 2 == 0 end))
      for t = 1, 6 do
        close(some:select(1, t), t % 2 == 0 and moe.zeros(12) or full:select(1, t), 0)
      end
    end
  end)

  it("takes memory for the slots that are used", function()
    local T, E, I, d = 2000, 64, 96, 16
    local given = one_each(experts.make(T, 1, E, I, d), E)
    local function held()
      local before = moe.memory().live
      local leaf = given.w1:clone():requires_grad()
      local y = moe.moe_ffn(given.x, given.gates, given.experts, leaf, given.w3, given.w2)
      local live = moe.memory().live - before
      y:sum():backward()
      return live
    end
    held()                                      -- scratch and packed weights are there
    local hidden = 4 * T * I
    local live = held()
    assert(live < 2.3 * hidden + 3 * 4 * given.w1:count(), live)
    moe.memory({ limit = moe.memory().live + 12 * hidden })
    local ok, message = pcall(held)
    moe.memory({ limit = 0 })
    assert(ok, message)
  end)
end)
