"""The style of every page: a phone of 390 px, a desk, dark, and paper."""

STYLE = """
:root{--ink:#1b1f24;--muted:#4f5863;--paper:#fff;--soft:#f3f5f8;--line:#d0d7de;--accent:#0b5cad;--second:#8a4b00;
--bad:#a40e26;--good:#17652f;--warn:#7a4d00;--meant:#e4eefb}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--muted:#a3adb8;--paper:#0f141a;--soft:#171d25;--line:#323a44;
--accent:#6cb6ff;--second:#f0b072;--bad:#ff9a9a;--good:#7ee2a0;--warn:#f0c36d;--meant:#1b2b41}}
*{box-sizing:border-box}
body{font:17px/1.55 Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,serif;margin:0 auto;
padding:1.5rem 1rem 3rem;
max-width:64rem;color:var(--ink);background:var(--paper);overflow-wrap:break-word}
p,ul,h1,h2{max-width:44rem}
h1,h2,table,.eyebrow,.badge,.chart,.facts,footer,caption{font-family:system-ui,-apple-system,"Segoe UI",Roboto,
sans-serif}
h1{font-size:1.75rem;line-height:1.2;margin:.1rem 0 1rem;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:1.2rem;line-height:1.3;margin:2.5rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line);
max-width:none}
.eyebrow{font-size:.8rem;letter-spacing:.06em;text-transform:uppercase;color:var(--muted);margin:0}
.lead{font-size:1.15rem;line-height:1.5;margin:.4rem 0 1rem;padding-left:.9rem;border-left:4px solid var(--muted)}
.lead.act{border-color:var(--bad)}.lead.watch{border-color:var(--warn)}.lead.all-well{border-color:var(--good)}
.badge{display:inline-block;font-size:.95rem;margin-right:.35rem}
.badge.act,.worse,.firing{color:var(--bad)}.badge.watch,.suppressed{color:var(--warn)}
.badge.all-well,.better,.resolved{color:var(--good)}.muted,.said,.note{color:var(--muted)}
.said,.note{font-size:.92rem;margin:.3rem 0 1rem}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:1rem 0;padding:0}
.facts div{min-width:6rem}.facts dt{font-size:.8rem;color:var(--muted)}
.facts dd{margin:0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;margin:1rem 0;border:1px solid var(--line);border-radius:6px}
.wide:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.86rem;line-height:1.4}
caption{text-align:left;font-weight:600;padding:.6rem .7rem;font-size:.9rem}
th,td{text-align:left;padding:.4rem .7rem;border-top:1px solid var(--line);vertical-align:top}
thead th{font-weight:600;color:var(--muted);vertical-align:bottom;background:var(--soft)}
tbody th{font-weight:600;min-width:8rem}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.roomy{min-width:14rem}
small{color:var(--muted);font-size:.92em}.when{white-space:nowrap}td.n small{display:block}
.chart{margin:1.2rem 0;font-size:.82rem}figcaption{font-weight:600;font-size:.95rem;margin-bottom:.5rem}
.frame{display:grid;grid-template-columns:auto 1fr;column-gap:.5rem}
.ys{display:flex;flex-direction:column;justify-content:space-between;text-align:right;color:var(--muted);
font-variant-numeric:tabular-nums;line-height:1}
.ys span{height:0;line-height:0}
.xs{grid-column:2;display:flex;justify-content:space-between;color:var(--muted);margin-top:.3rem}
svg{display:block;overflow:visible}svg.plot{width:100%;height:11rem;background:var(--soft);border-radius:4px}
svg path{fill:none;vector-effect:non-scaling-stroke;stroke-linecap:round;stroke-linejoin:round;stroke:var(--accent)}
.s0{--c:var(--accent)}.s1{--c:var(--second)}rect.bar{fill:var(--c,var(--accent))}rect.past{opacity:.55}
path.line{stroke:var(--c);stroke-width:2}path.dashed{stroke:var(--c);stroke-width:2;stroke-dasharray:5 4}
path.dot{stroke:var(--c,var(--accent));stroke-width:7}
path.whisker{stroke:var(--c,var(--accent));stroke-width:2;opacity:.75}
path.reference{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:2 4}rect.meant{fill:var(--meant)}
path.grid{stroke:var(--line);stroke-width:1}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.5rem 0 0;max-width:none;color:var(--muted)}
.key span{display:inline-flex;align-items:center;gap:.4rem}.swatch{width:24px;height:12px;flex:none}
.chart .said{font-size:.86rem;margin:.35rem 0 0}
.meter,.interval,.spark{width:8rem;height:.9rem;margin-top:.2rem}.spark{height:1.7rem;background:var(--soft)}
rect.rail{fill:var(--line)}rect.within{fill:var(--accent)}rect.beyond{fill:var(--bad)}
path.over{fill:var(--bad);stroke:none}
path.limit{stroke:var(--ink);stroke-width:1.5;stroke-linecap:butt}path.away{--c:var(--bad)}
.spark path.line{stroke-width:1.5}
footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);font-size:.86rem;color:var(--muted)}
@media(max-width:40rem){body{font-size:16px;padding-top:1rem}h1{font-size:1.45rem}.meter,.interval,.spark{width:6rem}
svg.plot{height:9rem}th,td{padding:.35rem .5rem}
.wide table{min-width:40rem}}
@media print{:root{--ink:#000;--muted:#444;--paper:#fff;--soft:#fff;--line:#bbb;--accent:#0b5cad;--second:#8a4b00;
--bad:#a40e26;--good:#17652f;--warn:#7a4d00;--meant:#e4eefb}@page{margin:16mm 14mm}
body{font-size:10.5pt;max-width:none;padding:0}h1{font-size:18pt}
h2{font-size:13pt;margin-top:1.4rem;break-after:avoid}
.wide{overflow:visible;border:0}.wide table{min-width:0;font-size:8pt}th,td{padding:.2rem .3rem}tbody th{min-width:0}
caption{padding-left:.3rem;break-after:avoid}thead{display:table-header-group}tr,figure,.lead{break-inside:avoid}
.meter,.interval,.spark{width:4.5rem}svg.plot{height:8rem}.n{white-space:normal}.roomy{min-width:0}
.wide th,.wide td{overflow-wrap:anywhere}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
