-- Families of models against transformers: tiny random models with the logits that it gives for
-- them (spec/golden/families/make.py), and what becomes of them in our hands.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local json, system = core.json, core.system

local KvCache = require("moelua.kv_cache")
local flops = require("moelua.flops")
local gguf_export = require("moelua.gguf_export")
local outline = require("moelua.outline")

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

    it("computes the same token by token, alone and among others", function()
      local most = math.min(#ids, m.config.context)
      local short = table.move(ids, 1, most, 1, {})
      local want = m:logits(short)
      local cache = KvCache(m.config, { batch = 2, room = most })
      local first = most // 2
      local prompt = { table.move(short, 1, first, 1, {}), table.move(short, 1, first, 1, {}) }
      m:logits(moe.tensor({ prompt[1] }, "i32"), nil, cache:only(1))
      m:logits(moe.tensor({ prompt[2] }, "i32"), nil, cache:only(2))
      for i = first + 1, most do
        local row = m:logits(moe.tensor({ { short[i] }, { short[i] } }, "i32"), nil, cache)
        helper.close(row:select(1, 1):select(1, 1), want:select(1, i), 5e-5)
        assert.equal(row:select(1, 1):contiguous():bytes(), row:select(1, 2):contiguous():bytes())
      end
      local out = m:generate_ids(prompt[1], { max_tokens = 2, temperature = 0 })
      assert.equal(want:select(1, first):argmax(-1):item(), out[1])
    end)

    it("has the same loss and gradients when blocks run twice", function()
      local config = {}
      for k, v in pairs(m.config) do config[k] = v end
      config.recompute = true
      local twice = require("moelua.model").Model(config)
      moe.no_grad(function()
        for i, entry in ipairs(moe.nn.saved(twice)) do
          entry[2]:copy_(moe.nn.saved(m)[i][2])
        end
      end)
      local once, x = m:copy(), moe.tensor({ ids }, "i32")
      local a, b = once:loss(x, x), twice:loss(x, x)
      assert.equal(a:bytes(), b:bytes())
      a:backward()
      b:backward()
      for i, entry in ipairs(once:parameters()) do
        local grad = entry[2]:grad()
        assert.is_truthy(grad, entry[1] .. " has no gradient")
        assert.equal(grad:bytes(), twice:parameters()[i][2]:grad():bytes(), entry[1])
      end
    end)

    it("is counted and listed as it is", function()
      local total, all = 0, moe.nn.saved(m)
      for i, entry in ipairs(outline(m.config)) do
        assert.equal(all[i][1], entry.name)
        assert.same(all[i][2]:shape(), entry.shape)
        total = total + all[i][2]:count()
      end
      assert.equal(#all, #outline(m.config))
      local counted, active = m:count()
      assert.equal(total, counted)
      assert.is_true(active <= counted and active > 0)
      assert.is_true(flops.per_token(m.config) > 6 * m.config.dim * m.config.vocab)
    end)

    it("is the same model in GGUF, where llama.cpp has it", function()
      local path = helper.tmpdir() .. "/model.gguf"
      local done, message, code = gguf_export.write(m, path, { dtype = "f32" })
      if not done then
        assert.matches("^export: ", message)
        assert.equal("unsupported", code)
        return
      end
      local again = assert(moe.load(path))
      models.same(m, again)
      assert.equal(m:logits(ids):bytes(), again:logits(ids):bytes())
      assert.equal(path, again.path)
    end)

    it("stays mapped in 16 bits, and shares its tensors with a twin", function()
      local half = assert(moe.load(folder, { dtype = "bf16" }))
      for i, entry in ipairs(half:parameters()) do
        local mine = m:parameters()[i][2]:detach()
        assert.equal(mine:bytes(), entry[2]:detach():to("f32"):bytes(), entry[1])
      end
      helper.close(half:logits(ids), expected.logits, 2e-4)
      assert.equal(m:logits(ids):bytes(), half:to("f32"):logits(ids):bytes())
      local twin = m:with_ffn(function() end)
      assert.equal(m:logits(ids):bytes(), twin:logits(ids):bytes())
    end)
  end)
end
