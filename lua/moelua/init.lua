-- init.lua: what require("moelua") returns.

local core = require("moelua.core")
local require = require         -- what is loaded later does not depend on what scripts do to it

local moe = {}
-- Tensor functions, ops and constants; the C parts behind modules of ours stay inside.
local inner = { json = true, yaml = true, system = true, checkpoint = true, text = true,
  slots = true, raise = true, sample = true, uniform = true, adamw_step = true, source = true,
  nearest = true, describe = true, attempt = true, uninterrupted = true }
for name, value in pairs(core) do
  if not inner[name] then moe[name] = value end
end

-- Modules, which are loaded when their name is first used: most scripts need few of them.
local modules = { "nn", "router", "model", "data", "tokenizer", "checkpoint", "options", "schedule",
  "optimizer", "train", "evaluate", "flops", "help", "domains", "study", "branch", "transition",
  "upcycle", "export" }
-- Functions that are not named as their module is: name -> module, field.
local fields = { load = { "family", "load" }, mix = { "mix", "mix" },
  average = { "mix", "average" }, add_expert = { "domain_experts", "add" },
  remove_expert = { "domain_experts", "remove" }, merge = { "merge", "merge" },
  verify = { "merge.manifest", "verify" }, balance_hash = { "routers.hash", "balance" } }
for _, name in ipairs(modules) do fields[name] = { name } end

-- The methods of tensors are these functions too; x[1] would otherwise be nil without a word.
setmetatable(core, { __index = function(_, key)
  if type(key) == "number" then
    core.raise("a tensor is not indexed with [%s]\nhint: x:select(1, %s) is a row", key, key)
  end
end })

local lazy = {}

function lazy.__index(_, name)
  local where = fields[name]
  if not where then return nil end
  local value = require("moelua." .. where[1])
  if where[2] then value = value[where[2]] end
  moe[name] = value
  return value
end

-- Whoever looks through all names finds all.
function lazy.__pairs()
  for name in next, fields do local _ = moe[name] end
  return next, moe, nil
end

return setmetatable(moe, lazy)
