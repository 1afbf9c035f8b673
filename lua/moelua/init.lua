-- init.lua: what require("moelua") returns.

local core = require("moelua.core")

local moe = {}
for name, value in pairs(core) do moe[name] = value end
moe.nn = require("moelua.nn")
moe.model = require("moelua.model")
return moe
