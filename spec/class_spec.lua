-- Classes whose objects are userdata with checked tensor slots.
local models = require("spec.models")
local class = require("moelua.class")
local moe = require("moelua")
local misuse = models.misuse

local Bank = class.userdata("Bank", { "w1", "w2" })
function Bank:init(rows) self.w1, self.rows = moe.ones(rows, 2), rows end
function Bank:twice() return self.w1 * 2 end
function Bank.__call(self, x) return x + self.rows end

describe("an object with tensor slots", function()
  it("is userdata of its class", function()
    local bank = Bank(3)
    assert.equal("userdata", type(bank))
    assert.equal(Bank, getmetatable(bank))
    assert.equal("Bank w1 [3 x 2]", tostring(bank))
    bank.w1 = nil
    assert.equal("Bank", tostring(bank))
  end)

  it("has tensors, plain data and methods", function()
    local bank = Bank(3)
    assert.same({ 3, 2 }, bank.w1:shape())
    assert.equal(3, bank.rows)
    assert.is_nil(bank.w2)
    assert.is_nil(bank.other)
    assert.equal(12, bank:twice():sum():item())
    assert.equal(8, bank(5))
    bank.rows = 7
    assert.equal(12, bank(5))
  end)

  it("keeps a slot's shape, but not its type", function()
    local bank = Bank(3)
    bank.w1 = bank.w1:to("bf16")
    assert.equal("bf16", bank.w1:dtype())
    misuse(function() bank.w1 = moe.ones(2, 3) end, "Bank: w1 has the shape [3 x 2] and cannot " ..
      "become [2 x 3]\nhint: a layer of another size is another layer")
    assert.same({ 3, 2 }, bank.w1:shape())
  end)

  it("takes tensors in slots alone", function()
    local bank = Bank(3)
    misuse(function() bank.w1 = 3 end, "Bank: w1 must be a tensor, not 3")
    misuse(function() bank.w3 = moe.ones(1) end, "Bank: w3: there is no tensor of that name here")
  end)

  it("can lose a tensor and get another", function()
    local bank = Bank(3)
    bank.w1 = nil
    assert.is_nil(bank.w1)
    bank.w1 = moe.ones(5)
    assert.same({ 5 }, bank.w1:shape())
  end)

  it("holds its tensors while it lives", function()
    local bank = Bank(3)
    collectgarbage()
    collectgarbage()
    assert.equal(6, bank.w1:sum():item())
  end)

  it("refuses other values where its functions are got hold of", function()
    local metatable = debug.getmetatable(Bank(1))
    local index, newindex = metatable.__index, metatable.__newindex
    assert.has_error(function() index(3, "w1") end)
    assert.has_error(function() index({}, "w1") end)
    for _, other in ipairs({ io.stdout, moe.ones(1) }) do
      local expected = "a layer is expected, not "
      assert.error_matches(function() index(other, "rows") end, expected)
      assert.error_matches(function() newindex(other, "rows", 1) end, expected)
      assert.error_matches(function() newindex(other, "w1", moe.ones(1)) end, expected)
    end
  end)
end)
