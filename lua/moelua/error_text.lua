-- error_text.lua: an error message as its reader wants it: with a hint where a name is misspelt or
-- comes from another library, and without a traceback that only repeats the message's own line.

local manual = require("moelua.manual")
local options = require("moelua.options")

local error_text = {}

-- What people who know PyTorch, or Python, look for under its name there.
local elsewhere = {
  view = "x:reshape(...)", flatten = "x:reshape(...)", squeeze = "x:reshape(...)",
  unsqueeze = "x:reshape(...)", permute = "x:transpose(1, 2) swaps two dimensions",
  t = "x:transpose(1, 2)", mm = "x:matmul(y)", bmm = "x:matmul(y)",
  cat = "moe.concat({ x, y }, dim)", cuda = "everything is computed on the CPU",
  numpy = "x:totable()", tolist = "x:totable()", numel = "x:count()", ndim = "x:dim()",
  float = "x:to(\"f32\")", int = "x:to(\"i32\")", long = "x:to(\"i32\")",
  zeros_like = "moe.zeros(x:shape())", ones_like = "moe.ones(x:shape())",
  from_pretrained = "moe.load(folder)", save_pretrained = "model:save(folder)",
  state_dict = "model:save(folder)", load_state_dict = "moe.load(folder)",
  exit = "os.exit() ends a script, Ctrl-D a session",
  quit = "os.exit() ends a script, Ctrl-D a session",
  len = "#list, x:size(dim)", range = "for i = 1, n do ... end",
}

-- The names that a module or class holds.
local function add_keys(list, t)
  for _, name in ipairs(manual.keys(t)) do list[#list + 1] = name end
end

-- Everything that can be written after a dot or a colon, sorted: the same message every time. The
-- name itself may be one of something else, where it is no help.
local function names_beside(unknown)
  local names, moe = {}, require("moelua")
  for _, name in ipairs(manual.names()) do names[#names + 1] = name:match("[%w_]+$") end
  add_keys(names, moe)
  for _, module in ipairs(manual.keys(moe)) do
    for _, class in ipairs(manual.annotated(module)) do
      for _, method in ipairs(class.methods) do names[#names + 1] = method.name end
    end
    local held = type(moe[module]) == "table" and module ~= "ops" and moe[module] or {}
    add_keys(names, held)
    for _, class in pairs(held) do
      if manual.is_class(class) then add_keys(names, class) end
    end
  end
  table.sort(names)
  local list = {}
  for _, other in ipairs(names) do
    if other ~= unknown then list[#list + 1] = other end
  end
  return list
end

-- What Lua says about tensors, and what was wanted.
local number = "x:item() is the number in a tensor that holds one"
local unfit = {
  ["attempt to get length of a moelua.Tensor"] = "x:size(1), or x:count() for all elements",
  ["attempt to compare moelua.Tensor"] = number,
  ["attempt to compare %w+ with moelua.Tensor"] = number,
  ["attempt to compare two moelua.Tensor"] = number,
  ["attempt to concatenate a moelua.Tensor"] = "tostring(x), or x:item() for the number in it",
}

-- The hint for something that does not exist or does not go, or nil.
local function hint(message)
  local kind, name = message:match("attempt to call a nil value %((%a+) '([%w_]+)'%)")
  if not kind then
    for pattern, known in pairs(unfit) do
      if message:find(pattern) then return known end
    end
    return nil
  end
  if elsewhere[name] then return elsewhere[name] end
  local near = kind ~= "global" and options.nearest(name, names_beside(name))
  return near and ("did you mean '%s'?"):format(near)
end

local continued         -- the folder that the same command continues, while something is under way
local saved             -- what an interrupted training has saved, told once

--- The folder that the same command will continue after Ctrl-C, from now on; nil for none.
---@param folder string?
function error_text.when_interrupted(folder) continued = folder end

--- Something was interrupted, and this is what it saved on its way out.
---@param text string as "saved step 3 of seed"
---@param folder string which the same command will continue
function error_text.saved(text, folder) saved = { text = text, folder = folder } end

local function tell_interrupted()
  local parts, folder = {}, continued or saved and saved.folder
  if saved then parts[1] = saved.text end
  if folder then parts[#parts + 1] = "the same command again continues " .. folder end
  saved = nil
  if #parts == 0 then return "interrupted!" end
  return "interrupted: " .. table.concat(parts, "; ")
end

-- Whether the frames say no more than the message, which begins with the line of the only one.
local function repeats(message, frames)
  local where, count = nil, 0
  for frame in frames:gmatch("\n\t([^\n]*)") do
    if not frame:find("^%[C%]:") and not frame:find("^%(%.%.%.tail") then
      where, count = frame:match("^(.-:%d+:) "), count + 1
    end
  end
  return count == 1 and where ~= nil and message:sub(1, #where) == where
end

--- The message, which may end with a traceback, for the terminal.
---@param message string
---@return string
function error_text.tell(message)
  if message == "interrupted!" then return tell_interrupted() end
  local text, frames = message:match("^(.-)\nstack traceback:(.*)$")
  if not text then text, frames = message, "" end
  local known = not text:find("\nhint: ", 1, true) and hint(text)
  if known then text = text .. "\nhint: " .. known end
  if frames == "" or repeats(text, frames) then return text end
  return text .. "\nstack traceback:" .. frames
end

return error_text
