-- tensor_view.lua: the tensors of a checkpoint under other names, some of them parts of what is
-- stored, with the methods of a checkpoint:
--
--   local view = tensor_view(file, { ["experts.1.w2"] = { name = "experts.down_proj",
--     first = 96, shape = { 8, 12 } } })
--
-- Each entry is a source without its file: the `name` of a stored tensor; `first`, how many of its
-- elements come before, and `shape`, where it is a part; `rows`, an i32 tensor, where its rows lie
-- in another order.

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")
local options = require("moelua.options")

local View = class("TensorView")

--- file: a checkpoint; entries: name -> { name, first, shape, rows }, see above.
function View:init(file, entries)
  expect(type(entries) == "table", "tensor_view", "entries", "a table", entries)
  self.file, self.entries, self.path = file, entries, file.path
end

function View:names()
  local list = {}
  for name in pairs(self.entries) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- The entry of a name, or nil, message, code.
local function entry_of(self, where, name)
  local entry = self.entries[name]
  if entry then return entry end
  local near = type(name) == "string" and core.nearest(name, self:names())
  return nil, ("%s: no tensor `%s`%s"):format(where, tostring(name),
    near and ("\nhint: did you mean '%s'?"):format(near) or ""), "missing"
end

local function product(shape)
  local n = 1
  for _, size in ipairs(shape) do n = n * size end
  return n
end

--- As of the stored tensor, with the shape and the bytes of the part.
function View:info(name)
  local entry, message, code = entry_of(self, "info", name)
  if not entry then return nil, message, code end
  local info
  info, message, code = self.file:info(entry.name)
  if not info or not entry.shape then return info, message, code end
  local whole = product(info.shape)
  local bytes = whole > 0 and info.bytes // whole * product(entry.shape) or 0
  if whole > 0 and info.bytes % whole ~= 0 then   -- blocks of several elements
    bytes = math.tointeger(info.bytes / whole * product(entry.shape)) or bytes
  end
  return options.merge(info, { shape = entry.shape, bytes = bytes })
end

--- Where the numbers of a tensor lie, for core.checkpoint.read.
function View:source(name)
  local entry, message, code = entry_of(self, "source", name)
  if not entry then return nil, message, code end
  local source
  source, message, code = self.file:source(entry.name)
  if not source then return nil, message, code end
  return options.merge(source, { first = entry.first, shape = entry.shape, rows = entry.rows })
end

-- The stored elements of an entry: where they begin, and how many they are.
local function place_of(self, entry)
  return entry.first or 0, product(entry.shape or self.file:info(entry.name).shape)
end

--- Where tensors of equal shapes lie that follow each other in the file, as one of a dimension
--- more; nil where they do not.
---@param names string[]
---@return table? source
function View:stack(names)
  local start = self.entries[names[1]]
  if not start then return nil end
  local first, count = place_of(self, start)
  for i, name in ipairs(names) do
    local entry = self.entries[name]
    if not entry or entry.rows or entry.name ~= start.name then return nil end
    local at, n = place_of(self, entry)
    if n ~= count or at ~= first + (i - 1) * count then return nil end
  end
  local source = self.file:source(start.name)
  local shape = start.shape or self.file:info(start.name).shape
  return source and options.merge(source, { first = first,
    shape = { #names, table.unpack(shape) } })
end

function View:tensor(name, dtype)
  local source, message, code = self:source(name)
  if not source then return nil, message, code end
  return core.checkpoint.read(source, dtype)
end

--- The bytes of a tensor as they are stored, where they lie in order.
function View:raw(name)
  local entry, message, code = entry_of(self, "raw", name)
  if not entry then return nil, message, code end
  if entry.rows then return nil, ("raw: the rows of `%s` are in another order"):format(name) end
  local bytes
  bytes, message, code = self.file:raw(entry.name)
  if not bytes or not entry.shape then return bytes, message, code end
  local info, whole = self:info(name), self.file:info(entry.name)
  local size = product(whole.shape)
  local first = size > 0 and math.tointeger((entry.first or 0) * whole.bytes / size) or 0
  return bytes:sub(first + 1, first + info.bytes)
end

function View:metadata() return self.file:metadata() end
function View:verify() return self.file:verify() end
function View:close() self.file:close() end
View.__close = View.close

return View
