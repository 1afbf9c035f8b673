-- names_spec.lua: names that do not exist: what is suggested instead.
local moe = require("moelua")
local models = require("spec.models")
local support = require("spec.messages.support")
local fixtures = require("spec.messages.fixtures")

fixtures.checkpoints()

local corpus, layer = models.corpus(), moe.nn.Linear(2, 3)

function support.add(env)
  env.corpus, env.layer, env.tok = corpus, layer, moe.tokenizer.bytes()
  env.optimizer, env.scope = moe.optimizer(layer), moe.scope()
  env.scope:close()
  env.file = assert(moe.checkpoint.open(env.DIR .. "/weights.safetensors"))
end

describe("messages about names", function()
  support.rows {
    { [[local y = x:softmx(-1)]],
      "attempt to call a nil value (method 'softmx')\n" ..
      "hint: did you mean 'softmax'?" },
    { [[local y = moe.rnadn(2)]],
      "attempt to call a nil value (field 'rnadn')\n" ..
      "hint: did you mean 'randn'?" },
    { [[local y = moe.sofmax(x, -1)]],
      "attempt to call a nil value (field 'sofmax')\n" ..
      "hint: did you mean 'softmax'?" },
    { [[local y = moe.nn.Linaer(2, 3)]],
      "attempt to call a nil value (field 'Linaer')\n" ..
      "hint: did you mean 'Linear'?" },
    { [[return m:genrate("a")]],
      "attempt to call a nil value (method 'genrate')\n" ..
      "hint: did you mean 'generate'?" },
    { [[return m:lgits({ 1 })]],
      "attempt to call a nil value (method 'lgits')\n" ..
      "hint: did you mean 'logits'?" },
    { [[return corpus:token()]],
      "attempt to call a nil value (method 'token')\n" ..
      "hint: did you mean 'tokens'?" },
    { [[return file:tenso("a")]],
      "attempt to call a nil value (method 'tenso')\n" ..
      "hint: did you mean 'tensor'?" },
    { [[return file:tensor("lm_hed.weight")]],
      "[missing] tensor: DIR/weights.safetensors: no tensor `lm_hed.weight`\n" ..
      "hint: did you mean 'lm_head.weight'?" },
    { [[return moe.data.corpsu { path = "." }]],
      "attempt to call a nil value (field 'corpsu')\n" ..
      "hint: did you mean 'corpus'?" },
    { [[return moe.checkpoint.opne("a")]],
      "attempt to call a nil value (field 'opne')\n" ..
      "hint: did you mean 'open'?" },
    { [[return moe.tokenizer.byte()]],
      "attempt to call a nil value (field 'byte')\n" ..
      "hint: did you mean 'bytes'?" },
    { [[local y = moe.trian(m, {})]],
      "attempt to call a nil value (field 'trian')\n" ..
      "hint: did you mean 'train'?" },
    { [[local y = x:view(6)]],
      "attempt to call a nil value (method 'view')\n" ..
      "hint: x:reshape(...)" },
    { [[local y = x:permute(2, 1)]],
      "attempt to call a nil value (method 'permute')\n" ..
      "hint: x:transpose(1, 2) swaps two dimensions" },
    { [[return m:state_dict()]],
      "attempt to call a nil value (method 'state_dict')\n" ..
      "hint: model:save(folder)" },
    { [[return moe.load_state_dict("a")]],
      "attempt to call a nil value (field 'load_state_dict')\n" ..
      "hint: moe.load(folder)" },
    { [[local y = scope:keeep(x)]],
      "attempt to call a nil value (method 'keeep')\n" ..
      "hint: did you mean 'keep'?" },
    { [[local y = moe.study.opne(1)]],
      "attempt to call a nil value (field 'opne')\n" ..
      "hint: did you mean 'open'?" },
    { [[local y = tok:encod("a")]],
      "attempt to call a nil value (method 'encod')\n" ..
      "hint: did you mean 'encode'?" },
    { [[local y = optimizer:stepp()]],
      "attempt to call a nil value (method 'stepp')\n" ..
      "hint: did you mean 'step'?" },
    { [[local y = layer:paramters()]],
      "attempt to call a nil value (method 'paramters')\n" ..
      "hint: did you mean 'parameters'?" },
    { [[local y = moe.something_else()]],
      "attempt to call a nil value (field 'something_else')" },
  }
end)
