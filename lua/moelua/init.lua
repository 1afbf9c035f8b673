-- init.lua: what require("moelua") returns.

local core = require("moelua.core")

local moe = {}
-- Tensor functions, ops and constants; the C parts behind modules of ours stay inside.
local inner = { json = true, system = true, checkpoint = true, text = true, raise = true,
  sample = true, uniform = true, adamw_step = true, source = true }
for name, value in pairs(core) do
  if not inner[name] then moe[name] = value end
end

moe.nn = require("moelua.nn")
moe.router = require("moelua.router")
moe.model = require("moelua.model")
moe.data = require("moelua.data")
moe.tokenizer = require("moelua.tokenizer")
moe.checkpoint = require("moelua.checkpoint")
moe.options = require("moelua.options")
moe.schedule = require("moelua.schedule")
moe.optimizer = require("moelua.optimizer")
moe.train = require("moelua.train")
moe.evaluate = require("moelua.evaluate")
moe.flops = require("moelua.flops")
moe.help = require("moelua.help")
moe.domains = require("moelua.domains")
moe.study = require("moelua.study")

local family, generate, mix = require("moelua.family"), require("moelua.generate"),
  require("moelua.mix")
moe.load, moe.mix, moe.average = family.load, mix.mix, mix.average
moe.branch = require("moelua.branch")

--- model:save(folder, opts), model:generate(prompt, opts), model:generate_ids(ids, opts)
moe.model.Model.save = family.save
moe.model.Model.generate = generate.text
moe.model.Model.generate_ids = generate.ids

return moe
