-- models_spec.lua: models, layers and mixtures that cannot be made or do not fit together.
local models = require("spec.models")
local support = require("spec.messages.support")

local wide, deep = models.tiny({ hidden = 32 }), models.tiny({ layers = 3 })
local heads, mixture = models.tiny({ heads = 4 }), models.tiny({ ffn = models.mixture() })
local larger = models.tiny({ vocab = 300 })

function support.add(env)
  env.wide, env.deep, env.heads, env.mixture = wide, deep, heads, mixture
  env.larger = larger
end

describe("messages about models", function()
  support.rows {
    { [[moe.model.new()]],
      "moe.model.new: option 'context' is missing: integer expected" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 2, hidden = 8, vocab = 16 }]],
      "moe.model.new: option 'context' is missing: integer expected" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 2, hiden = 8, vocab = 16, context = 8 }]],
      "moe.model.new: unknown option 'hiden'\n" ..
      "hint: did you mean 'hidden'?" },
    { [[moe.model.new { dim = "8", layers = 1, heads = 2, hidden = 8, vocab = 16, context = 8 }]],
      "moe.model.new: option 'dim' has the wrong type: integer expected, got \"8\"" },
    { [[moe.model.new { dim = 0, layers = 1, heads = 2, hidden = 8, vocab = 16, context = 8 }]],
      "moe.model.new: dim must be at least 1, not 0" },
    { [[moe.model.new { dim = 9, layers = 1, heads = 2, hidden = 8, vocab = 16, context = 8 }]],
      "moe.model.new: dim 9 is not divisible by 2 heads\n" ..
      "hint: or give head_dim" },
    { [[moe.model.new { dim = 6, layers = 1, heads = 2, hidden = 8, vocab = 16, context = 8 }]],
      "moe.model.new: head_dim must be even for rotary positions, not 3" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 4, kv_heads = 3, hidden = 8, vocab =
      16, context = 8 }]],
      "moe.model.new: 4 heads cannot share 3 kv_heads" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 2, vocab = 16, context = 8 }]],
      "moe.model.new: the width of the feed-forward layers is missing\n" ..
      "hint: hidden = 32" },
    { [[moe.model.new { dim = 8, layers = 2, heads = 2, vocab = 16, context = 8, ffn = { {
      hidden = 8 } } }]],
      "moe.model.new: ffn lists 1 layers, but the model has 2" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 2, vocab = 16, context = 8, ffn = {
      kind = "mor", hidden = 8 } }]],
      "ffn: option 'kind' is 'mor': unknown\n" ..
      "hint: did you mean 'moe'?" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 2, vocab = 16, context = 8, ffn = {
      kind = "moe", hidden = 8 } }]],
      "moe.model.new: a mixture of experts needs experts = N" },
    { [[moe.model.new { dim = 8, layers = 1, heads = 2, vocab = 16, context = 8, ffn = {
      experts = 4, hidden = 8 } }]],
      "moe.model.new: a dense layer has no option 'experts'\n" ..
      "hint: kind = \"moe\"" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, router = { kind = "topkk" } }]],
      "router: option 'kind' is 'topkk': unknown\n" ..
      "hint: did you mean 'topk'?" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, router = { k = 5 } }]],
      "router: k must be 1 to the number of experts: 5 of 4" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, router = { gate = "sofmax" } }]],
      "router: option 'gate' is 'sofmax': unknown\n" ..
      "hint: known are selected, all, sigmoid" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, router = { balance = { from = "btx" } } }]],
      "router.balance: unknown option 'from'\n" ..
      "hint: did you mean 'form'?" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, router = { balance = { form =
      "swich" } } }]],
      "router.balance: option 'form' is 'swich': unknown\n" ..
      "hint: did you mean 'switch'?" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, router = { balance = 0.01 } }]],
      "router: option 'balance' has the wrong type: table or boolean expected, got 0.01" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, shared = { expert = 1 } }]],
      "nn.MoE: shared: unknown option 'expert'\n" ..
      "hint: did you mean 'experts'?" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, segments = 3 }]],
      "nn.MoE: experts of hidden = 4 cannot be cut into 3 segments" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 4, segments = 2,
      router = { kind = "switch" } }]],
      "nn.MoE: segments go with a router that chooses k experts, not with 'switch'\n" ..
      "hint: give the experts and hidden that come of it" },
    { [[moe.nn.FeedForward { dim = 8, hidden = 4, activation = "gelo" }]],
      "nn.FeedForward: option 'activation' is 'gelo': unknown\n" ..
      "hint: did you mean 'gelu'?" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 2 }(x)]],
      "nn.MoE: the last dimension of x must be dim = 8: x is [2 x 3]" },
    { [[moe.nn.MoE { dim = 8, hidden = 4, experts = 2 }()]],
      "shape: x must be a tensor, not nil" },
    { [[moe.nn.Linear(3, 2)(moe.ones(2, 4))]],
      "linear: inner dimensions differ: [2 x 4] x transposed [2 x 3]" },
    { [[moe.nn.Linear(3)]],
      "nn.Linear: output must be a size, not nil" },
    { [[moe.nn.Linear(3, 2, { bais = true })]],
      "nn.Linear: unknown option 'bais'\n" ..
      "hint: did you mean 'bias'?" },
    { [[moe.nn.RmsNorm("3")]],
      "nn.RmsNorm: dim must be a size, not \"3\"" },
    { [[m:logits("abc")]],
      "logits: token ids are expected, not text\n" ..
      "hint: model.tokenizer:encode(text)" },
    { [[m:logits({})]],
      "logits: no token ids" },
    { [[m:logits({ 1, 256 })]],
      "embedding: ids has 256 at position 2, but must be 0 to 255" },
    { [[m:logits({ 1, "b" })]],
      "tensor: element 2 must be a number, not \"b\"" },
    { [[m:logits(x)]],
      "embedding: ids is f32, but must be i32\n" ..
      "hint: ids:to(\"i32\")" },
    { [[m:generate("a", { temprature = 1 })]],
      "generate: unknown option 'temprature'\n" ..
      "hint: did you mean 'temperature'?" },
    { [[m:generate("a", { temperature = -1 })]],
      "generate: temperature must not be negative: -1" },
    { [[m:generate("a", { top_p = 0 })]],
      "generate: top_p must be above 0 and at most 1, not 0" },
    { [[m:generate("a", { max_tokens = 0 })]],
      "generate: max_tokens must be at least 1, not 0" },
    { [[m:generate("")]],
      "generate: the prompt is empty" },
    { [[m:generate({ 1, 2 })]],
      "generate: prompt must be a string, not a table\n" ..
      "hint: model:generate_ids(ids)" },
    { [[m.tokenizer = nil m:generate("a")]],
      "generate: the model has no tokenizer\n" ..
      "hint: model.tokenizer = moe.tokenizer.bytes()" },
    { [[m:generate_ids("abc")]],
      "generate: ids must be a list of token ids, not \"abc\"" },
    { [[moe.mix(m, m)]],
      "mix: a list of models is expected, not a Model\n" ..
      "hint: mix({ a, b })" },
    { [[moe.mix({})]],
      "mix: no models given" },
    { [[moe.mix({ m, "nowhere" })]],
      "[missing] load: nowhere is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { [[moe.mix({ m, larger })]],
      "mix: models 1 and 2 do not fit together: embedding is [256 x 16] in model 1 " ..
      "and [300 x 16] in model 2\n" ..
      "hint: all models must be trained from the same seed" },
    { [[moe.mix({ m, m }, { rest = 3 })]],
      "mix: rest is \"mean\" or the number of one of the 2 models, not 3" },
    { [[moe.mix({ m, m }, { split = 2, blend = true })]],
      "mix: layers are split or blended, not both" },
    { [[moe.mix({ m, m }, { freeze = { "expert" } })]],
      "mix: freeze has 'expert': unknown\n" ..
      "hint: did you mean 'experts'?" },
    { [[moe.upcycle(m)]],
      "upcycle: option 'experts' is missing: integer expected" },
    { [[moe.upcycle(mixture, { experts = 2 })]],
      "upcycle: layer 1 is a mixture already" },
    { [[moe.upcycle(m, { experts = 2, layers = "alternat" })]],
      "upcycle: layers is 'alternat': unknown\n" ..
      "hint: did you mean 'alternate'?" },
    { [[moe.upcycle(wide, { experts = 2, init = { by = "clusters", text = "some text" } })]],
      "upcycle.init: the model has no tokenizer\n" ..
      "hint: tokenizer = ..." },
    { [[assert(moe.export(m, "out"))]],
      "export: no layer is a mixture of experts\n" ..
      "hint: model:save writes a dense model as it is; moe.upcycle and moe.mix make mixtures" },
    { [[moe.export(mixture, "out", { format = "onnx" })]],
      "export: option 'format' is 'onnx': unknown\n" ..
      "hint: known are mixtral, gguf" },
    { [[moe.mix({ m, deep })]],
      "mix: models 1 and 2 do not fit together: layers is 2 in model 1 and 3 in model 2\n" ..
      "hint: all models must be trained from the same seed" },
    { [[moe.mix({ m, heads })]],
      "mix: models 1 and 2 do not fit together: heads is 2 in model 1 and 4 in model 2\n" ..
      "hint: all models must be trained from the same seed" },
    { [[moe.mix({ m, m }, { router = { k = 3 } })]],
      "router: k must be 1 to the number of experts: 3 of 2" },
    { [[moe.mix({ m, m }, { routr = {} })]],
      "mix: unknown option 'routr'\n" ..
      "hint: did you mean 'router'?" },
    { [[moe.mix({ mixture, mixture })]],
      "mix: layer 1 is a mixture already\n" ..
      "hint: Branch-Train-MiX starts from dense models" },
    { [[moe.average({ m, wide })]],
      "average: models 1 and 2 do not fit together: layers.0.ffn.w1 is [24 x 16] in model " ..
      "1 and [32 x 16] in model 2\n" ..
      "hint: all models must be trained from the same seed" },
    { [[moe.average({ m, 3 })]],
      "average: number 2 of the list must be a model, not 3" },
    { [[moe.optimizer({})]],
      "moe.optimizer: layer must be a layer or model, not a table" },
    { [[moe.optimizer(m, { learning_rate = 1 })]],
      "moe.optimizer: unknown option 'learning_rate'\n" ..
      "hint: known are beta1, beta2, clip, eps, lr, weight_decay" },
    { [[moe.flops.per_token(m)]],
      "flops.per_token: config must be model.config, not a Model" },
    { [[moe.schedule.rate({ kind = "cosin", lr = 1 }, 1, 2)]],
      "schedule: unknown kind 'cosin'\n" ..
      "hint: did you mean 'cosine'?" },
    { [[m:save()]],
      "save: folder must be the path of a folder, not nil" },
    { [[m:save("DIR", { dtype = "f8" })]],
      "checkpoint.save: option 'dtype' is 'f8': unknown\n" ..
      "hint: known are f32, bf16, f16" },
  }
end)
