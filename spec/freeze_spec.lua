-- What a model's configuration freezes: no gradient, no update, whoever trains it.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local misuse = models.misuse

local function mixture(freeze)
  return models.tiny({ tied = false, freeze = freeze, ffn = models.mixture() })
end

-- The names of the parameters that a training changes.
local function changed(m)
  local before, names = models.bits(m)
  moe.train(m, models.training(models.corpus(), { steps = 2 }))
  local after, list = models.bits(m), {}
  for _, name in ipairs(names) do
    if before[name] ~= after[name] then list[#list + 1] = name end
  end
  return list
end

local function has(list, pattern)
  for _, name in ipairs(list) do
    if name:find(pattern) then return true end
  end
  return false
end

describe("freeze", function()
  local all = #changed(mixture())

  for name, pattern in pairs({ experts = "%.ffn%.experts%.", router = "%.router$",
      attention = "%.attention%.", embedding = "^embedding$", head = "^head$", norms = "norm$",
      ["^layers%.0%."] = "^layers%.0%." }) do
    it(("keeps %s as they are, and nothing else"):format(name), function()
      local m, count = mixture({ name }), 0
      for _, entry in ipairs(m:parameters()) do
        if entry[1]:find(pattern) then count = count + 1 end
      end
      local list = changed(m)
      assert.is_true(count > 0)
      assert.is_false(has(list, pattern))
      assert.equal(all - count, #list)
    end)
  end

  it("gives others the gradients that they have without it", function()
    local a, b = mixture(), mixture({ "experts", "attention" })
    local x, y = moe.tensor({ { 1, 2, 3 } }, "i32"), moe.tensor({ { 2, 3, 4 } }, "i32")
    for _, m in ipairs({ a, b }) do (m:loss(x, y)):backward() end
    local list = b:parameters()
    for i, entry in ipairs(a:parameters()) do
      local grad = list[i][2]:grad()
      if entry[1]:find("experts") or entry[1]:find("attention%.") then
        assert.is_nil(grad)
      else
        helper.close(grad, entry[2]:grad(), 1e-6)
      end
    end
  end)

  it("is part of the model: copied, saved, loaded, converted", function()
    local m = mixture({ "router", "^norm$" })
    local folder = helper.tmpdir() .. "/m"
    assert(m:save(folder))
    for _, twin in ipairs({ m:copy(), assert(moe.load(folder)), m:to("bf16"):to("f32") }) do
      assert.same({ "router", "^norm$" }, twin.config.freeze)
      assert.is_false(twin.layers[1].ffn.router.weight:tracks_grad())
      assert.is_false(twin.norm.weight:tracks_grad())
      assert.is_true(twin.layers[1].ffn.experts.w1:tracks_grad())
    end
  end)

  it("is chosen when a mixture is made", function()
    local dense = models.tiny()
    local list = changed(moe.mix({ dense, dense }, { freeze = { "experts" } }))
    assert.is_false(has(list, "experts"))
    assert.is_true(has(list, "router"))
    assert.is_false(has(changed(moe.upcycle(dense, { experts = 2, freeze = { "attention" },
      router = { k = 1, gate = "all" } })), "attention%."))
  end)

  it("resumes bit for bit", function()
    local function train(steps, folder, m)
      moe.train(m, models.training(models.corpus(), { steps = steps, out = folder, save_every = 2,
        schedule = "constant", warmup = 0 }))
      return m
    end
    local whole = train(6, models.run_folder(), mixture({ "experts" }))
    local again = assert(moe.load((function()
      local folder = models.run_folder()
      train(6, folder, mixture({ "experts" }))
      return folder .. "/model"
    end)()))
    models.same(whole, again)
  end)

  it("refuses unknown names, and to freeze everything", function()
    misuse(function() mixture({ "routers" }) end,
      "moe.model.new: freeze has 'routers': unknown\nhint: did you mean 'router'?")
    misuse(function() mixture({ 3 }) end,
      "moe.model.new: freeze is a list of names or patterns, not 3")
    misuse(function() mixture({ experts = true }) end,
      "moe.model.new: freeze is a list of names or patterns, not a table with 'experts'")
    misuse(function() mixture({ "layers%" }) end,
      "freeze: 'layers%': malformed pattern (ends with '%')")
    misuse(function() moe.optimizer(mixture({ "." })) end,
      "moe.optimizer: all parameters are frozen: there is nothing to train")
  end)
end)
