-- gguf_names.lua: what GGUF calls the tensors of a model, the same for every architecture, and the
-- order of rows in queries and keys. %d is the number of the layer, from 0.

local core = require("moelua.core")

local names = {}

--- Our names -> those of GGUF; what belongs to a layer without "layers.N." here and "blk.N." there.
names.stored = {
  ["embedding"] = "token_embd.weight", ["norm"] = "output_norm.weight",
  ["head"] = "output.weight",
  ["attention_norm"] = "attn_norm.weight", ["ffn_norm"] = "ffn_norm.weight",
  ["attention.q"] = "attn_q.weight", ["attention.q_bias"] = "attn_q.bias",
  ["attention.k"] = "attn_k.weight", ["attention.k_bias"] = "attn_k.bias",
  ["attention.v"] = "attn_v.weight", ["attention.v_bias"] = "attn_v.bias",
  ["attention.o"] = "attn_output.weight", ["attention.o_bias"] = "attn_output.bias",
  ["attention.q_norm"] = "attn_q_norm.weight", ["attention.k_norm"] = "attn_k_norm.weight",
  ["ffn.w1"] = "ffn_gate.weight", ["ffn.w1_bias"] = "ffn_gate.bias",
  ["ffn.w3"] = "ffn_up.weight", ["ffn.w3_bias"] = "ffn_up.bias",
  ["ffn.w2"] = "ffn_down.weight", ["ffn.w2_bias"] = "ffn_down.bias",
  ["ffn.router"] = "ffn_gate_inp.weight",
  ["ffn.experts.w1"] = "ffn_gate_exps.weight", ["ffn.experts.w3"] = "ffn_up_exps.weight",
  ["ffn.experts.w2"] = "ffn_down_exps.weight",
  ["ffn.shared.w1"] = "ffn_gate_shexp.weight", ["ffn.shared.w3"] = "ffn_up_shexp.weight",
  ["ffn.shared.w2"] = "ffn_down_shexp.weight", ["ffn.shared_gate"] = "ffn_gate_inp_shexp.weight",
}

local ours = {}
for name, stored in pairs(names.stored) do ours[stored] = name end

--- The name in a GGUF file of a parameter of ours; nil when there is none.
---@param name string "layers.0.attention.q"
---@return string?
function names.of(name)
  local layer, rest = name:match("^layers%.(%d+)%.(.*)$")
  local stored = names.stored[rest or name]
  return stored and (layer and ("blk.%s.%s"):format(layer, stored) or stored)
end

--- The parameter of ours that a name in a GGUF file means, and the expert (from 0) when a file of
--- 2023 keeps each by itself; nil when it means none.
---@param stored string "blk.0.attn_q.weight"
---@return string?
---@return integer?
function names.ours(stored)
  local layer, rest = stored:match("^blk%.(%d+)%.(.*)$")
  if not layer then return ours[stored] end
  local name = ours[rest]
  if name then return ("layers.%s.%s"):format(layer, name) end
  local part, expert = rest:match("^(ffn_%l+)%.(%d+)%.weight$")
  name = part and ours[part .. "_exps.weight"]
  if name then return ("layers.%s.%s"):format(layer, name), math.tointeger(expert) end
end

-- Rows of a head of D stand in pairs (i, i + D/2) in Hugging Face directories and as neighbours
-- (2i, 2i + 1) in GGUF files of the architectures that rotate neighbours.
local function order(rows, D, place)
  local list = {}
  for head = 0, rows - D, D do
    for i = 0, D // 2 - 1 do
      for side = 0, 1 do
        local apart, beside = head + side * (D // 2) + i, head + 2 * i + side
        place(list, apart, beside)
      end
    end
  end
  return core.tensor(list):to("i32")
end

--- Where in the GGUF tensor each row of the Hugging Face one is, as an i32 tensor.
---@param rows integer
---@param head_dim integer even
function names.rows_here(rows, head_dim)
  return order(rows, head_dim, function(list, apart, beside) list[apart + 1] = beside end)
end

--- And the other way round.
function names.rows_there(rows, head_dim)
  return order(rows, head_dim, function(list, apart, beside) list[beside + 1] = apart end)
end

return names
