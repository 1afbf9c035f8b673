-- The benchmark: it runs everything, one bad row stops no other, and its table can be read by
-- programs. How fast anything is does not matter here.

local host = require("moelua.host")
local helper = require("spec.helper")
local core = require("moelua.core")
local system, json = core.system, core.json

package.path = "scripts/bench/?.lua;" .. package.path
local report = require("report")
local rounds = require("rounds")
local rows_of = require("rows")

local function run(words)
  local folder = helper.tmpdir()
  local command = { stdout = folder .. "/out", stderr = folder .. "/err" }
  for i, word in ipairs(words) do command[i] = word end
  local status = assert(system.spawn(command)):wait(120 * helper.patience)
  return status and status.exited, system.read(folder .. "/out"), system.read(folder .. "/err")
end

local function bench(...) return run({ host.program, "scripts/bench/bench.lua", ... }) end

local function objects(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do list[#list + 1] = assert(json.decode(line)) end
  return list
end

local yardstick
local function the_yardstick()
  if yardstick then return yardstick end
  local path = helper.tmpdir() .. "/yardstick"
  local code, _, said = run({ "scripts/bench/yardstick/compile", path })
  assert.equal(0, code, said)
  yardstick = path
  return path
end

describe("scripts/dev bench", function()
  it("refuses options it does not have", function()
    local code, _, said = bench("--smok")
    assert.equal(2, code)
    assert.matches("unknown option '%-%-smok'\nhint: did you mean '%-%-smoke'", said)
  end)

  it("refuses a pattern that no row matches", function()
    local code, _, said = bench("--only", "nothing of the kind")
    assert.equal(2, code)
    assert.matches("no row matches 'nothing of the kind'", said)
  end)

  it("prints an object per row", function()
    local code, text, said = bench("--smoke", "--json", "--yardstick", the_yardstick(),
      "--only", "^MoE FFN.*, f32")
    assert.equal(0, code, said)
    local rows = objects(text)
    for i = 1, 3 do
      assert.matches("^MoE FFN", rows[i].workload)
      assert.equal("f32", rows[i].precision)
      assert.equal("ms", rows[i].unit)
      assert.is_true(rows[i].value > 0 and rows[i].percent_of_peak > 0)
      assert.is_nil(rows[i].holds)
    end
    assert.equal(core.threads > 1 and 4 or 3, #rows)
  end)

  it("compares jobs with each other", function()
    local code, text, said = bench("--smoke", "--json", "--only", "against .*, f32")
    assert.equal(0, code, said)
    for i, row in ipairs(objects(text)) do
      assert.equal(({ "x", "x", "ms" })[i], row.unit)
      assert.is_true(row.value > 0)
    end
  end)

  it("goes on when a row fails", function()
    local code, text = bench("--smoke", "--json", "--yardstick", "/nowhere/yardstick", "--only",
      "^[MA].*, f32")
    assert.equal(1, code)
    local rows = objects(text)
    assert.matches("^yardstick ended", rows[1].error)
    assert.is_true(rows[1].value > 0)
    assert.is_true(#rows >= 5)
  end)
end)

describe("the yardstick", function()
  it("tells rates, and what is wrong with a request", function()
    local folder = helper.tmpdir()
    local path = folder .. "/requests"
    assert(system.write(path, "f32 2 1\nbf16\nf32 0 1\nf64 1 1\n"))
    local code, text = run({ "sh", "-c", the_yardstick() .. " < " .. path })
    assert.equal(0, code)
    local answers = objects(text)
    assert.is_true(answers[1].rate > 0)
    assert.equal("KIND THREADS MILLISECONDS is expected", answers[2].error)
    assert.equal(answers[2].error, answers[3].error)
    assert.matches("^known are f32", answers[4].error)
  end)
end)

describe("rounds", function()
  it("take the median and the spread of the middle half", function()
    assert.equal(3, rounds.median({ 5, 1, 3 }))
    assert.equal(2.5, rounds.median({ 4, 1, 2, 3 }))
    assert.equal(0, rounds.spread({ 2, 2, 2 }))
    assert.equal(0.5, rounds.spread({ 3, 100, 4, 5, 1 }))
  end)

  it("take turns, every other time backwards, without those that failed", function()
    local order = {}
    local function contestant(name, fails_at)
      return { name = name, take = function()
        order[#order + 1] = name
        if #order == fails_at then return nil, "broken" end
        return #order
      end }
    end
    local samples, failed = rounds.run({ contestant("a"), contestant("b", 2), contestant("c") },
      { least = 3, most = 3, seconds = 0 })
    assert.equal("abccaac", table.concat(order))
    assert.same({ a = { 1, 5, 6 }, b = {}, c = { 3, 4, 7 } }, samples)
    assert.same({ b = "broken" }, failed)
  end)

  it("end when the time is over, but not before the least number", function()
    local count = 0
    rounds.run({ { name = "a", take = function() count = count + 1 return 1 end } },
      { least = 2, most = 9, seconds = 0 })
    assert.equal(2, count)
  end)
end)

describe("rows", function()
  it("come once for each precision, and are chosen by a pattern", function()
    local names = {}
    for _, row in ipairs(rows_of(nil, false)) do
      local name = row.workload .. ", " .. row.precision
      assert.is_nil(names[name], name)
      names[name] = true
      assert.equal(row.precision, row.job.precision)
    end
    local chosen = rows_of("64 tokens", false)
    assert.equal(2, #chosen)
    assert.equal(64, chosen[1].job.tokens)
    assert.same({ 65, 80 }, { chosen[1].share, chosen[2].share })
    assert.equal("start_up", rows_of("start-up", false)[1].job.kind)
  end)

  it("promise nothing in a smoke test, which is tiny", function()
    for _, row in ipairs(rows_of(nil, true)) do
      assert.is_nil(row.share or row.most or row.aim)
      assert.is_true((row.job.dim or 0) <= 32)
    end
  end)
end)

describe("report", function()
  local rows = {
    { workload = "a", precision = "f32", value = 2.0, unit = "ms", target = "faster",
      holds = false },
    { workload = "b", unit = "ms", error = "broken" },
  }

  it("leaves out columns that say nothing", function()
    local text = report.markdown(rows, { "a machine" }, { af32 = 4 })
    assert.equal([[
- a machine

| workload | type | median | before | unit | target | holds |
| --- | --- | ---: | ---: | --- | --- | --- |
| a | f32 | 2 | 4 | ms | faster | no |
| b |  |  |  | ms |  | failed |]], text:match("%- a machine.*"))
  end)

  it("tells why figures are missing", function()
    assert.same({ "b: broken" }, report.remarks(rows))
  end)
end)
