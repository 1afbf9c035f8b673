-- session_spec.lua: what a session answers to lines that are wrong.
local assert = require("luassert")
local repl = require("moelua.repl")

-- Everything that is shown for the lines, without the greeting.
local function answers(lines)
  local shown, at = {}, 0
  repl.run {
    read = function()
      at = at + 1
      return lines[at]
    end,
    write = function(...)
      for i = 1, select("#", ...) do shown[#shown + 1] = (select(i, ...)) end
    end,
    traceback = function(message) return message end,
  }
  return (table.concat(shown):gsub("^[^\n]*\n", ""):gsub("\n$", ""))
end

local rows = {
  { "moe.ones(2):softmx()",
    "stdin:1: attempt to call a nil value (method 'softmx')\nhint: did you mean 'softmax'?\n" },
  { "moe.ones(2, 3) + moe.ones(4)", "stdin:1: add: shapes do not fit: [2 x 3] and [4]\n" },
  { "#moe.ones(2)", "stdin:1: attempt to get length of a moelua.Tensor value\n" ..
    "hint: x:size(1), or x:count() for all elements\n" },
  { "moe.ones(2) < 1", "stdin:1: attempt to compare moelua.Tensor with number\n" ..
    "hint: x:item() is the number in a tensor that holds one\n" },
  { "moe.ones(2) .. '!'", "stdin:1: attempt to concatenate a moelua.Tensor value\n" ..
    "hint: tostring(x), or x:item() for the number in it\n" },
  { "moe.load('gpt2')", "nil\nload: gpt2 is no model folder: it has no config.json\n" ..
    "hint: the path of a Hugging Face directory on this machine is expected\nmissing\n" },
  { "help('softmx')", "no help for 'softmx'\nhint: did you mean 'softmax'?\n" },
  { "x y", "stdin:1: syntax error near 'y'\n" },
  { "quit()", "stdin:1: attempt to call a nil value (global 'quit')\n" ..
    "hint: os.exit() ends a script, Ctrl-D a session\n" },
}

describe("a session answers", function()
  for _, row in ipairs(rows) do
    it(row[1], function() assert.equal(row[2], answers { row[1] }) end)
  end
end)
