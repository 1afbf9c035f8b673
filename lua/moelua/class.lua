-- class.lua: callable classes, without inheritance.
--   local Linear = class("Linear");  function Linear:init(...) end;  Linear(64, 128)

return function(name)
  local cls = {}
  cls.__index = cls
  cls.__name = "moelua." .. name
  return setmetatable(cls, {
    __name = "moelua." .. name .. " class",
    __call = function(_, ...)
      local object = setmetatable({}, cls)
      object:init(...)
      return object
    end,
  })
end
