-- merge/chat_template.lua: the chat template of a merged model: that of most of its models, one by
-- name, or one that is written out.

local core = require("moelua.core")

local json, system = core.json, core.system

local chat_template = {}

-- What turns a list of messages into text, for the formats that many models are tuned with.
local BY_NAME = {
  chatml = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + " ..
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}" ..
    "{{ '<|im_start|>assistant\\n' }}{% endif %}",
  llama3 = "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + " ..
    "message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}" ..
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant" ..
    "<|end_header_id|>\\n\\n' }}{% endif %}",
  mistral = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}" ..
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + " ..
    "eos_token }}{% endif %}{% endfor %}",
  alpaca = "{% for message in messages %}{% if message['role'] == 'user' %}" ..
    "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}{% elif message['role'] == " ..
    "'assistant' %}{{ '### Response:\\n' + message['content'] + '\\n\\n' }}{% else %}" ..
    "{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}" ..
    "{{ '### Response:\\n' }}{% endif %}",
}

--- The names that a configuration may use.
chat_template.names = { "alpaca", "auto", "chatml", "llama3", "mistral" }

--- Whether the text is one of the names, or a template.
function chat_template.is_one(text)
  return text == "auto" or BY_NAME[text] ~= nil or text:find("{[{%%]") ~= nil
end

-- The template of a model; nil when it has none.
local function of_model(model)
  local file = system.read(model.path .. "/chat_template.jinja")
  if file then return file end
  local text = system.read(model.path .. "/tokenizer_config.json")
  local config = text and json.decode(text)
  local template = type(config) == "table" and config.chat_template
  return type(template) == "string" and template or nil
end

-- That of most models; of those that are as frequent, the first.
local function most_common(models)
  local count, order = {}, {}
  for _, model in ipairs(models) do
    local template = of_model(model)
    if template then
      if not count[template] then order[#order + 1] = template end
      count[template] = (count[template] or 0) + 1
    end
  end
  local best
  for _, template in ipairs(order) do
    if not best or count[template] > count[best] then best = template end
  end
  return best
end

--- Puts the template into the files of a tokenizer: name -> bytes. It goes into
--- tokenizer_config.json, which every version of the readers knows.
---@param files table changed
---@param wanted string? as the configuration has it; nil: nothing is changed
---@param models table[]
function chat_template.apply(files, wanted, models)
  if not wanted then return end
  local template = BY_NAME[wanted] or wanted
  if wanted == "auto" then template = most_common(models) end
  if not template then return end
  local text = files["tokenizer_config.json"]
  local config = text and json.decode(text)
  if type(config) ~= "table" or next(config) == nil or config[1] ~= nil then config = {} end
  config.chat_template = template
  files["tokenizer_config.json"] = json.encode(config, { indent = 2 }) .. "\n"
  files["chat_template.jinja"] = nil
end

return chat_template
