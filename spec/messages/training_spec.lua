-- training_spec.lua: training, evaluation and branches with what they cannot work with.
local models = require("spec.models")
local support = require("spec.messages.support")

local corpus, small = models.corpus(), models.tiny({ vocab = 100 })

function support.add(env) env.corpus, env.small = corpus, small end

describe("messages about training", function()
  support.rows {
    { [[moe.train()]],
      "moe.train: model must be a model, not nil" },
    { [[moe.train(m)]],
      "moe.train: option 'data' is missing" },
    { [[moe.train(m, { data = corpus })]],
      "moe.train: option 'steps' is missing: integer expected" },
    { [[moe.train(m, { data = corpus, steps = 0 })]],
      "moe.train: steps must be at least 1, not 0" },
    { [[moe.train(m, { data = corpus, steps = 1, eval_windows = 0 })]],
      "moe.train: eval_windows must be at least 1, not 0" },
    { [[moe.train(m, { data = corpus, steps = 1, lr = 0 })]],
      "moe.train: lr must be above 0, not 0" },
    { [[moe.train(m, { data = corpus, steps = 1, lr = 0/0 })]],
      "moe.train: lr must be above 0, not nan" },
    { [[moe.train(m, { data = corpus, steps = 1, lr = "fast" })]],
      "moe.train: option 'lr' has the wrong type: number expected, got \"fast\"" },
    { [[moe.train(m, { data = corpus, stpes = 1 })]],
      "moe.train: unknown option 'stpes'\n" ..
      "hint: did you mean 'steps'?" },
    { [[moe.train(m, { data = corpus, steps = 1, schedule = "cosin" })]],
      "moe.train: option 'schedule' is 'cosin': unknown\n" ..
      "hint: did you mean 'cosine'?" },
    { [[moe.train(m, { data = "text.txt", steps = 1 })]],
      "moe.train: data: a corpus or { name = corpus } is expected, not \"text.txt\"\n" ..
      "hint: moe.data.corpus { path = ... }" },
    { [[moe.train(m, { data = {}, steps = 1 })]],
      "moe.train: data is empty" },
    { [[moe.train(m, { data = { a = 3 }, steps = 1 })]],
      "moe.train: data.a must be a corpus, not 3" },
    { [[moe.train(m, { data = corpus, steps = 1, context = 100000 })]],
      "batch: split \"train\" has 6000 tokens: a context of 100000 needs 100001\n" ..
      "hint: give the corpus more text, or use a shorter context" },
    { [[moe.train(m, { data = corpus, steps = 1, batch = 0 })]],
      "moe.train: batch must be at least 1, not 0" },
    { [[moe.train(small, { data = corpus, steps = 1, quiet = true })]],
      "moe.train: corpus 'prose' has a vocabulary of 256, the model of 100" },
    { [[moe.train({ 1 }, { data = corpus, steps = 1 })]],
      "moe.train: model must be a model, not a table" },
    { [[moe.evaluate()]],
      "evaluate: model must be a model, not nil" },
    { [[moe.evaluate(m)]],
      "evaluate: a corpus or { name = corpus } is expected, not nil\n" ..
      "hint: moe.data.corpus { path = ... }" },
    { [[moe.evaluate(m, {})]],
      "evaluate: no corpus given" },
    { [[moe.evaluate(m, corpus, { split = "valid" })]],
      "moe.evaluate: option 'split' is 'valid': unknown\n" ..
      "hint: known are validation, test, train" },
    { [[moe.evaluate(m, corpus, { batch = 0 })]],
      "evaluate: batch must be at least 1, not 0" },
    { [[moe.evaluate(m, corpus, { windows = 0 })]],
      "evaluate: windows must be at least 1, not 0" },
    { [[moe.evaluate(small, corpus)]],
      "evaluate: corpus 'prose' has a vocabulary of 256, the model of 100" },
    { [[moe.evaluate("model", corpus)]],
      "evaluate: model must be a model, not \"model\"" },
    { [[moe.branch(m, { a = corpus }, { steps = 1 })]],
      "branch: option 'out' is missing: string expected" },
    { [[moe.branch(m, {}, { steps = 1, out = DIR .. "/b" })]],
      "branch: no domains given" },
    { [[moe.branch(m, { ["../a"] = corpus }, { steps = 1, out = DIR .. "/b" })]],
      "branch: a domain cannot be named '../a'\n" ..
      "hint: no /, and no . or _ in front" },
    { [[moe.branch(m, { a = corpus }, { steps = 1, out = DIR .. "/b", workers = 0 })]],
      "branch: workers must be at least 1, not 0" },
    { [[moe.branch(m, { a = corpus }, { steps = 1, out = DIR .. "/b", data = corpus })]],
      "branch: there is no option 'data': each domain has its own" },
    { [[moe.branch(m, { a = corpus }, { steps = 1, out = DIR .. "/b", on_step = print })]],
      "branch: option 'on_step' is a function, which cannot be handed to another process\n" ..
      "hint: put it into a module and name that in modules = {...}" },
    { [[moe.branch(m, { a = corpus }, { steps = 1, out = DIR .. "/b", bacth = 3 })]],
      "branch: unknown option 'bacth'\n" ..
      "hint: did you mean 'batch'?" },
    { [[moe.branch("nowhere", { a = corpus }, { steps = 1, out = DIR .. "/b" })]],
      "[missing] load: nowhere is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { [[moe.branch(3, { a = corpus }, { steps = 1, out = DIR .. "/b" })]],
      "branch: seed must be a model or the folder of one, not 3" },
    { [[moe.branch(m, corpus, { steps = 1, out = DIR .. "/b" })]],
      "branch: domains must be { name = corpus }, not a Corpus" },
  }
end)
