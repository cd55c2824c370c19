// A table of any length: only the rows in sight are elements.
import {h, put, count} from './text.js';

const HEIGHT = 34;

// columns: {title, width, number, wide, value(row) to sort by, cell(row)}; rows have a key and an href.
export function list(columns, {sorted = -1, down = false, label, text, empty = 'Nothing here.'}) {
  const head = h('div', {class: 'row head', role: 'row'}), body = h('div', {class: 'rows', role: 'rowgroup'});
  const whole = h('div', {class: 'list', role: 'table', 'aria-label': label}, h('div', {role: 'rowgroup'}, head), body);
  const note = h('p', {class: 'quiet'});
  let all = [], seen = [], current = 0, shownColumns = columns, drawn = '';

  function layout() {
    shownColumns = columns.filter((column) => !column.wide || innerWidth > column.wide);
    whole.style.setProperty('--columns', shownColumns.map((column) => column.width).join(' '));
    head.replaceChildren(...shownColumns.map((column) => {
      const at = columns.indexOf(column), now = sorted === at;
      const sort = now ? (down ? 'descending' : 'ascending') : 'none';
      return h('div', {role: 'columnheader', class: column.number ? 'number' : '', 'aria-sort': sort},
        h('button', {type: 'button', class: 'sort', title: column.means, onclick: () => { down = now ? !down : !!column.number; sorted = at; arrange(); }},
          column.title, now ? (down ? ' ↓' : ' ↑') : ''));
    }));
  }

  function arrange() {
    const key = seen[current]?.key, wanted = text?.() ?? (() => true);
    seen = all.filter(wanted);
    const column = columns[sorted];
    if (column) {
      const sign = down ? -1 : 1, none = (value) => value === null || value === undefined || value === '';
      const of = new Map(seen.map((row) => [row, column.value(row)]));
      seen.sort((a, b) => {
        const x = of.get(a), y = of.get(b);
        if (none(x) || none(y)) return none(x) - none(y);
        return sign * (typeof x === 'number' ? x - y : String(x).localeCompare(String(y), 'en', {numeric: true}));
      });
    }
    current = Math.max(0, seen.findIndex((row) => row.key === key));
    whole.setAttribute('aria-rowcount', seen.length + 1);
    note.textContent = seen.length ? (seen.length < all.length ? `${count(seen.length, 'row')} of ${all.length.toLocaleString('en')}` : '') : empty;
    layout();
    body.style.height = `${seen.length * HEIGHT}px`;
    drawn = '';
    draw();
  }

  function draw() {
    if (!whole.isConnected && drawn) return;
    const top = body.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / HEIGHT) - 8);
    const last = Math.min(seen.length, Math.ceil((innerHeight - top) / HEIGHT) + 8);
    const range = `${first} ${last} ${current}`;
    if (range === drawn) return;
    const focused = document.activeElement?.closest?.('.rows') === body;
    drawn = range;
    body.replaceChildren(...seen.slice(first, last).map((row, n) => element(row, first + n)));
    if (focused) body.querySelector('[tabindex="0"]')?.focus({preventScroll: true});
  }

  function element(row, at) {
    const made = h('a', {class: `row${at === current ? ' here' : ''} ${row.class ?? ''}`, role: 'row', href: row.href, 'aria-rowindex': at + 2, tabindex: at === current ? 0 : -1, 'data-key': row.key});
    made.style.top = `${at * HEIGHT}px`;
    put(made, shownColumns.map((column, n) => h('div', {role: n ? 'cell' : 'rowheader', class: column.number ? 'number' : ''}, column.cell(row))));
    return made;
  }

  function move(to) {
    if (!seen.length) return;
    current = Math.min(seen.length - 1, Math.max(0, to));
    const y = body.getBoundingClientRect().top + current * HEIGHT;
    if (y < 90) scrollBy(0, y - 90);
    else if (y + HEIGHT > innerHeight - 10) scrollBy(0, y + HEIGHT - innerHeight + 10);
    draw();
    body.querySelector('[tabindex="0"]')?.focus({preventScroll: true});
  }

  let waits = false;
  const later = () => { if (!waits) { waits = true; requestAnimationFrame(() => { waits = false; draw(); }); } };
  addEventListener('scroll', later, {passive: true});
  addEventListener('resize', () => whole.isConnected && arrange());
  return {
    element: h('div', {}, whole, note),
    rows: (given) => { all = given; arrange(); },
    arrange,
    step: (n) => move(document.activeElement?.closest?.('.rows') === body ? current + n : current),
    open: () => seen[current] && (location.hash = seen[current].href),
    get all() { return all; },
  };
}

// Buttons that let through what has one of some words; none pressed lets all through.
export function chips(words, changed, label) {
  const on = new Set(), place = h('div', {class: 'chips', role: 'group', 'aria-label': label});
  const draw = (counts) => {
    const focused = document.activeElement?.dataset?.chip;
    place.replaceChildren(...words.filter((word) => counts.get(word) || on.has(word)).map((word) => h('button',
      {type: 'button', class: 'chip', 'data-chip': word, 'aria-pressed': String(on.has(word)), onclick: () => { on.has(word) ? on.delete(word) : on.add(word); changed(); }},
      word, h('span', {class: 'quiet'}, ` ${counts.get(word) ?? 0}`))));
    if (focused) place.querySelector(`[data-chip="${CSS.escape(focused)}"]`)?.focus();
  };
  return {element: place, draw, lets: (word) => !on.size || on.has(word)};
}
