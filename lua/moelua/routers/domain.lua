-- domain.lua: the expert of a token is that of its text's domain (Gururangan et al. 2021, "DEMix
-- layers").
--
--   expert = label of the sequence,   gate 1
--
-- Nothing is learnt here: the labels are known. A batch of one domain trains that domain's experts
-- and what all domains share; the others' experts get no gradient at all.

local core = require("moelua.core")

local domain = { weight = false }

domain.options = {
  domains = { "table", required = true },       -- their names; label i is that of the (i + 1)-th
  balance = false, z_loss = false, jitter = false, capacity = false,
}

function domain.check(opts, experts)
  local seen = {}
  for _, name in ipairs(opts.domains) do
    if type(name) ~= "string" or seen[name] then
      core.raise("router: domains must be different names, but there is %s%s", core.describe(name),
        seen[name] and " twice" or "")
    end
    seen[name] = true
  end
  if experts and #opts.domains ~= experts then
    core.raise("router: every domain has one expert: %d domains, %d experts", #opts.domains,
      experts)
  end
end

local function check_labels(labels, B, domains)
  if not labels then
    core.raise("router: the domains of the sequences are not known\nhint: layer(x, { labels = " ..
      "labels }), i32 [%d], 0 for %s; moe.train and moe.evaluate know them by the names of " ..
      "corpora", B, domains[1])
  end
  local shape = core.shape(labels)
  if #shape ~= 1 or shape[1] ~= B then
    core.raise("router: labels must be [%d], one for each sequence, not [%s]", B,
      table.concat(shape, " x "))
  end
  for _, label in ipairs(labels:totable()) do
    if label < 0 or label >= #domains then
      core.raise("router: label %d: there are %d domains, 0 to %d", label, #domains, #domains - 1)
    end
  end
end

function domain.route(router, _, how, x)
  local B, S = x:size(1), x:size(2)
  check_labels(how.labels, B, router.opts.domains)
  local each = how.labels:to("f32"):reshape(B, 1) + core.zeros(1, S)
  return core.ones(B * S, 1), each:to("i32"):reshape(B * S, 1)
end

function domain.slots() return 1 end

function domain.traits() return { causal = true, coupled = "no" } end

return domain
