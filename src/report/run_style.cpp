// SPDX-License-Identifier: Apache-2.0
#include "report/run_style.h"

namespace moe {

const std::string_view kRunStyle = R"(
body { max-width: 76rem; overflow-wrap: anywhere; }
section { margin-top: 3rem; border-top: 1px solid var(--grid); padding-top: 1.2rem; }
section > h2 { font-size: 1.25rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 0 2.5rem; }
figure > h2 { font-size: 1rem; }
.unit { display: flex; justify-content: space-between; font-size: .75rem; color: var(--soft); margin: .35rem 0 .6rem; gap: 1rem; }
.chart { position: relative; height: 13rem; margin: 0 .5rem 1.7rem 3.1rem; touch-action: pan-y; }
.tall .chart { height: 21rem; }
.chart.both { margin-right: 3.1rem; }
.chart svg { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; overflow: visible; clip-path: inset(-5px); }
.chart path, .key path { fill: none; stroke: currentColor; vector-effect: non-scaling-stroke; }
.chart .grid { stroke: var(--grid); stroke-width: 1; }
.chart .raw { stroke-width: 1; opacity: .28; }
.chart .line, .key .line { stroke-width: 2; stroke-linejoin: round; }
.chart .dots { stroke-width: 7; stroke-linecap: round; }
.chart .event { stroke-width: 1.5; stroke-dasharray: 2 3; }
.chart .area, .key .area { fill: currentColor; stroke: none; }
.chart .area { stroke: var(--surface); stroke-width: .7; }
.chart .pale, .key .pale { filter: brightness(.7); }
.chart .hidden { display: none; }
.chart span { position: absolute; font-size: .75rem; line-height: 1; color: var(--soft); white-space: nowrap; font-variant-numeric: tabular-nums; }
.chart .yt { right: 100%; margin-right: .45rem; transform: translateY(-50%); }
.chart .rt { left: 100%; margin-left: .45rem; transform: translateY(-50%); }
.chart .xt { top: 100%; margin-top: .5rem; transform: translateX(-50%); }
.x-label { text-align: center; font-size: .75rem; color: var(--soft); }
.key { width: 22px; height: 10px; flex: none; overflow: visible; }
.legend { color: var(--ink); min-height: 1.3em; }
.scripted .legend span { cursor: pointer; }
.legend .off { opacity: .4; text-decoration: line-through; }
.rule { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--soft); pointer-events: none; }
.tip { position: absolute; top: .2rem; z-index: 2; pointer-events: none; background: var(--surface); color: var(--ink); border: 1px solid var(--grid); border-radius: 4px; padding: .3rem .5rem; font-size: .75rem; line-height: 1.35; box-shadow: 0 2px 8px #0003; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tip i, .numbers i { display: inline-block; width: .65em; height: .65em; border-radius: 50%; background: currentColor; margin-right: .4em; }
.tip div + div { display: flex; align-items: baseline; }
.tip b { margin-left: auto; padding-left: 1em; font-weight: 600; }
.numbers { margin: 1rem 0; }
.numbers th { color: var(--ink); font-weight: 600; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .9rem 1.6rem; }
.map b { font-size: .75rem; font-weight: 500; color: var(--soft); }
.map svg { width: 100%; max-width: none; outline: 1px solid var(--grid); margin-top: .2rem; shape-rendering: crispEdges; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--soft); }
td.text { white-space: normal; min-width: 6rem; }
td.value { white-space: normal; text-align: left; max-width: 22rem; }
@media (max-width: 30rem) {
  body { padding: 1rem .8rem 2rem; }
  .tiles { gap: .9rem 2rem; }
  .tiles b { font-size: 1.3rem; }
  .chart { margin-left: 2.7rem; margin-right: .2rem; }
  .chart.both { margin-right: 2.5rem; }
  .tall .chart { height: 15rem; }
}
@media print {
  :root { color-scheme: light; --surface: #fff; --ink: #000; --soft: #444; --grid: #ddd;
    --c1: #1a5fd8; --c2: #b8400a; --c3: #14a880; --c4: #43267f; --c5: #dd9200; --c6: #62b4f0; --c7: #33302e; --c8: #c98ab4; }
  body { max-width: none; padding: 0; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  figure, .map, tr { break-inside: avoid; }
  figure { margin-top: 1rem; }
  .chart { height: 9rem; }
  .tall .chart { height: 15rem; }
  .charts { grid-template-columns: 1fr 1fr; }
}
)";

const std::string_view kRunScript = R"(
(() => {
  'use strict';
  document.documentElement.classList.add('scripted');
  const text = v => {
    const size = Math.abs(v);
    if (size === 0) return '0';
    if (size < 1e-3) return v.toExponential(2);
    for (const [unit, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k']])
      if (size >= unit) return (v / (unit === 1e4 ? 1e3 : unit)).toPrecision(4) + letter;
    return String(Number(v.toPrecision(5)));
  };
  const points = path => {
    const n = path.getAttribute('d').match(/-?[\d.]+/g).map(Number);
    const all = [];
    for (let i = 0; i + 1 < n.length; i += 2) all.push([n[i], n[i + 1]]);
    return path.classList.contains('area') ? all.slice(0, -2) : all;
  };
  const nearest = (all, x) => {
    let low = 0, high = all.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (all[middle][0] < x) low = middle; else high = middle;
    }
    return x - all[low][0] < all[high][0] - x ? all[low] : all[high];
  };
  const element = (parent, tag, name) => {
    const e = document.createElement(tag);
    if (name) e.className = name;
    parent.append(e);
    return e;
  };
  for (const chart of document.querySelectorAll('.chart')) {
    const [x0, x1] = chart.dataset.x.split(' ').map(Number);
    const [y0, y1] = chart.dataset.y.split(' ').map(Number);
    const stacked = chart.dataset.stacked === '1';
    const value = top => chart.dataset.log === '1'
      ? y0 * Math.pow(y1 / y0, 1 - top / 1000) : y0 + (y1 - y0) * (1 - top / 1000);
    let curves, tip, rule;
    const leave = () => { if (tip) { tip.remove(); rule.remove(); tip = null; } };
    chart.addEventListener('pointermove', event => {
      curves ??= [...chart.querySelectorAll('[data-name]')].map(path => ({path, points: points(path)}));
      const shown = curves.filter(c => !c.path.classList.contains('hidden'));
      if (!shown.length) return leave();
      const box = chart.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const hits = shown.map(c => ({...c, at: nearest(c.points, share * 1000)}));
      const x = hits.reduce((a, b) =>
        Math.abs(b.at[0] - share * 1000) < Math.abs(a.at[0] - share * 1000) ? b : a).at[0];
      if (!tip) { rule = element(chart, 'div', 'rule'); tip = element(chart, 'div', 'tip'); }
      rule.style.left = x / 10 + '%';
      tip.replaceChildren();
      const at = x0 + (x1 - x0) * x / 1000;
      element(tip, 'div').textContent = text(x1 > 100 ? Math.round(at) : at) + ' ' + chart.dataset.label;
      hits.forEach((hit, i) => {
        const below = stacked && i + 1 < hits.length ? value(hits[i + 1].at[1]) : 0;
        const row = element(tip, 'div');
        element(row, 'i', [...hit.path.classList].find(name => /^c\d$/.test(name)));
        row.append(hit.path.dataset.name);
        element(row, 'b').textContent = text(value(hit.at[1]) - below);
      });
      const width = tip.offsetWidth, left = x / 1000 * box.width;
      const beside = x < 500 ? left + 12 : left - width - 12;
      tip.style.left = Math.max(-40, Math.min(beside, box.width - width)) + 'px';
    });
    chart.addEventListener('pointerleave', leave);
    // Areas lie above one another: without one of them the others would not be at their values.
    if (stacked) continue;
    for (const key of chart.closest('figure').querySelectorAll('.legend [data-key]'))
      key.addEventListener('click', () => {
        const off = key.classList.toggle('off');
        for (const path of chart.querySelectorAll('[data-name], [data-of]'))
          if ((path.dataset.name ?? path.dataset.of) === key.dataset.key)
            path.classList.toggle('hidden', off);
        leave();
      });
  }
})();
)";

}  // namespace moe
