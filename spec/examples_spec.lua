-- The lessons in examples/ run and say what they promise.

local host = require("moelua.host")
local helper = require("spec.helper")
local system = require("moelua.core").system

local function run(name)
  local out = helper.tmpdir() .. "/out"
  local process = assert(system.spawn({ host.program, "examples/" .. name, stdout = out,
    stderr = out }))
  local status = process:wait(60 * helper.patience)
  return status and status.exited, system.read(out)
end

describe("examples/", function()
  it("gradients.lua finds the line", function()
    local code, text = run("gradients.lua")
    assert.equal(0, code, text)
    local slope, offset = text:match("y = ([%d.]+) x %+ ([%d.]+)")
    helper.close(tonumber(slope), 3, 0.1)
    helper.close(tonumber(offset), 2, 0.1)
  end)

  it("mixture.lua shows how the balance loss spreads the load", function()
    local code, text = run("mixture.lua")
    assert.equal(0, code, text)
    -- The share of each kind that goes to expert 1, without and with the loss.
    local share = {}
    for percent in text:gmatch("(%d+) %% to expert 1") do share[#share + 1] = tonumber(percent) end
    assert.equal(4, #share, text)
    assert.is_true(math.abs(share[1] - share[2]) < 30, text)
    assert.is_true(math.abs(share[3] - share[4]) > 60, text)
  end)

  it("routers.lua shows whom the load and the answers depend on", function()
    local code, text = run("routers.lua")
    assert.equal(0, code, text)
    local even = "  25.0  25.0  25.0  25.0          0.0   "
    for _, line in ipairs({ "soft           " .. even .. "its own past",
      "expert_choice  " .. even .. "later tokens", "expert_choice  " .. even .. "other sequences",
      "base           " .. even .. "later tokens" }) do
      assert.truthy(text:find(line, 1, true), text)
    end
    assert.truthy(text:find("switch[%d%s.]+%s[1-9][%d.]+   other sequences"), text)
    assert.truthy(text:find("topk[%d%s.]+%s0%.0   its own past"), text)
  end)
end)
