-- error_text_spec.lua: messages as the terminal shows them.
local error_text = require("moelua.error_text")

local tell = error_text.tell

local function nil_call(kind, name)
  return ("s.lua:2: attempt to call a nil value (%s '%s')"):format(kind, name)
end

describe("error_text.tell", function()
  it("drops a traceback that repeats the message's line", function()
    assert.equal("s.lua:2: add: no", tell("s.lua:2: add: no\nstack traceback:\n"
      .. "\t[C]: in function 'moelua.add'\n\t(...tail calls...)\n\ts.lua:2: in main chunk"))
    assert.equal("s.lua:2: no\nhint: yes",
      tell("s.lua:2: no\nhint: yes\nstack traceback:\n\ts.lua:2: in main chunk"))
  end)

  it("keeps one that says more", function()
    for _, frames in ipairs { "\n\ts.lua:2: in local 'f'\n\ts.lua:4: in main chunk",
      "\n\ts.lua:3: in main chunk", "\n\ts.lua:22: in main chunk", "\n\t[C]: in ?" } do
      local text = "s.lua:2: boom\nstack traceback:" .. frames
      assert.equal(text, tell(text))
    end
    local bare = "boom\nstack traceback:\n\ts.lua:2: in main chunk"
    assert.equal(bare, tell(bare))
  end)

  it("suggests the name that was meant", function()
    local cases = { { "field", "rnadn", "randn" }, { "method", "softmx", "softmax" },
      { "field", "Linaer", "Linear" }, { "field", "Tensor", "tensor" } }
    for _, case in ipairs(cases) do
      local text = nil_call(case[1], case[2])
      assert.equal(text .. "\nhint: did you mean '" .. case[3] .. "'?", tell(text))
    end
    local unknown = nil_call("field", "something_else")
    assert.equal(unknown, tell(unknown))
  end)

  it("translates the names of PyTorch, before the traceback", function()
    local text = nil_call("method", "view")
    assert.equal(text .. "\nhint: x:reshape(...)\nstack traceback:\n\ta\n\tb",
      tell(text .. "\nstack traceback:\n\ta\n\tb"))
  end)

  it("leaves the user's own globals alone", function()
    local text = nil_call("global", "rnadn")
    assert.equal(text, tell(text))
  end)

  it("says after Ctrl-C what it was told to say", function()
    assert.equal("interrupted!", tell("interrupted!"))
    error_text.when_interrupted("runs/x")
    assert.equal("interrupted: the same command again continues runs/x", tell("interrupted!"))
    error_text.saved("saved step 1240 of mix", "runs/x/mix")
    assert.equal("interrupted: saved step 1240 of mix; the same command again continues runs/x",
      tell("interrupted!"))
    error_text.when_interrupted(nil)
    assert.equal("interrupted!", tell("interrupted!"))
    error_text.saved("saved step 3 of train", "runs/y")
    assert.equal("interrupted: saved step 3 of train; the same command again continues runs/y",
      tell("interrupted!"))
    assert.equal("interrupted!", tell("interrupted!"))
  end)

  it("keeps a hint that is there", function()
    local text = nil_call("method", "view") .. "\nhint: mine"
    assert.equal(text, tell(text))
  end)
end)
