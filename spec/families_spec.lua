-- Families of models against transformers: tiny random models with the logits that it gives for
-- them (spec/golden/families/make.py), and what becomes of them in our hands.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local json, system = core.json, core.system

local GOLDEN = "spec/golden/families/"

local function read_json(path) return assert(json.decode(assert(system.read(path)))) end

-- name -> the model_type that it is written as again.
local golden = { llama = "llama", ["llama-llama3"] = "llama", ["llama-yarn"] = "llama",
  ["llama-linear"] = "llama", ["llama-dynamic"] = "llama", ["llama-bias"] = "llama",
  ["llama-head_dim"] = "llama", ["llama-tied"] = "llama", mistral = "mistral",
  mixtral = "mixtral", ["mixtral-fused"] = "mixtral", olmoe = "olmoe", ["olmoe-clip"] = "olmoe",
  qwen2 = "qwen2", qwen3 = "qwen3", qwen2_moe = "qwen2_moe",
  ["qwen2_moe-sparse"] = "qwen2_moe", qwen3_moe = "qwen3_moe",
  ["qwen3_moe-raw"] = "qwen3_moe", ["qwen3_moe-fused"] = "qwen3_moe", deepseek = "deepseek" }
local names = {}
for name in pairs(golden) do names[#names + 1] = name end
table.sort(names)

for _, name in ipairs(names) do
  describe(name, function()
    local folder = GOLDEN .. name
    local m = assert(moe.load(folder))
    local expected = read_json(folder .. "/expected.json")
    local ids = expected.ids

    it("has the logits of transformers", function()
      helper.close(m:logits(ids), expected.logits, 5e-5)
    end)

    it("is written in its own family, and is the same again", function()
      local path = helper.tmpdir() .. "/model"
      assert(m:save(path))
      assert.equal(golden[name], read_json(path .. "/config.json").model_type)
      local again = assert(moe.load(path))
      models.same(m, again)
      assert.same(m.config, again.config)
      assert.equal(m:logits(ids):bytes(), again:logits(ids):bytes())
    end)
  end)
end
