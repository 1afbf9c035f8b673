-- support.lua: what the tables of messages share. A row is a line that somebody might write, and
-- the whole of what it is answered with, place and hint included.
local assert = require("luassert")
local error_text = require("moelua.error_text")
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")

local support = {}

local folder        -- where the files of a table are; DIR in rows

--- The folder of this file's rows, made when it is first asked for.
function support.folder()
  folder = folder or helper.tmpdir()
  return folder
end

--- What rows of one file have besides: replaced by files that need more.
function support.add() end

--- Writes a file below the folder; folders on the way are made.
function support.write(name, text)
  local path = support.folder() .. "/" .. name
  local system = require("moelua.core").system
  assert(system.make_folder((path:match("^(.*)/"))))
  assert(system.write(path, text))
  return path
end

-- What a user's script has at hand on line 3.
local function environment()
  local released = moe.ones(2)
  released:free()
  local found = { moe = moe, x = moe.ones(2, 3), ids = moe.tensor({ 0, 1 }, "i32"),
    released = released, m = models.tiny(), DIR = support.folder() }
  found.m.tokenizer = moe.tokenizer.bytes()
  support.add(found)
  return setmetatable(found, { __index = _G })
end

-- One line of text for what came back: an error, nil with message and code, or that all went well.
local function outcome(ok, first, message, code)
  if not ok and type(first) == "table" then return ("[%s] %s"):format(first.code, first.message) end
  if not ok then return error_text.tell(first) end
  if first == nil and message then return ("[%s] %s"):format(code, message) end
  return "no error: " .. tostring(first)
end

--- What the line is answered with, as line 3 of script.lua, paths of the folder as DIR.
function support.answer(line)
  local chunk = assert(load("\n\n" .. line, "@script.lua", "t", environment()))
  local text = outcome(pcall(chunk))
  local from = 1
  while true do
    local at, to = text:find(support.folder(), from, true)
    if not at then return text end
    text, from = text:sub(1, at - 1) .. "DIR" .. text:sub(to + 1), at + 3
  end
end

--- One test for each row { line, answer }. Rows are written without "script.lua:3: " when they are
--- misuse, which throws; expected failures, which return nil, begin with their code in brackets.
function support.rows(rows)
  for _, row in ipairs(rows) do
    local it, line, wanted = require("busted").it, row[1], row[2]
    it((line:gsub("%s+", " ")), function()
      if wanted:sub(1, 1) ~= "[" then wanted = "script.lua:3: " .. wanted end
      assert.equal(wanted, support.answer(line))
    end)
  end
end

return support
