std = "lua54"
max_line_length = 100
exclude_files = { "build", "runs" }
files["spec"] = { std = "+busted" }
files["lua/moelua/meta"] = { ignore = { "111", "112", "211", "212", "431", "432", "241" } }
