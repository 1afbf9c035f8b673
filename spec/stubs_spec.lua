local core = require("moelua.core")
local helper = require("spec.helper")
local host = require("moelua.host")
local system = core.system

local checked_in = "lua/moelua/meta/moelua.d.lua"

local function written()
  local path = helper.tmpdir() .. "/stubs.lua"
  local status = system.spawn({ host.program, "scripts/stubs.lua", path }):wait()
  assert.same({ exited = 0 }, status)
  return assert(system.read(path))
end

describe("the editor stubs", function()
  it("are up to date (else: scripts/dev stubs)", function()
    assert.equal(written(), system.read(checked_in))
  end)

  it("are Lua and declare every operation", function()
    local text = assert(system.read(checked_in))
    assert.truthy(load(text))
    for name in pairs(core.ops) do
      assert.truthy(text:find("[.]" .. name .. "%("), name .. " is missing")
    end
  end)

  it("translate the types of signatures", function()
    local text = assert(system.read(checked_in))
    assert.truthy(text:find([[
---@param x moelua.Tensor
---@param dim? integer default -1
---@return moelua.Tensor
function Tensor.softmax(x, dim) end
moe.softmax = Tensor.softmax
]], 1, true))
    assert.truthy(text:find([[
---@param gate? "selected"|"all"|"sigmoid" default selected
---@param bias? moelua.Tensor
---@return moelua.Tensor
---@return moelua.Tensor
function Tensor.topk_route(logits, k, gate, bias) end
]], 1, true))
    assert.truthy(text:find("---@param xs moelua.Tensor[]\n", 1, true))
    assert.truthy(text:find("---@param ... integer|integer[]|table\n", 1, true))
  end)
end)
