local moe = require("moelua")
local core = require("moelua.core")
local functions = require("moelua.functions")
local manual = require("moelua.manual")

-- Only in builds for tests.
local hooks = { fail_allocation = true, interrupt = true, philox = true }
-- In require("moelua.core") for our own modules.
local inner = { raise = true, source = true, sample = true, uniform = true, adamw_step = true,
  attempt = true, nearest = true, describe = true, uninterrupted = true }

describe("help", function()
  it("shows the record of an operation, by name or by value", function()
    local text = "narrow(x:any, dim:dim, start:index, length:int -> any)\n" ..
      "`length` positions of a dimension from `start` on; shares storage with x."
    assert.equal(text, moe.help("narrow"))
    assert.equal(text, moe.help(moe.narrow))
  end)

  it("knows the functions in C that are no operations", function()
    assert.equal("shape(x:any -> integer[])\nThe sizes of all dimensions.", moe.help("shape"))
    assert.equal(moe.help("shape"), moe.help(moe.shape))
  end)

  it("takes Lua functions from their doc comments", function()
    assert.matches("^train%(model, given%)\nTrains the model in place", moe.help("train"))
    assert.equal(moe.help("train"), moe.help(moe.train))
    assert.matches("\n  name string\n", moe.help("options.nearest"))
    assert.matches("\n  returns string%?$", moe.help("options.nearest"))
  end)

  it("lists modules and classes", function()
    assert.matches("\n  tensors +All parameters of a layer or model, tensors only\n",
      moe.help("nn") .. "\n")
    assert.matches("^nn%.Linear%(input, output, opts%)\ny = x W%^T", moe.help(moe.nn.Linear))
    assert.matches("\n  logits +Token ids", moe.help("model.Model"))
  end)

  it("finds the methods of models, by name or by value", function()
    local text = moe.help("generate")
    assert.matches("^Model%.generate%(model, prompt, given%)\nText after the prompt", text)
    assert.equal(text, moe.help("model:generate"))
    assert.equal(text, moe.help("Model.generate"))
    assert.equal(text, moe.help(moe.model.Model.generate))
    assert.matches("^Model:to%(dtype%)\nConverts the weights", moe.help("model:to"))
    assert.equal("no help for 'generat'\nhint: did you mean 'generate'?", moe.help("generat"))
  end)

  it("keeps lines short enough for a terminal", function()
    for _, name in ipairs(manual.names()) do
      for line in moe.help(name):gsub("^[^\n]*\n", ""):gmatch("[^\n]+") do
        assert.is_true(#line <= 100, line)
      end
    end
  end)

  it("lists the operations and suggests names", function()
    assert.matches("\nsoftmax +exp%(x%) / sum", moe.help("ops"))
    assert.equal("no help for 'sofmax'\nhint: did you mean 'softmax'?", moe.help("sofmax"))
    assert.equal("no help for 'qqqqqq'\nhint: help(\"ops\") lists all operations",
      moe.help("qqqqqq"))
    assert.matches("^moelua: a workbench", moe.help())
  end)

  it("has a text for every function in C, and no other", function()
    for name, value in pairs(core) do
      if type(value) == "function" and not hooks[name] and not inner[name] then
        assert.truthy(manual.record(name), name .. " has no text")
      end
    end
    for name in pairs(functions) do
      assert.truthy(core[name] or name:find("^%u%w+%."), name .. " does not exist")
      assert.falsy(core.ops[name])
    end
  end)
end)

describe("manual.parse", function()
  it("splits a signature", function()
    local params, results = manual.parse("x:tensor, dim:dim=-1, w:tensor? -> tensor, itensor")
    assert.same({ { name = "x", type = "tensor", optional = false },
      { name = "dim", type = "dim", default = "-1", optional = true },
      { name = "w", type = "tensor", optional = true } }, params)
    assert.same({ "tensor", "itensor" }, results)
    assert.same({ {}, { "moelua.Scope" } }, { manual.parse("-> moelua.Scope") })
    assert.same({ { { name = "seed", type = "int", optional = false } }, {} },
      { manual.parse("seed:int") })
  end)
end)
