// Which page is shown, by the address after #; keys; light or dark.
import {h, put, address, say} from './text.js';
import {exported, listen} from './data.js';
import {runsPage, runPage, searchPage} from './pages.js';
import {instancePage} from './instance.js';
import {trajectoryPage} from './trajectory.js';

const main = document.getElementById('main'), bar = document.getElementById('bar');
let page = null, number = 0, stop = () => {}, heard = '', busy = false, again = null, prefix = '';

function parts() {
  return location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
}

async function made([kind, run, what, name, ...rest]) {
  if (kind !== 'r') return exported ? (location.replace(address('r', exported.run)), null) : await runsPage();
  if (!what) return await runPage(run);
  if (what === 's') return await searchPage(run, name ?? '', rest[0]);
  if (rest[0] === 't') return await trajectoryPage(run, name, rest[1], rest[2]);
  return await instancePage(run, name, ...rest);
}

async function show() {
  const mine = ++number;
  main.setAttribute('aria-busy', 'true');
  let next;
  try {
    next = await made(parts());
  } catch (error) {
    next = {title: 'Not here', crumbs: [], element: [h('h1', {}, 'Not here'), h('p', {class: 'notice'}, error.message), h('p', {}, h('a', {href: '#/'}, 'All runs'))]};
    if (!error.message) console.error(error);
  }
  if (mine !== number || !next) return;
  page = next;
  document.title = `${next.title} · runoff`;
  main.replaceChildren();
  put(main, next.element);
  main.removeAttribute('aria-busy');
  drawBar();
  page.table?.arrange();
  scrollTo(0, 0);
  page.arrived?.();
  if (heard !== (next.run ?? '')) {
    stop();
    heard = next.run ?? '';
    stop = heard ? listen(heard, told) : () => {};
  }
  performance.mark('shown');
}

// What is drawn again keeps the place and the focus of whoever reads it. Events that come meanwhile wait together.
async function told(event) {
  if (busy) { again = {...event, rows: {...again?.rows, ...event.rows}}; return; }
  busy = true;
  const began = performance.now();
  try {
    const key = document.activeElement?.dataset?.key, y = scrollY;
    const drawn = await page?.changed?.(event);
    if (drawn) {
      scrollTo(0, y);
      if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({preventScroll: true});
    }
  } catch (error) {
    say(error.message);
  }
  await new Promise((done) => setTimeout(done, Math.min(10000, 3 * (performance.now() - began)))); // a large page: not all the time
  busy = false;
  if (again) { const later = again; again = null; told(later); }
}

function drawBar() {
  const run = page.run, field = h('input', {type: 'search', id: 'search', placeholder: page.instance ? 'Search this instance  (s)' : 'Search the run  (s)', 'aria-label': 'Search all texts', value: page.searching ?? ''});
  const form = h('form', {role: 'search', onsubmit: (event) => {
    event.preventDefault();
    if (field.value.trim()) location.hash = address('r', run, 's', field.value.trim(), ...(page.instance ? [page.instance] : []));
  }}, field);
  bar.replaceChildren();
  put(bar, [h('nav', {'aria-label': 'Where you are'}, h('a', {class: 'brand', href: '#/'}, 'runoff'), page.crumbs.map(([text, href], n) => [h('span', {class: 'quiet', 'aria-hidden': 'true'}, ' › '), h('a', {href, 'aria-current': n === page.crumbs.length - 1 ? 'page' : null}, text)])),
    run && form,
    h('button', {type: 'button', id: 'theme', title: 'Light or dark (t)', onclick: turn}, '◐', h('span', {class: 'said'}, 'Light or dark')),
    h('button', {type: 'button', id: 'help', title: 'Keys (?)', onclick: help}, '?', h('span', {class: 'said'}, 'Keys'))]);
}

function turn() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  theme(dark ? 'light' : 'dark');
  try { localStorage.setItem('theme', dark ? 'light' : 'dark'); } catch { /* a file may keep nothing */ }
}

function theme(name) {
  if (name === 'light' || name === 'dark') document.documentElement.dataset.theme = name;
}

const KEYS = [['j  k', 'next, previous row or turn'], ['Enter', 'open'], ['o', 'open or close all of a turn'], ['[  ]', 'previous, next trajectory'], ['1 … 5', 'parts of an instance'], ['u', 'up'],
  ['/', 'filter'], ['s', 'search all texts'], ['g r', 'all runs'], ['g i', 'the run’s instances'], ['f', 'follow a trajectory under way'], ['t', 'light or dark'], ['?', 'these keys']];

function help() {
  const dialog = h('dialog', {'aria-label': 'Keys', onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close()},
    h('h2', {}, 'Keys'), h('dl', {}, KEYS.map(([key, what]) => [h('dt', {}, h('kbd', {}, key)), h('dd', {}, what)])), h('form', {method: 'dialog'}, h('button', {}, 'Close')));
  document.body.append(dialog);
  dialog.showModal();
}

function step(n) {
  if (page.step) page.step(n);
  else page.table?.step(n);
}

const ALWAYS = {
  j: () => step(1), k: () => step(-1), t: turn, '?': help, s: () => document.getElementById('search')?.focus(),
  '/': () => (page.query ? page.query.focus() : document.getElementById('search')?.focus()),
  u: () => { const up = page.crumbs.at(-2); location.hash = up ? up[1] : '#/'; },
};

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !page || document.querySelector('dialog')) return;
  const field = event.target.closest('input, textarea, select');
  if (field) {
    if (event.key === 'Escape') field.blur();
    if (event.key === 'Enter' && field.classList.contains('filter')) page.table?.step(0);
    return;
  }
  const key = prefix + event.key;
  prefix = '';
  const act = {'gr': () => { location.hash = '#/'; }, 'gi': () => page.run && (location.hash = address('r', page.run))}[key] ?? page.keys?.[event.key] ?? ALWAYS[event.key];
  if (event.key === 'g') prefix = 'g';
  else if (act) { event.preventDefault(); act(); }
});

try { theme(localStorage.getItem('theme')); } catch { /* it is as the system is */ }
addEventListener('hashchange', show);
await show();
