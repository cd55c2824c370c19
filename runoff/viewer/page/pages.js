// The runs, a run's instances, and what a search finds. A page is {title, crumbs, element, changed(event), keys, close}.
import {h, put, address, count, dollars, tokens, took, cost} from './text.js';
import {ask, exported} from './data.js';
import {list, chips} from './list.js';
import {fold, plain} from './code.js';

export const SIGNS = {resolved: '✓', patch: '✓', 'not selected': '◐', infrastructure: '!', failed: '!', unfinished: '…', reading: '…', 'not graded': '?', abstained: '–', stopped: '…', budget: '$'};
const GOOD = new Set(['resolved', 'patch']), DOUBT = new Set(['unfinished', 'stopped', 'not graded', 'abstained', 'budget', 'none', 'reading', 'not known']);

// As `runoff show` says it: the fate where it is known whether it is right, else how the run says it ended.
export function fateOf(row) {
  if (!row) return 'reading';
  return (row.resolved !== null && row.resolved !== undefined) || !row.status ? row.fate : row.status;
}

export function tag(fate) {
  const kind = GOOD.has(fate) ? 'good' : DOUBT.has(fate) ? 'doubt' : 'bad';
  return h('span', {class: `tag ${kind}`}, `${SIGNS[fate] ?? '✗'} ${fate}`);
}

export async function runsPage() {
  const said = await ask('runs');
  if (said.alone) { location.replace(address('r', said.runs[0].path)); return null; }
  const query = filterBox('Filter runs');
  const table = list([
    {title: 'run', width: 'minmax(8rem, 3fr)', value: (row) => row.path, cell: (row) => row.path},
    {title: 'state', width: '8rem', value: (row) => row.state, cell: (row) => [h('span', {class: `dot ${row.state}`}), row.state]},
    {title: 'ended', width: '8rem', number: true, value: (row) => row.ended, cell: (row) => row.instances ? `${row.ended} of ${row.instances}` : '–'},
    {title: 'recipe', width: '9rem', wide: 700, value: (row) => row.recipe, cell: (row) => row.recipe || '–'},
    {title: 'models', width: 'minmax(10rem, 2fr)', wide: 900, value: (row) => row.models.join(' '), cell: (row) => row.models.join(', ')},
    {title: 'changed', width: '11rem', wide: 600, number: true, value: (row) => row.changed, cell: (row) => row.changed ? new Date(row.changed * 1000).toLocaleString('sv').slice(0, 16) : '–'},
  ], {sorted: 5, down: true, label: 'Runs', text: () => (row) => query.lets(`${row.path} ${row.recipe} ${row.models.join(' ')}`)});
  query.changed = table.arrange;
  table.rows(said.runs.map((row) => ({...row, key: row.path, href: address('r', row.path)})));
  return {title: 'runs', crumbs: [], table, query, element: [h('h1', {}, 'Runs'), h('p', {class: 'quiet'}, said.place), query.element, table.element]};
}

export async function runPage(run) {
  const said = await ask('run', run), rows = new Map(said.instances), query = filterBox('Filter instances');
  const fates = ['resolved', 'patch', 'not selected', 'no right candidate', 'not known', 'files missed', 'no candidate', 'none', 'abstained', 'budget', 'not graded', 'stopped', 'unfinished', 'infrastructure', 'failed', 'reading'];
  const chosen = chips(fates, () => { table.arrange(); counted(); }, 'Outcome');
  const money = (row) => (row ? cost(row) : '');
  const table = list([
    {title: 'instance', width: 'minmax(8rem, 2.2fr)', value: (row) => row.name, cell: (row) => row.name},
    {title: 'outcome', width: '10rem', value: (row) => fateOf(row.row), cell: (row) => tag(fateOf(row.row))},
    {title: 'of', means: 'trajectories, or agents', width: '3.5rem', wide: 760, number: true, value: (row) => row.row?.members, cell: (row) => row.row?.members ?? ''},
    {title: 'candidates', means: 'distinct ones that could be used, of all that were proposed', width: '6.5rem', wide: 760, number: true, value: (row) => row.row?.candidates, cell: (row) => (row.row?.proposals ? `${row.row.candidates} of ${row.row.proposals}` : '–')},
    {title: 'votes', means: 'generated tests that what is chosen passes', width: '5rem', wide: 620, number: true, value: (row) => row.row?.votes, cell: (row) => (row.row?.votes === null || !row.row ? '–' : `${row.row.votes}/${row.row.tests}`)},
    {title: 'chosen', width: '8rem', wide: 900, value: (row) => row.row?.chosen, cell: (row) => row.row?.chosen ?? '–'},
    {title: 'cost', width: '5.5rem', wide: 450, number: true, value: (row) => row.row?.cost, cell: (row) => money(row.row)},
    {title: 'time', means: 'asking and executing, added up', width: '7rem', wide: 700, number: true, value: (row) => row.row?.seconds, cell: (row) => (row.row ? took(row.row.seconds) : '')},
    {title: 'now, or why', width: 'minmax(8rem, 3fr)', wide: 1000, value: (row) => row.row?.why, cell: (row) => now(row.row)},
  ], {sorted: 0, label: 'Instances', text: () => (row) => chosen.lets(fateOf(row.row)) && query.lets(`${row.name} ${fateOf(row.row)} ${row.row?.chosen ?? ''} ${row.row?.why ?? ''}`)});
  query.changed = table.arrange;
  const facts = h('p', {class: 'facts'}), notes = h('div'), state = {};
  const name = (one) => ({name: one, row: rows.get(one), key: one, href: address('r', run, 'i', one)});
  function now(row) {
    if (!row) return '';
    return !row.status && row.trajectory ? `${row.trajectory}${row.open ? `, ${row.open} under way` : ''}` : row.why;
  }
  function counted() {
    const counts = new Map();
    for (const row of rows.values()) counts.set(fateOf(row), (counts.get(fateOf(row)) ?? 0) + 1);
    chosen.draw(counts);
  }
  function draw() {
    table.rows([...rows.keys()].map(name));
    counted();
    const all = [...rows.values()].filter(Boolean), sum = (of) => all.reduce((total, row) => total + (row[of] ?? 0), 0);
    const read = all.length < rows.size ? ` · ${all.length} of ${rows.size} logs read` : '';
    const calls = sum('calls');
    facts.replaceChildren();
    put(facts, [h('span', {class: `dot ${state.now ?? said.state}`}), `${state.now ?? said.state} · recipe ${said.recipe} · ${said.models.join(', ') || 'no model'} · ${count(rows.size, 'instance')}`,
      calls ? ` · ${dollars(sum('cost'))} for ${count(calls, 'call')}, ${tokens(sum('input') + sum('output'))} tokens` : sum('recorded') ? ` · ${count(sum('recorded'), 'recorded answer')}` : '',
      sum('unpriced') ? `, ${count(sum('unpriced'), 'call')} at a price that nobody knows` : '', read]);
    notes.replaceChildren();
    if (sum('billed')) put(notes, h('p', {class: 'notice'}, `${count(sum('billed'), 'call')} without a reply on record: on the way, or possibly billed.`));
    if (sum('damaged')) put(notes, h('p', {class: 'notice'}, `${count(sum('damaged'), 'damaged piece')} of logs passed over.`));
  }
  draw();
  return {
    title: run, crumbs: [[run, address('r', run)]], run, table, query,
    element: [h('h1', {}, run), facts, notes, exported?.left && h('p', {class: 'notice'}, `To keep this file small, left out of it: ${exported.left}.`),
      query.element, chosen.element, table.element, fold('settings', 'Settings of this run', () => plain(said.settings, 'settings'))],
    changed: (event) => {
      state.now = event.state || said.state;
      for (const [one, row] of Object.entries(event.rows)) rows.set(one, row);
      draw();
    },
  };
}

export async function searchPage(run, text, instance) {
  const said = await ask('search', run, text, ...(instance ? [instance] : []));
  const hits = said.hits.map((hit) => {
    const where = hit.trajectory && hit.trajectory !== 'selection' ? address('r', run, 'i', hit.instance, 't', hit.trajectory, ...(hit.path ? [hit.path.split('/')[0]] : [])) : address('r', run, 'i', hit.instance);
    return h('li', {}, h('a', {href: where}, `${hit.instance} · ${hit.trajectory || 'votes'}${hit.path ? ` · ${hit.path}` : ''}`), h('span', {class: 'quiet'}, ` ${hit.what}`),
      h('div', {class: 'hit'}, hit.before.replaceAll('\n', '⏎'), h('mark', {}, hit.match), hit.after.replaceAll('\n', '⏎')));
  });
  const crumbs = [[run, address('r', run)], ...(instance ? [[instance, address('r', run, 'i', instance)]] : [])];
  return {title: `“${text}”`, crumbs, run, searching: text, element: [h('h1', {}, `“${text}” in ${instance || run}`),
    h('p', {class: 'quiet'}, said.partial ? `The first ${hits.length} places.` : count(hits.length, 'place')),
    h('ol', {class: 'hits'}, hits)]};
}

// A field that filters what is there; every word must be somewhere.
export function filterBox(label) {
  const field = h('input', {type: 'search', class: 'filter', placeholder: `${label}  (/)`, 'aria-label': label, 'data-key': label, oninput: () => box.changed()});
  const box = {element: field, changed: () => {}, lets: (text) => field.value.toLowerCase().split(/\s+/).every((word) => text.toLowerCase().includes(word)), focus: () => field.focus()};
  return box;
}
