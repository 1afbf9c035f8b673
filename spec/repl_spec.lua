-- repl_spec.lua: the interactive session, with its input and output injected.
local repl = require("moelua.repl")

-- Feeds the lines to a session. A line may be false: Ctrl-C. Returns what was written after the
-- greeting, the prompts, and what was to be remembered.
local function session(lines, options)
  local out, prompts, entries, i = {}, {}, {}, 0
  options = options or {}
  options.read = function(prompt)
    i = i + 1
    prompts[#prompts + 1] = prompt
    if lines[i] == false then return nil, "interrupted" end
    return lines[i]
  end
  options.write = function(...) out[#out + 1] = table.concat({ ... }) end
  options.remember = function(entry) entries[#entries + 1] = entry end
  repl.run(options)
  local text = table.concat(out):gsub("^[^\n]*\n", ""):gsub("\n$", "")
  return text, prompts, entries
end

describe("repl", function()
  after_each(function() _G.repl_spec_value = nil end)

  it("greets, and ends its line at the end of input", function()
    local out = {}
    repl.run {
      read = function() end,
      write = function(...) out[#out + 1] = table.concat { ... } end,
    }
    assert.equal("moe is require(\"moelua\"); help() says more; Ctrl-D ends\n\n",
      table.concat(out))
  end)

  it("shows the values of expressions, nils as well", function()
    assert.equal("2\n", session { "1 + 1" })
    assert.equal("1\tnil\tx\tnil\n", session { "1, nil, 'x', nil" })
    assert.equal("", session { "" })
    assert.equal("", session { "local x = 3" })
    assert.equal("(shown)\n",
      session { "setmetatable({}, { __tostring = function() return '(shown)' end })" })
  end)

  it("shows what tables hold, long and deep ones in part", function()
    assert.equal("{ 1, 2, a = 3, [true] = \"x\" }\n",
      session { "{ 1, 2, a = 3, [true] = 'x' }" })
    assert.equal("{}\t{ {} }\n", session { "{}, { {} }" })
    assert.equal("{ { { { ... } } } }\n", session { "{ { { { 1 } } } }" })
    assert.equal("{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ... }\n",
      session { "{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, x = 1 }" })
    assert.equal("{ 2, 3 }\n", session { "moe.ones(2, 3):shape()" })
  end)

  it("puts values of several lines below each other", function()
    assert.equal("Tensor f32 [1]\n           1\n7\n", session { "moe.ones(1), 7" })
  end)

  it("tells how to leave to those who ask for exit", function()
    assert.matches("%(global 'quit'%)\nhint: os.exit%(%) ends a script, Ctrl%-D a session\n",
      (session { "quit()" }))
  end)

  it("keeps globals", function()
    assert.equal("5\n", session { "repl_spec_value = 4", "repl_spec_value + 1" })
    assert.equal(4, _G.repl_spec_value)
  end)

  it("reads on only when a statement is not complete", function()
    local text, prompts, entries = session { "for i = 1, 2 do", "repl_spec_value = i", "", "end",
      "repl_spec_value" }
    assert.equal("2\n", text)
    assert.same({ "> ", ">> ", ">> ", ">> ", "> ", "> " }, prompts)
    assert.same({ "for i = 1, 2 do\nrepl_spec_value = i\n\nend", "repl_spec_value" }, entries)
  end)

  it("reports wrong syntax at once", function()
    local text, prompts = session { "x = = 2", "3" }
    assert.equal("stdin:1: unexpected symbol near '='\n3\n", text)
    assert.same({ "> ", "> ", "> " }, prompts)
  end)

  it("reports input that ends too early", function()
    assert.equal("stdin:1: <name> expected near <eof>\n", session { "for" })
  end)

  it("starts over after Ctrl-C", function()
    local text, prompts = session { "for i = 1, 2 do", false, "7", false, "8" }
    assert.equal("\n7\n\n8\n", text)
    assert.same({ "> ", ">> ", "> ", "> ", "> ", "> " }, prompts)
  end)

  it("starts over after Ctrl-C that comes between two entries", function()
    local lines, out = { "error", "7" }, {}
    repl.run { write = function(...) out[#out + 1] = table.concat({ ... }) end, read = function()
      local line = table.remove(lines, 1)
      if line == "error" then error("interrupted!", 0) end
      return line
    end }
    assert.same({ "\n", "7\n", "\n" }, { table.unpack(out, 2) })
    assert.has_error(function()
      repl.run { write = function() end, read = function() error("no terminal", 0) end }
    end, "no terminal")
  end)

  it("goes on after an error, with a traceback", function()
    local text = session { "error('bad')", "1" }
    assert.matches("^stdin:1: bad\nstack traceback:\n", text)
    assert.matches("\n1\n$", text)
  end)

  it("hands errors to the traceback that it was given", function()
    local seen
    local text = session({ "error({ message = 'told', code = 'io' })" }, {
      traceback = function(err)
        seen = err
        return err
      end,
    })
    assert.equal("told\n", text)
    assert.same({ message = "told", code = "io" }, seen)
  end)

  it("survives a value that cannot be shown", function()
    assert.matches("^stdin:1: unshowable\n",
      (session { "setmetatable({}, { __tostring = function() error('unshowable') end })" }))
  end)

  it("offers moe and help to its lines and to nobody else", function()
    assert.equal("true\ttrue\n", session { "moe == require('moelua'), _G.moe == nil" })
    assert.matches("Ctrl%-D ends the session", (session { "help()" }))
    assert.is_nil(rawget(_G, "help"))
  end)
end)
