-- domain_experts.lua: experts by domain that come and go (Gururangan et al. 2021, "DEMix layers").
--
--   local more = moe.add_expert(model, { name = "law", from = "code" })    -- then train it on law
--   local less = moe.remove_expert(model, "code")
--
-- A new expert begins as a copy of that of the closest domain and comes last; nothing else changes,
-- so that texts of the other domains get the same as before, bit for bit.

local core = require("moelua.core")
local expect = require("moelua.expect")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local raise = core.raise

local domain_experts = {}

local function is_by_domain(layer) return layer.router ~= nil and layer.router.kind == "domain" end

-- The number of a name in a list, nil when it is not there.
local function find(list, name)
  for i, known in ipairs(list) do
    if known == name then return i end
  end
end

local function need(where, domains, name)
  return find(domains, name) or
    raise("%s: the model has no domain '%s'%s", where, name, options.hint(name, domains))
end

-- The domains of the layers that route by them, which are the same in all.
local function domains_of(where, m)
  expect(getmetatable(m) == model.Model, where, "model", "a model", m)
  local domains
  for i, layer in ipairs(m.config.ffn) do
    local own = is_by_domain(layer) and layer.router.domains
    if own and domains and table.concat(own, "\n") ~= table.concat(domains, "\n") then
      raise("%s: layer %d has the domains %s, another %s", where, i, table.concat(own, ", "),
        table.concat(domains, ", "))
    end
    domains = domains or own or nil
  end
  return domains or raise("%s: no layer of the model has experts by domain\n" ..
    "hint: router = { kind = \"domain\", domains = { \"code\", \"prose\" } }", where)
end

-- The configuration with other domains.
local function config_with(config, domains)
  local list = {}
  for i, layer in ipairs(config.ffn) do
    list[i] = is_by_domain(layer) and options.merge(layer, { experts = #domains,
      router = options.merge(layer.router, { domains = domains }) }) or layer
  end
  return model.check_config(options.merge(config, { ffn = list }))
end

-- Copies expert from[e] of the old stack to place e of the new one.
local function copy_experts(new, old, from)
  for e, i in ipairs(from) do new:detach():select(1, e):copy_(old:detach():select(1, i)) end
end

-- The model with other domains, of which number e has the experts that number from[e] had.
local function rebuilt(m, domains, from)
  local out = model.Model(config_with(m.config, domains), m.embedding:dtype())
  local old = nn.saved(m)
  core.no_grad(function()
    for i, entry in ipairs(nn.saved(out)) do
      local number = tonumber(entry[1]:match("^layers%.(%d+)%.ffn%.experts%."))
      if number and is_by_domain(m.config.ffn[number + 1]) then
        copy_experts(entry[2], old[i][2], from)
      else
        entry[2]:copy_(old[i][2])
      end
    end
  end)
  out.tokenizer = m.tokenizer
  return out
end

--- A new model with one more expert by domain, as a copy of one that is there, in every layer that
--- routes by domain. Its domain comes last.
---@param m moelua.Model
---@param given { name: string, from: string }
---@return moelua.Model
function domain_experts.add(m, given)
  local domains = domains_of("add_expert", m)
  local opts = options.check("add_expert", given, { name = { "string", required = true },
    from = { "string", required = true } })
  if find(domains, opts.name) then
    raise("add_expert: the model has the domain '%s' already", opts.name)
  end
  local source, from = need("add_expert", domains, opts.from), {}
  for e = 1, #domains do from[e] = e end
  domains, from[#from + 1] = table.move(domains, 1, #domains, 1, {}), source
  domains[#domains + 1] = opts.name
  return rebuilt(m, domains, from)
end

--- A new model without the experts of a domain; the others keep their order.
---@param m moelua.Model
---@param name string
---@return moelua.Model
function domain_experts.remove(m, name)
  local domains, left, from = domains_of("remove_expert", m), {}, {}
  expect(type(name) == "string", "remove_expert", "name", "the name of a domain", name)
  local gone = need("remove_expert", domains, name)
  if #domains == 1 then raise("remove_expert: '%s' is the only domain of the model", name) end
  for e, domain in ipairs(domains) do
    if e ~= gone then left[#left + 1], from[#from + 1] = domain, e end
  end
  return rebuilt(m, left, from)
end

return domain_experts
