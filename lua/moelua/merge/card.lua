-- merge/card.lua: the README.md of a merged model, as hubs of models want it: what it was made of
-- and how, and nothing about how good it is.

local core = require("moelua.core")

local card = {}

-- Papers of the methods, by arXiv number.
local PAPERS = { linear = "2203.05482", task_arithmetic = "2212.04089", ties = "2306.01708",
  dare_linear = "2311.03099", dare_ties = "2311.03099", della = "2406.11617",
  della_linear = "2406.11617", breadcrumbs = "2312.06795", breadcrumbs_ties = "2312.06795",
  model_stock = "2403.19522", sce = "2408.07990" }

-- The name of a model on a hub: owner/name, as it was written or as its configuration knows it.
local function hub_name(model)
  for _, text in ipairs { model.path, model.hf._name_or_path } do
    if type(text) == "string" and text:find("^[%w][%w._-]*/[%w._-]+$") and
      not core.system.exists(text) then
      return text
    end
  end
end

local function front_matter(models)
  local out = { "---" }
  local names = {}
  for _, model in ipairs(models) do names[#names + 1] = hub_name(model) end
  if #names > 0 then out[#out + 1] = "base_model:" end
  for _, name in ipairs(names) do out[#out + 1] = "- " .. name end
  for _, line in ipairs { "library_name: transformers", "tags:", "- moelua", "- merge", "---" } do
    out[#out + 1] = line
  end
  return table.concat(out, "\n")
end

local function method_text(method)
  if type(method) == "function" then return "a function of its own" end
  local paper = PAPERS[method]
  local text = ("the method `%s`"):format(method)
  return paper and ("%s ([paper](https://arxiv.org/abs/%s))"):format(text, paper) or text
end

local function stage_text(each)
  local base = each.stage.base
  local text = ("%s with %s%s, from:\n\n"):format(each.stage.name and "`" .. each.stage.name ..
    "` was merged" or "It was merged", method_text(each.stage.method),
    base and (" and `%s` as its base"):format(base) or "")
  local lines = {}
  for i, model in ipairs(each.models) do
    lines[i] = ("- `%s`"):format(hub_name(model) or model.path:match("[^/]+$") or model.path)
  end
  return text .. table.concat(lines, "\n")
end

--- The text of the card.
---@param name string of the model
---@param plans table[] of plan.lua
---@param configuration string YAML
function card.text(name, plans, configuration)
  local models, seen = {}, {}
  for _, each in ipairs(plans) do
    if each.stage.name then seen[each.stage.name] = true end
  end
  for _, each in ipairs(plans) do
    for _, model in ipairs(each.models) do
      if not seen[model.path] then models[#models + 1] = model end
      seen[model.path] = true
    end
  end
  local parts = { front_matter(models), "# " .. name,
    "This is a merge of language models, made with moelua." }
  for _, each in ipairs(plans) do parts[#parts + 1] = stage_text(each) end
  parts[#parts + 1] = "## Configuration"
  parts[#parts + 1] = "```yaml\n" .. configuration:gsub("%s+$", "") .. "\n```"
  return table.concat(parts, "\n\n") .. "\n"
end

return card
