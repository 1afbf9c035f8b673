-- The style sheet of a report: a printed page first (rules above and below tables, no boxes), a
-- dark screen second. Figures take their colours from here; bars and heat cells are SVG shapes,
-- because printers leave backgrounds out.

-- Eight hues that stay apart under the common kinds of colour blindness, each dark enough
-- (bright enough in the dark) to be read as text.
local LIGHT = { "#0067a3", "#b84a00", "#00765a", "#9c3f84", "#7d6000", "#3c3c3c", "#2b7fb8",
  "#8c1d3f" }
local DARK = { "#5db7f0", "#ff9a4d", "#3cc9a0", "#e290cb", "#dcb93c", "#d0d0d0", "#9ccdf2",
  "#f58aa5" }

local SHEET = [[
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#5a626b;--rule:#1b1f24;
--line:#dfe3e8;--wash:#f5f6f8;--good:#00765a;--bad:#b3261e;--open:#7d6000;@LIGHT@}
@media screen and (prefers-color-scheme:dark){
:root{--paper:#15181c;--ink:#e6e9ed;--soft:#9aa4af;--rule:#aeb6bf;--line:#2d333a;--wash:#1d2126;
--good:#3cc9a0;--bad:#ff8a80;--open:#dcb93c;@DARK@}
}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,
"Segoe UI","Helvetica Neue",Arial,"Liberation Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .6rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.6rem 0 .7rem}
p{margin:.5rem 0;max-width:46rem;overflow-wrap:anywhere}
.result{font-size:1.2rem;line-height:1.45}
.about,.note,figcaption,.empty,footer{color:var(--soft)}
.lines{white-space:pre-line}
figure{margin:0}figcaption{font-size:.875rem;line-height:1.45;margin-top:.4rem;max-width:54rem}
figcaption.above{margin:0 0 .5rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9375rem;font-variant-numeric:tabular-nums;
border-top:1.5px solid var(--rule);border-bottom:1.5px solid var(--rule)}
.scroll>table{min-width:100%}
th,td{padding:.34rem .9rem;text-align:right;white-space:nowrap}
th{font-weight:600;vertical-align:bottom}thead tr>*{border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{padding-left:.2rem}th:last-child,td:last-child{padding-right:.2rem}
th[scope=row]{font-weight:400;text-align:left;white-space:normal;overflow-wrap:break-word;
min-width:13rem;max-width:22rem}thead th:first-child{text-align:left}
th.domain{max-width:9rem;white-space:normal;overflow-wrap:break-word}
th small{display:block;font-weight:400;color:var(--soft);font-size:.8125rem}
td.none{color:var(--soft)}td strong{font-weight:700}
tbody tr+tr>*{border-top:1px solid var(--line)}
td.bar{padding-left:0;text-align:left;width:9rem;min-width:8.2rem}
.bar svg{display:block;width:8rem;min-width:8rem;height:10px}.bar rect{fill:var(--s1);opacity:.55}
.bar .best{opacity:1}
figure+figure{margin-top:1.6rem}
.narrow th,.narrow td{padding-left:.5rem;padding-right:.5rem}.narrow th[scope=row]{min-width:3rem}
.narrow td.load,.narrow th.load{padding-left:1rem;text-align:left;width:12rem}
.load svg{display:block;width:11rem;height:1.6rem}.load rect{fill:var(--s1);opacity:.7}
.terms{color:var(--soft);font-size:.875rem;line-height:1.45;max-width:54rem}
.terms strong{font-weight:600}
.load line{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 2;vector-effect:non-scaling-stroke}
.claims{list-style:none;margin:.3rem 0;padding:0;max-width:50rem}
.claims li{display:grid;grid-template-columns:1.7rem 1fr;padding:.45rem 0;
border-top:1px solid var(--line)}
.claims li:first-child{border-top:0}.claims .sign{font-weight:700;font-size:1.05rem}
.claims strong{font-weight:600;overflow-wrap:anywhere}
.claims .state{color:var(--soft);font-size:.875rem;margin-left:.5rem;white-space:nowrap}
.claims .detail{display:block;color:var(--soft);font-size:.9375rem;overflow-wrap:anywhere}
.yes .sign{color:var(--good)}.no .sign{color:var(--bad)}.open .sign{color:var(--open)}
.chart{display:block;width:100%;min-width:40rem;height:auto}
svg text{font-family:inherit;fill:var(--ink)}
.tick{font-size:11.5px;font-variant-numeric:tabular-nums}svg .tick,svg .label{fill:var(--soft)}
.label{font-size:12.5px}svg .faint{font-style:italic}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.curve{fill:none;stroke-width:2;stroke-linejoin:round}
svg .name{font-size:12px;font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px;
stroke-linejoin:round}
.leader{fill:none;stroke:var(--soft);stroke-width:.75}
.mark{stroke:var(--paper);stroke-width:1}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;margin:0 0 .6rem;padding:0;
font-size:.875rem}
.legend li{display:flex;align-items:center;gap:.4rem;overflow-wrap:anywhere}.key{flex:none}
.panels{display:flex;flex-wrap:wrap;gap:1.2rem 2rem;align-items:flex-end;margin-bottom:.9rem}
.heat{display:block}.panel{font-size:14px;font-weight:600}
.heat .cell{fill:var(--l)}.heat .lo,.heat .hi{font-size:11.5px;text-anchor:middle;
font-variant-numeric:tabular-nums}.heat .lo{fill:#1b1f24}.heat .hi{fill:#fff}
@media screen and (prefers-color-scheme:dark){
.heat .cell{fill:var(--d)}.heat .lo{fill:#e6e9ed}.heat .hi{fill:#10151b}}
dl{margin:.3rem 0;font-size:.9375rem}dt{color:var(--soft);overflow-wrap:anywhere}
dd{margin:0;overflow-wrap:anywhere}
.wide{columns:2;column-gap:3rem;display:block}.wide div{display:flex;gap:1rem;break-inside:avoid;
padding:.16rem 0;justify-content:space-between;border-bottom:1px solid var(--line)}
.wide dd{text-align:right}
pre{background:var(--wash);border:1px solid var(--line);border-radius:4px;padding:.6rem .8rem;
margin:.4rem 0;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere;
font:.875rem/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
footer{margin-top:3rem;padding-top:.6rem;border-top:1px solid var(--line);font-size:.8125rem}
@media (max-width:40rem){.wide{columns:1}main{padding:1.5rem 1rem}h1{font-size:1.5rem}}
@media print{@page{margin:18mm 16mm}html{font-size:10pt}main{max-width:none;padding:0}
h2{break-after:avoid}figure,table,.claims li,.heat{break-inside:avoid}
.scroll{overflow:visible}th,td{padding:.3rem .6rem}
.chart{min-width:0}.panels{gap:.8rem 1rem}.panels .heat{zoom:.78}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
]]

local function variables(colours)
  local out = {}
  for index, colour in ipairs(colours) do out[index] = "--s" .. index .. ":" .. colour end
  return table.concat(out, ";")
end

local function series_classes()
  local out = {}
  for index = 1, #LIGHT do
    local rule = "path.curve.s%d{stroke:var(--s%d)}.mark.s%d,svg text.name.s%d{fill:var(--s%d)}\n"
    out[index] = rule:format(index, index, index, index, index)
  end
  return table.concat(out)
end

return (SHEET:gsub("@(%u+)@", { LIGHT = variables(LIGHT), DARK = variables(DARK) }))
  .. series_classes()
