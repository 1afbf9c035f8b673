-- soft.lua: every token goes to every expert.
--
--   g = softmax(l)

local soft = {}

soft.options = { capacity = false }

function soft.route(router, logits) return logits:topk_route(router.count, "all") end

function soft.slots(_, experts) return experts end

function soft.traits() return { causal = true, coupled = "no" } end

return soft
