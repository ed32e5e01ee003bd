"""The look of a report's page: a paper's, on screen and on A4."""

CSS = """
:root { --ink: #1c1c1c; --soft: #5a5a5a; --line: #c9c9c9; --rule: #2b2b2b; }
* { box-sizing: border-box; }
html { background: #fff; color-scheme: light; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 3em 1.5em 5em; max-width: 60em; background: #fff; color: var(--ink);
  font: 16px/1.55 Charter, "Bitstream Charter", Cambria, "Liberation Serif", "Times New Roman", serif; }
h1, h2, table, figcaption, .caption, .notes, .notice, nav, .subtitle { font-family: "Helvetica Neue", Arial,
  "Liberation Sans", sans-serif; }
h1 { margin: 0 0 .3em; font-size: 1.75em; line-height: 1.2; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 2.6em 0 .7em; padding-top: .5em; border-top: 1px solid var(--line); font-size: 1.2em; line-height: 1.3;
  font-weight: 600; }
p, ul { max-width: 46em; margin: .8em 0; overflow-wrap: anywhere; }
ul { padding-left: 1.3em; }
li { margin: .3em 0; }
.subtitle { margin: 0 0 1.4em; max-width: none; color: var(--soft); font-size: .875em; }
.subtitle + p { margin: 1.2em 0; max-width: none; font-size: 1.06em; }
nav { margin: 1.6em 0 0; font-size: .8125em; line-height: 1.9; color: var(--soft); }
nav a { margin-right: 1.1em; white-space: nowrap; color: var(--soft); }
a { color: #1f4e79; }
.notice { margin: 1.6em 0; padding: .9em 1.2em 1em; border: 2px solid #b03a00; border-left-width: 10px;
  background: #fff4ea; font-size: .9375em; line-height: 1.5; -webkit-print-color-adjust: exact;
  print-color-adjust: exact; }
.notice strong { display: block; margin-bottom: .3em; color: #8a2d00; font-size: 1.1em; }
.notice ul { max-width: none; margin: 0; }
.calm { border: 1px solid var(--line); border-left-width: 6px; background: #f6f6f6; }
.calm strong { color: var(--ink); }
.table { margin: 1.8em 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .8125em; line-height: 1.35; border-bottom: 1.5px solid var(--rule);
  font-variant-numeric: tabular-nums lining-nums; }
.caption { margin: 0 0 .6em; max-width: 60em; font-size: .8375em; line-height: 1.45; }
.caption b, figcaption b { font-weight: 600; }
thead tr:first-child th { border-top: 1.5px solid var(--rule); }
thead tr:last-child th { border-bottom: 1px solid var(--rule); }
th, td { padding: .32em .55em; text-align: left; vertical-align: baseline; }
tbody th, thead tr:first-child th:first-child { padding-left: 0; }
th { font-weight: 600; vertical-align: bottom; }
.long { min-width: 9em; overflow-wrap: anywhere; }
.whole { white-space: nowrap; }
th.group { padding-bottom: .15em; }
th.group span { display: block; border-bottom: 1px solid var(--line); padding-bottom: .15em; }
thead tr.under th { font-weight: 400; color: var(--soft); padding-top: .15em; }
tbody th { font-weight: 400; vertical-align: baseline; min-width: 6em; max-width: 24em; }
td { max-width: 46em; }
th.number, td.number { text-align: right; }
td.number, td.ends { white-space: nowrap; }
.value { display: inline-block; text-align: right; }
.interval { display: inline-block; margin-left: .35em; color: var(--soft); font-size: .92em; white-space: nowrap; }
.facts td { font-family: "Liberation Mono", Menlo, Consolas, monospace; font-size: .92em; overflow-wrap: anywhere; }
.facts table { border-top: 1.5px solid var(--rule); }
.facts th, .facts td { padding-top: .16em; padding-bottom: .16em; }
.facts tbody th { width: 22em; overflow-wrap: anywhere; }
.notes { margin: .5em 0 0; max-width: 60em; color: var(--soft); font-size: .78em; line-height: 1.45; }
figure { margin: 2em 0; }
figure img { display: block; max-width: 100%; height: auto; }
.wide img { position: relative; left: 50%; transform: translateX(-50%); max-width: calc(100vw - 4em); }
figcaption { margin-top: .5em; max-width: 56em; font-size: .8125em; line-height: 1.45; }
pre { margin: 1em 0; padding: .7em .9em; background: #f4f4f4; border: 1px solid #e2e2e2; white-space: pre-wrap;
  font: .84em/1.5 "Liberation Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@page { size: A4; margin: 18mm 16mm 18mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; line-height: 1.42; }
  nav { display: none; }
  a { color: inherit; text-decoration: none; }
  h1 { font-size: 17pt; }
  h2 { margin-top: 1.8em; break-after: avoid; }
  p, ul, .notes, figcaption { max-width: none; orphans: 3; widows: 3; }
  .table { overflow: visible; margin: 1.3em 0; }
  .caption { font-size: 8pt; break-after: avoid; }
  table { font-size: 7.4pt; }
  .notes { font-size: 7pt; break-before: avoid; }
  th, td { padding: .26em .4em; }
  thead { display: table-header-group; }
  tr, figure, .notice, pre { break-inside: avoid; }
  .short { break-inside: avoid; }
  figure { margin: 1.3em 0; }
  .wide img { position: static; transform: none; max-width: 100%; }
  figcaption { font-size: 8pt; }
}
"""
"""The style sheet; it asks for fonts that machines have, and for nothing from anywhere else."""
