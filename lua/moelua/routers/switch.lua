-- switch.lua: one expert per token (Fedus et al. 2021).
--
--   y = p_i E_i(x),  i = argmax l,  p = softmax(l)
--
-- The other settings of the paper are the defaults here: capacity 1.25 S / N in training (a token
-- beyond it gets 0, the residual passes it on), a balance loss of 0.01 N sum f_i P_i with f_i the
-- share of tokens, jitter 0.01, and a weight that begins ten times smaller. The paper evaluates
-- with capacity = { evaluation = 2.0 }; without that, nothing is dropped there.

local switch = {}

switch.options = {
  balance = { "table|boolean", { form = "switch", coef = 0.01 } },
  capacity = { "table|boolean", { factor = 1.25, formula = "flaxformer" } },
  jitter = { "number", 1e-2 },
}
switch.init_scale = 0.1

function switch.route(_, logits) return logits:topk_route(1, "all") end

function switch.slots() return 1 end

function switch.traits() return { causal = true, coupled = "no" } end

return switch
