-- class.lua: callable classes, without inheritance.
--   local Linear = class("Linear");  function Linear:init(...) end;  Linear(64, 128)
--
-- class.userdata("Experts", { "w1", "w3", "w2" }) makes one whose objects are userdata: what goes
-- into the named slots is checked in C (lua/bind/slots.c), other fields are as in a table.

local core = require("moelua.core")

local function make_class(name, new)
  local cls = {}
  cls.__index = cls
  cls.__name = "moelua." .. name
  return setmetatable(cls, {
    __name = "moelua." .. name .. " class",
    __call = function(_, ...)
      local object = new(cls)
      object:init(...)
      return object
    end,
  })
end

-- "Experts w1 [4 x 24 x 16], w2 [4 x 16 x 24]"
local function describe(object, name, slots)
  local parts = {}
  for _, slot in ipairs(slots) do
    local tensor = object[slot]
    if tensor then
      parts[#parts + 1] = ("%s [%s]"):format(slot, table.concat(tensor:shape(), " x "))
    end
  end
  return #parts > 0 and name .. " " .. table.concat(parts, ", ") or name
end

-- getmetatable(object) is the class, as for objects that are tables.
local function userdata(name, slots)
  local metatable
  local cls = make_class(name, function() return core.slots.make(metatable, #slots) end)
  metatable = { __name = cls.__name, __metatable = cls,
    __call = function(self, ...) return cls.__call(self, ...) end,
    __tostring = function(self) return describe(self, name, slots) end }
  metatable.__index, metatable.__newindex = core.slots.access(cls, slots)
  return cls
end

return setmetatable({ userdata = userdata }, {
  __call = function(_, name)
    return make_class(name, function(cls) return setmetatable({}, cls) end)
  end,
})
