-- layer_class.lua: classes of layers. A layer is a table with tensors and a forward(self, x, how);
-- calling it runs forward. `own` names its parameters, which are leaves with gradients, `kept` its
-- buffers, which are saved and copied like parameters but have none, and `parts` the layers that it
-- is made of. A field that is nil is left out.
--
-- `how`, the second argument of forward, is a plain table or nil; see how.lua.

local class = require("moelua.class")
local expect = require("moelua.expect")
local traits = require("moelua.traits")

-- {name, tensor, layer, field} of the fields, then what `method` gives for the parts.
local function list_of(self, method, fields, prefix)
  prefix = prefix or ""
  local list = {}
  for _, field in ipairs(fields or {}) do
    if self[field] then list[#list + 1] = { prefix .. field, self[field], self, field } end
  end
  for _, child in ipairs(self:children()) do
    local more = child[2][method](child[2], prefix .. child[1])
    table.move(more, 1, #more, #list + 1, list)
  end
  return list
end

--- A class of layers: see the head of this file. It needs init and forward. With `slots`, names of
--- fields, the layers are userdata, which hold tensors there and check what becomes of them.
---@param name string
---@param slots string[]?
---@return table class
return function(name, slots)
  expect(type(name) == "string", "nn.layer_class", "name", "a string", name)
  local cls = slots and class.userdata(name, slots) or class(name)
  cls.__call = function(self, ...) return self:forward(...) end

  --- {prefix, layer} of every part, in order.
  function cls:children()
    local list = {}
    for _, field in ipairs(self.parts or {}) do
      if self[field] then list[#list + 1] = { field .. ".", self[field] } end
    end
    return list
  end

  --- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
  --- name; layer[field] is the tensor.
  function cls:parameters(prefix) return list_of(self, "parameters", self.own, prefix) end

  --- The buffers in the same form: tensors that belong to the layer as parameters do, but that no
  --- gradient changes.
  function cls:buffers(prefix) return list_of(self, "buffers", self.kept, prefix) end

  --- What has to happen after each update of the optimizer, as with the bias of a router.
  function cls:after_step()
    for _, child in ipairs(self:children()) do child[2]:after_step() end
  end

  --- What an output depends on, see traits.lua; in training with `train`.
  ---@param train boolean?
  ---@return { causal: boolean, coupled: string, group: integer|string|nil }
  function cls:traits(train)
    local list = {}
    for i, child in ipairs(self:children()) do list[i] = child[2]:traits(train) end
    return traits.join(list)
  end

  return cls
end
