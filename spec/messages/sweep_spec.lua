-- sweep_spec.lua: every public function and method, called with what it cannot want. Whatever
-- comes back is a result, nil with a message and a code, or an error that begins with the user's
-- line and speaks of what the user wrote, never of our own variables.
local assert = require("luassert")
local helper = require("spec.helper")
local lfs = require("lfs")
local manual = require("moelua.manual")
local models = require("spec.models")
local moe = require("moelua")

local codes = { missing = true, io = true, full = true, busy = true, interrupted = true,
  diverged = true, unsupported = true, memory = true, format = true }

-- What only Lua itself, tripping over one of our variables, would say.
local ours = { "attempt to", "bad argument", "moelua/", "%(local '", "%(upvalue '", "%(field '",
  "stack overflow", "number has no" }

local cyclic = {}
cyclic.self, cyclic[1] = cyclic, cyclic
local released = moe.ones(2)
released:free()

-- Made anew for each function, so that none finds what another has broken. A call may take a first
-- and a second value.
local function values()
  return { false, true, 0 / 0, 2 ^ 63, -1, 0, math.maxinteger, 1.5, {}, cyclic, ("x"):rep(100000),
    "", "abc", released, moe.ones(2, 2), print, coroutine.create(print), { 1, "a", false } }
end

local call = load("local f, a, b, c = ...\nlocal x, y, z = f(a, b, c)\nreturn x, y, z", "@user.lua")

local function trouble(ok, first, message, code)
  if ok and first == nil and code ~= nil and type(message) == "string" then
    return not codes[code] and "no code: " .. tostring(code) or nil
  end
  if ok then return nil end
  if type(first) == "table" then
    return not (first.exit or codes[first.code]) and "no code: " .. tostring(first.message) or nil
  end
  local text = tostring(first)
  if not text:find("^user%.lua:2: ") then return "no place: " .. text:sub(1, 300) end
  if #text > 10000 then return "long: " .. #text end
  for _, pattern in ipairs(ours) do
    if text:find(pattern) then return "internals: " .. text:sub(1, 300) end
  end
end

-- Calls f(self?, a, b) with every value as a and, for a few of them, as b.
local function sweep(name, f, self)
  local list, calls = values(), 0
  local function try(...)
    calls = calls + 1
    if calls % helper.stride ~= 0 then return end
    local what = trouble(pcall(call, f, ...))
    assert.is_nil(what, name .. ": " .. tostring(what))
  end
  for i = 1, #list do
    local a = list[i] or nil
    for j = 1, #list, 1 + i % 3 do
      local b = list[j] or nil
      if self ~= nil then try(self, a, b) else try(a, b) end
    end
    if self ~= nil then try(self, a) else try(a) end
  end
end

-- Functions that end things, print, start a session, or only pass on what they are given; and ways
-- into our classes that are no calls of a user's.
local left_out = { fail_allocation = true, interrupt = true, philox = true, scope = true,
  init = true, __index = true, no_grad = true }

local function functions_of(t)
  local names = {}
  for _, name in ipairs(manual.keys(t)) do
    if type(t[name]) == "function" and not left_out[name] then names[#names + 1] = name end
  end
  return names
end

local here = lfs.currentdir()

describe("misuse", function()
  setup(function() assert(lfs.chdir(helper.tmpdir())) end)       -- "abc" may become a file

  teardown(function()
    assert(lfs.chdir(here))
    moe.memory { limit = 0 }
  end)

  for _, name in ipairs(functions_of(moe)) do
    it("of moe." .. name, function() sweep(name, moe[name]) end)
  end

  for _, module in ipairs(manual.keys(moe)) do
    local held = type(moe[module]) == "table" and module ~= "ops" and moe[module]
    if held and not manual.is_class(held) then
      for _, name in ipairs(functions_of(held)) do
        it(("of moe.%s.%s"):format(module, name), function() sweep(name, held[name]) end)
      end
    end
    for _, name in ipairs(held and manual.keys(held) or {}) do
      if manual.is_class(held[name]) then
        it(("of moe.%s.%s()"):format(module, name), function() sweep(name, held[name]) end)
      end
    end
  end

  it("of methods of a tensor", function()
    for _, name in ipairs(functions_of(require("moelua.core"))) do
      if moe[name] and name ~= "free" then sweep(name, moe[name], moe.ones(2, 2)) end
    end
  end)

  local function methods(what, make, names)
    it("of methods of " .. what, function()
      for _, name in ipairs(names) do
        local object = make()
        sweep(name, object[name], object)
      end
    end)
  end

  local corpus_methods, tokenizer_methods = {}, {}
  for _, class in ipairs(manual.annotated("data")) do
    for _, method in ipairs(class.methods) do corpus_methods[#corpus_methods + 1] = method.name end
  end
  for _, class in ipairs(manual.annotated("tokenizer")) do
    for _, method in ipairs(class.methods) do
      tokenizer_methods[#tokenizer_methods + 1] = method.name
    end
  end
  methods("a corpus", models.corpus, corpus_methods)
  methods("the tokenizer", moe.tokenizer.bytes, tokenizer_methods)
  methods("a checkpoint", function()
    assert(moe.checkpoint.save("a.safetensors", { a = moe.ones(2) }))
    return assert(moe.checkpoint.open("a.safetensors"))
  end, { "names", "info", "tensor", "raw", "metadata", "close" })
  methods("a scope", moe.scope, { "keep" })
  methods("a model", function()
    local m = models.tiny()
    m.tokenizer = moe.tokenizer.bytes()
    return m
  end, { "forward", "logits", "loss", "generate", "generate_ids", "save", "to", "copy", "count" })
  methods("an optimizer", function() return moe.optimizer(moe.nn.Linear(2, 2)) end,
    { "norm", "step", "state", "restore" })
  methods("layers", function() return moe.nn.Linear(2, 2) end, { "forward" })
  methods("mixtures", function() return moe.nn.MoE { dim = 2, hidden = 2, experts = 2 } end,
    { "forward" })
end)
