// An instance: what was decided, the candidates side by side, the outcome table, the run-off, its trajectories.
import {h, put, address, count, tokens, took, cost} from './text.js';
import {ask, once} from './data.js';
import {list, chips} from './list.js';
import {code, diff, fold, plain, prose} from './code.js';
import {filterBox, fateOf, tag} from './pages.js';
import {verdictChip} from './trajectory.js';

export const TABS = ['overview', 'candidates', 'tests', 'run-off', 'trajectories'];
const MARK = {p: ['✓', 'pass', 'passes'], f: ['✗', 'fail', 'fails'], '?': ['?', 'unknown', 'could not tell'], ' ': ['', 'none', 'was not run']};
const COLUMNS = 120, ROWS = 80;

export async function instancePage(run, name, tab = 'overview', ...rest) {
  let said = await ask('instance', run, name);
  const here = (...parts) => address('r', run, 'i', name, ...parts);
  const body = h('div', {id: 'tab'}), head = h('div');
  const page = {title: name, crumbs: [[run, address('r', run)], [name, here()]], run, instance: name, element: [head, body], keys: {}};
  TABS.forEach((one, n) => { page.keys[String(n + 1)] = () => { location.hash = here(one); }; });
  const views = {overview: () => overview(said, here), candidates: () => candidates(run, name, said, here, rest), tests: () => outcomes(run, name, said, here, rest, page),
    'run-off': () => story(run, name, said, here), trajectories: () => trajectories(said, here, page)};
  const heading = () => {
    const numbers = {candidates: said.selection?.entries.length, tests: said.selection?.table?.tests.length, 'run-off': rounds(said).length, trajectories: said.units.length};
    head.replaceChildren(h('header', {class: 'title'}, h('h1', {}, name), tag(fateOf(said)), said.chosen && h('span', {class: 'quiet'}, said.status === 'patch' ? `submits ${said.chosen}` : `so far ${said.chosen} is first`),
        said.reached < 1 && h('span', {class: 'quiet', role: 'status'}, `reading its log: ${Math.floor(100 * said.reached)} %`)),
      h('nav', {class: 'tabs', 'aria-label': 'Parts of the instance'}, TABS.map((one) => h('a', {href: here(one), 'aria-current': one === tab ? 'page' : null}, one, numbers[one] ? h('span', {class: 'quiet'}, ` ${numbers[one]}`) : ''))));
  };
  const draw = async () => {
    heading();
    const made = await (views[tab] ?? views.overview)();
    body.replaceChildren();
    put(body, made);
  };
  await draw();
  const again = async () => {
    said = await ask('instance', run, name);
    if (page.table?.element.isConnected) {
      page.fill(said);
      heading();
    } else await draw();
  };
  page.changed = async (event) => {
    if (!(name in event.rows)) return false;
    await again();
    return true;
  };
  page.arrived = async () => {
    while (said.reached < 1 && body.isConnected) {
      await new Promise((done) => setTimeout(done, 400));
      if (body.isConnected) await again();
    }
  };
  return page;
}

function rounds(said) {
  return said.units.filter((unit) => unit.stage === 'run-off');
}

function overview(said, here) {
  const made = [], selection = said.selection, chosen = selection?.entries.find((entry) => entry.id === said.chosen);
  if (said.chosen) made.push(h('p', {class: 'lead'}, h('a', {href: here('candidates')}, said.chosen), `. ${said.decided}:`));
  else if (said.means) made.push(h('p', {class: 'lead'}, said.means));
  else made.push(h('p', {class: 'lead'}, 'It has come to no end yet.'));
  if (said.why) made.push(h('div', {class: 'prose'}, said.why));
  if (chosen) made.push(h('ul', {class: 'facts'}, facts(chosen, selection).map(([what, value]) => h('li', {}, h('span', {class: 'quiet'}, `${what} `), value))));
  if (selection && Object.keys(selection.letters).length) made.push(h('p', {class: 'quiet'}, `The run-off was shown the finalists under letters, in a shuffled order: ${Object.entries(selection.letters).sort().map(([letter, of]) => `${letter} is ${of}`).join(', ')}.`));
  if (said.billed) made.push(h('p', {class: 'notice'}, `${count(said.billed, 'call')} without a reply on record: on the way, or possibly billed.`));
  if (said.damaged) made.push(h('p', {class: 'notice'}, `${count(said.damaged, 'damaged piece')} of the log passed over.`));
  if (said.missed?.length) made.push(h('p', {class: 'notice'}, `The context lacked what the fix changes: ${said.missed.join(', ')}.`));
  if (selection?.sure) made.push(sureness(selection.sure));
  if (selection?.remarks.length) made.push(h('ul', {}, selection.remarks.map((remark) => h('li', {}, remark))));
  const rejected = Object.entries(selection?.rejected ?? {});
  if (rejected.length) made.push(fold('rejected', `${count(rejected.length, 'candidate')} could not take part`, () => h('ul', {}, rejected.map(([who, why]) => h('li', {}, h('strong', {}, who), ` ${why}`)))));
  if (said.issue) made.push(h('h2', {}, 'The issue'), h('div', {class: 'prose issue'}, said.issue));
  if (said.context) made.push(fold('context', `${count(said.context.length, 'file')} shown to the models`, () => h('ul', {}, said.context.map((file) => h('li', {}, h('code', {}, file))))));
  return made;
}

function sureness(sure) {
  return [h('h2', {}, 'How sure it is'),
    h('p', {}, sure.p === null ? 'Uncalibrated: no probability is stated.' : [`${sure.of} is right with a probability of `, h('strong', {}, sure.p.toFixed(2)), `, ${sure.how}.`]),
    sure.withheld && h('p', {class: 'notice'}, `Why it would have been submitted: ${sure.withheld}`),
    h('dl', {class: 'seen'}, sure.seen.map(([what, value]) => [h('dt', {}, what), h('dd', {}, meter(value), value === null ? '–' : value.toFixed(2))])),
    sure.hangs.length ? [h('p', {}, 'The ranking hangs on single pieces of evidence: without one of these, another candidate is first.'),
      h('ul', {}, sure.hangs.map(([kind, what, then]) => h('li', {}, `${kind} ${what}: ${then ? `${then} is` : 'nobody is'} first without it`)))]
      : h('p', {class: 'quiet'}, sure.tried ? `No single test, trajectory or agent decides who is first of the ranking (${sure.tried} tried).` : 'There is nothing that could be left out.')];
}

function meter(value) {
  const bar = h('span', {class: 'meter', 'aria-hidden': 'true'}), filled = h('span');
  filled.style.width = `${Math.round(100 * Math.min(1, Math.max(0, value ?? 0)))}%`;
  bar.append(filled);
  return bar;
}

function facts(entry, selection) {
  const table = selection.table, broken = table?.broken[entry.id];
  return [
    ['votes', table?.tests.length ? `${entry.votes ?? '–'} of ${table.tests.length}` : '–'],
    ['repository tests', !table?.repository ? 'none run' : broken === null ? 'could not tell' : `${broken ?? 0} of ${table.repository} broken`],
    ['verifier', entry.score === null ? 'no verdict' : `P = ${entry.score.toFixed(2)}`],
    ['proposed by', count(entry.proposers.length, 'trajectory', 'trajectories')],
    ['changed lines', String(entry.changed)],
    ...(entry.right === null ? [] : [['graded', entry.right ? '✓ right' : '✗ wrong']]),
  ];
}

function marks(entry, said) {
  return [entry.id === said.chosen && h('span', {class: 'tag good'}, '★ chosen'),
    entry.id !== said.chosen && said.selection.finalists.includes(entry.id) && h('span', {class: 'tag'}, 'finalist'),
    entry.disqualified ? h('span', {class: 'tag bad'}, 'disqualified: passes the control') : !entry.gated && entry.votes !== null && h('span', {class: 'tag'}, 'not let through by the verifier')];
}

async function candidates(run, name, said, here, [left, right]) {
  const selection = said.selection, entries = selection?.entries ?? [];
  if (!entries.length) return h('p', {class: 'quiet'}, 'There is no candidate that could be used, so far.');
  const has = (id) => entries.find((entry) => entry.id === id || entry.proposers.includes(id));
  const a = has(left) ?? has(said.chosen) ?? entries[0];
  const b = right === 'none' ? null : has(right) ?? [has(selection.runnerup), ...entries].find((entry) => entry && entry.id !== a.id);
  const limit = 200;
  const rows = entries.slice(0, limit).map((entry, n) => h('tr', {class: entry.id === a.id || entry.id === b?.id ? 'won' : ''},
    h('td', {class: 'number'}, n + 1), h('th', {scope: 'row'}, entry.id), h('td', {class: 'number'}, entry.proposers.length),
    facts(entry, selection).filter(([what]) => what !== 'proposed by').map(([, value]) => h('td', {}, value)),
    entry.right === null && entries.some((one) => one.right !== null) && h('td', {}, '–'),
    h('td', {}, marks(entry, said)),
    h('td', {}, h('a', {class: 'pick', href: here('candidates', entry.id, b && b.id !== entry.id ? b.id : a.id), 'aria-current': entry.id === a.id ? 'true' : null, title: 'show on the left'}, '◧'), ' ',
      h('a', {class: 'pick', href: here('candidates', a.id === entry.id ? b?.id ?? a.id : a.id, entry.id), 'aria-current': entry.id === b?.id ? 'true' : null, title: 'show on the right'}, '◨'))));
  const graded = entries.some((one) => one.right !== null);
  const heads = ['votes', 'repository tests', 'verifier', 'changed lines', ...(graded ? ['graded'] : [])];
  const sides = await Promise.all([a, b].filter(Boolean).map(async (entry) => ({entry, patch: await once('candidate', run, name, entry.id).catch((error) => ({error}))})));
  return [
    h('div', {class: 'scroll', tabindex: 0}, h('table', {class: 'standings'}, h('thead', {}, h('tr', {}, h('th', {class: 'number'}, 'rank'), h('th', {}, 'candidate'), h('th', {class: 'number', title: 'trajectories or agents that proposed it'}, 'by'), heads.map((one) => h('th', {}, one)), h('th', {}, 'mark'), h('th', {}, 'side'))), h('tbody', {}, rows))),
    entries.length > limit && h('p', {class: 'quiet'}, `The first ${limit} of ${entries.length.toLocaleString('en')} by rank; any other by its name in the address.`),
    b && differing(selection, a, b, here),
    h('div', {class: 'sides'}, sides.map(({entry, patch}) => h('section', {class: 'side', 'aria-label': entry.id},
      h('h2', {}, entry.id, ' ', marks(entry, said)),
      h('ul', {class: 'facts'}, facts(entry, selection).map(([what, value]) => h('li', {}, h('span', {class: 'quiet'}, `${what} `), value))),
      h('p', {class: 'quiet'}, 'from ', entry.proposers.slice(0, 12).map((one, n) => [n ? ', ' : '', h('a', {href: here('t', one)}, one)]), entry.proposers.length > 12 ? ` and ${entry.proposers.length - 12} more` : '', entry.how ? ` · verifier: ${entry.how}` : ''),
      patch.error ? h('p', {class: 'notice'}, patch.error.message) : diff(patch.files),
      patch.removed?.length > 0 && fold(`removed ${entry.id}`, 'Cleaning took out of the patch', () => h('ul', {}, patch.removed.map((line) => h('li', {}, line)))))))];
}

function differing(selection, a, b, here) {
  const table = selection.table;
  if (!table) return null;
  const found = selection.tests.filter((test) => test.votes).filter((test) => {
    const at = table.tests.indexOf(test.id);
    return table.rows[a.id]?.[at] !== table.rows[b.id]?.[at];
  });
  return h('p', {}, found.length ? [`${count(found.length, 'test tells', 'tests tell')} them apart: `, found.slice(0, 20).map((test, n) => [n ? ', ' : '', h('a', {href: here('tests', a.id, test.id)}, test.label)]), '.']
    : 'No generated test tells them apart.');
}

function outcomes(run, name, said, here, [row, test], page) {
  const selection = said.selection, table = selection?.table;
  if (!table) return h('p', {class: 'quiet'}, 'Nothing was run on the candidates, so far.');
  const from = Number(page.from ?? 0), labels = new Map(selection.tests.map((one) => [one.id, one]));
  const rows = ['base', ...selection.entries.map((entry) => entry.id)].slice(0, ROWS + 1);
  const tests = table.tests.slice(from, from + COLUMNS);
  const columns = [...tests, 'control', ...(table.repository ? ['repository'] : [])];
  const panel = h('aside', {class: 'panel', 'aria-label': 'The cell', 'aria-live': 'polite'});
  const mark = (r, t) => {
    if (t === 'control') return r === 'base' ? ' ' : table.control[r] ?? ' ';
    if (t === 'repository') return r === 'base' ? ' ' : table.broken[r] === null ? '?' : table.broken[r] ? 'f' : 'p';
    const at = table.tests.indexOf(t);
    return (r === 'base' ? table.base : table.rows[r] ?? '')[at] ?? ' ';
  };
  const title = (t) => (t === 'control' ? 'ctl' : t === 'repository' ? 'repo' : labels.get(t)?.label ?? t);
  const expected = (r, t) => (t === 'control' && mark(r, t) === 'f') || (r === 'base' && mark(r, t) === 'f');
  const grid = h('table', {class: 'picture', role: 'grid', 'aria-label': 'Candidates × tests'},
    h('thead', {}, h('tr', {}, h('th', {scope: 'col'}, 'candidate'), columns.map((t) => h('th', {scope: 'col', title: t === 'control' ? 'a test that fails whatever the code does: who passes it lies about the others' : t === 'repository' ? 'the repository’s own tests near the change' : `${t}${labels.get(t)?.suspected ? ` — suspected to be wrong: ${labels.get(t).suspected}` : ''}`}, h('span', {class: labels.get(t)?.suspected ? 'suspect' : ''}, title(t)))), h('th', {scope: 'col', class: 'number'}, 'votes'))),
    h('tbody', {}, rows.map((r) => {
      const entry = selection.entries.find((one) => one.id === r);
      return h('tr', {class: r === said.chosen ? 'won' : r === 'base' ? 'base' : ''}, h('th', {scope: 'row'}, r === 'base' ? 'base, without a patch' : h('a', {href: here('candidates', r)}, r), r === said.chosen ? ' ★' : ''),
        columns.map((t) => {
          const [sign, kind, words] = MARK[mark(r, t)];
          const now = r === row && t === test;
          return h('td', {class: `${kind}${expected(r, t) ? ' expected' : ''}${now ? ' here' : ''}`, role: 'gridcell', 'data-row': r, 'data-test': t, tabindex: -1, 'aria-selected': String(now), title: `${r} ${words === 'was not run' ? words : `${words}`}: ${title(t)}`},
            h('span', {'aria-hidden': 'true'}, t === 'repository' && mark(r, t) === 'f' ? String(table.broken[r]) : sign), h('span', {class: 'said'}, words));
        }), h('td', {class: 'number', role: 'gridcell'}, entry?.votes ?? '–'));
    })));
  const at = (r, t) => grid.querySelector(`td[data-row="${CSS.escape(r)}"][data-test="${CSS.escape(t)}"]`);
  (at(row, test) ?? grid.querySelector('td[data-row]')).tabIndex = 0;
  const open = async (r, t, focus) => {
    grid.querySelectorAll('td[tabindex="0"], td.here').forEach((one) => { one.tabIndex = -1; one.classList.remove('here'); one.setAttribute('aria-selected', 'false'); });
    const cell = at(r, t);
    if (cell) {
      cell.tabIndex = 0;
      cell.classList.add('here');
      cell.setAttribute('aria-selected', 'true');
      if (focus) cell.focus();
    }
    history.replaceState(null, '', here('tests', r, t));
    row = r; test = t;
    panel.replaceChildren();
    put(panel, h('p', {class: 'quiet'}, 'Reading …'));
    const made = await shownCell(run, name, r, t, labels.get(t), here).catch((error) => h('p', {class: 'notice'}, error.message));
    if (row !== r || test !== t) return;
    panel.replaceChildren();
    put(panel, made);
  };
  grid.addEventListener('click', (event) => {
    const cell = event.target.closest('td[data-row]');
    if (cell) open(cell.dataset.row, cell.dataset.test, true);
  });
  grid.addEventListener('keydown', (event) => {
    const cell = event.target.closest('td[data-row]');
    if (!cell) return;
    const r = rows.indexOf(cell.dataset.row), t = columns.indexOf(cell.dataset.test);
    const to = {ArrowLeft: [r, t - 1], ArrowRight: [r, t + 1], ArrowUp: [r - 1, t], ArrowDown: [r + 1, t], Home: [r, 0], End: [r, columns.length - 1], Enter: [r, t], ' ': [r, t]}[event.key];
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    if (rows[to[0]] && columns[to[1]]) open(rows[to[0]], columns[to[1]], true);
  });
  if (row && test) open(row, test, false);
  else put(panel, h('p', {class: 'quiet'}, 'A cell shows its test, and what it printed on that candidate. Arrow keys move from cell to cell.'));
  const more = table.tests.length > COLUMNS && h('p', {class: 'quiet'}, `Tests ${from + 1} to ${from + tests.length} of ${table.tests.length}. `,
    from > 0 && h('button', {type: 'button', onclick: () => again(from - COLUMNS)}, '← before'), ' ', from + COLUMNS < table.tests.length && h('button', {type: 'button', onclick: () => again(from + COLUMNS)}, 'after →'));
  const whole = h('div');
  const again = (to) => { page.from = to; whole.replaceChildren(); put(whole, outcomes(run, name, said, here, [], page)); };
  put(whole, [h('p', {class: 'key quiet'}, h('span', {class: 'pass'}, '✓'), ' passes  ', h('span', {class: 'fail'}, '✗'), ' fails  ', h('span', {class: 'unknown'}, '?'), ' could not tell  · best candidates first · the base must fail, and so must everybody on the control'),
    more, selection.entries.length > ROWS && h('p', {class: 'quiet'}, `The first ${ROWS} of ${selection.entries.length.toLocaleString('en')} candidates.`),
    h('div', {class: 'table-and-panel'}, h('div', {class: 'scroll'}, grid), panel)]);
  return whole;
}

async function shownCell(run, name, row, test, about, here) {
  const said = await once('cell', run, name, row, test);
  const who = row === 'base' ? 'the base, without a patch' : row;
  if (test === 'repository') {
    return [h('h2', {}, `The repository’s tests on ${who}`), said.why && h('p', {class: 'notice'}, said.why),
      said.broken === null ? h('p', {}, 'Could not tell.') : said.broken.length ? h('ul', {}, said.broken.map((one) => h('li', {}, h('code', {}, one)))) : h('p', {}, `None of ${said.repository.length} is broken.`),
      fold('repository tests', count(said.repository.length, 'test that passes on the base', 'tests that pass on the base'), () => h('ul', {}, said.repository.map((one) => h('li', {}, h('code', {}, one)))))];
  }
  const run_ = said.run;
  return [h('h2', {}, test === 'control' ? 'The control' : about?.label ?? test, ` on ${who} `, verdictChip(said.cell)),
    h('p', {class: 'quiet'}, test === 'control' ? 'It imports what the tests import, then fails.' : ['written by ', said.same.map((one, n) => [n ? ', ' : '', one.startsWith('testing-') || one.startsWith('editing-') ? h('a', {href: here('t', one)}, one) : one])]),
    (run_?.why || said.why) && h('p', {}, run_?.why || said.why),
    about?.suspected && h('p', {class: 'notice'}, `Suspected to be wrong: ${about.suspected}`), said.silent && h('p', {class: 'notice'}, `Its vote was not counted: ${said.silent}`),
    h('h3', {}, 'What it printed', run_ ? h('span', {class: 'quiet'}, ` ${run_.outcome}${run_.exit === null ? '' : `, exit ${run_.exit}`}, ${run_.seconds.toFixed(2)} s`) : ''),
    run_ ? plain(run_.text) : h('p', {class: 'quiet'}, 'Which execution this was cannot be told from the log.'),
    test !== 'control' && [h('h3', {}, 'The test'), code(said.script, 'the test')]];
}

async function story(run, name, said, here) {
  const units = rounds(said);
  if (!units.length) return h('p', {class: 'quiet'}, said.chosen ? `There was no run-off: ${said.decided.toLowerCase()}.` : 'There was no run-off, so far.');
  const letters = said.selection?.letters ?? {};
  const made = [h('p', {}, `The finalists, under letters and in a shuffled order: ${Object.entries(letters).sort().map(([letter, of]) => `${letter} is ${of}`).join(', ') || said.selection?.finalists.join(', ') || '–'}. Whoever decides writes tests, sees each run on all of them, and chooses.`)];
  for (const [number, unit] of units.entries()) {
    const told = await ask('trajectory', run, name, unit.name).catch((error) => ({error}));
    made.push(h('h2', {}, units.length > 1 ? `Round ${number + 1} ` : 'The run-off ', h('a', {class: 'quiet', href: here('t', unit.name)}, 'turn by turn')));
    if (told.error) { made.push(h('p', {class: 'notice'}, told.error.message)); continue; }
    made.push(h('ol', {class: 'story'}, told.turns.filter((turn) => turn.path).map((turn, n) => beat(turn, n, unit.name, letters))));
    const end = told.end, chosen = end?.value ? JSON.parse(end.value) : null;
    if (chosen && 'chosen' in chosen) made.push(h('p', {class: 'lead'}, chosen.chosen ? ['It chose ', h('a', {href: here('candidates', chosen.chosen)}, chosen.chosen), '.'] : 'It abstained.'), h('div', {class: 'prose'}, end.why ?? ''));
    else if (end?.note || told.stopped) made.push(h('p', {class: 'notice'}, end?.note || told.stopped.why));
  }
  return made;
}

function beat(turn, n, unit, letters) {
  const tests = turn.effects.filter((effect) => effect.kind === 'execute');
  const words = (turn.reply?.text ?? '').split(/^<(?:test|choose)\b/m)[0].trim();
  const who = (path) => path.split('/')[1] ?? path;
  const order = [...tests].sort((a, b) => (who(a.path) === 'original' ? -1 : who(b.path) === 'original' ? 1 : who(a.path).localeCompare(who(b.path))));
  return h('li', {}, h('p', {class: 'quiet'}, `${turn.path.split('/')[0]} · ${took(turn.seconds)} · ${tokens(turn.usage.input)} in, ${tokens(turn.usage.output)} out`),
    words && h('div', {class: 'prose'}, words),
    turn.kind === 'intent' && h('p', {class: 'notice'}, 'Asked, and no reply is on record yet.'),
    turn.test && fold(`${unit} test ${n}`, `It wrote a test of ${count(turn.test.split('\n').length - 1, 'line')}`, () => code(turn.test, 'the test')),
    order.length > 0 && h('div', {class: 'verdicts'}, order.map((effect) => fold(`${unit} ${effect.path}`, [h('strong', {}, who(effect.path)), ' ', verdictChip(effect.verdict ?? effect.outcome), ' ', h('span', {class: 'quiet'}, letters[who(effect.path)] ?? '')], () => [effect.why && h('p', {}, effect.why), plain(effect.text)]))));
}

function trajectories(said, here, page) {
  const query = filterBox('Filter trajectories');
  const stages = [...new Set(said.units.map((unit) => unit.stage))];
  const chosen = chips(stages, () => { table.arrange(); counted(); }, 'Stage');
  const state = (row) => (row.waits ? 'waits for a reply' : row.reason === 'done' && !row.made ? 'done, nothing' : row.reason);
  const table = list([
    {title: 'trajectory', width: 'minmax(8rem, 2fr)', value: (row) => row.name, cell: (row) => row.name},
    {title: 'stage', width: '7.5rem', wide: 700, value: (row) => row.stage, cell: (row) => row.stage},
    {title: 'ended', width: '9rem', value: state, cell: (row) => h('span', {class: row.reason === 'error' ? 'fail' : row.reason === 'under way' ? 'unknown' : row.made ? 'pass' : ''}, state(row))},
    {title: 'calls', width: '4rem', number: true, wide: 560, value: (row) => row.calls, cell: (row) => row.calls || '–'},
    {title: 'input', width: '5rem', number: true, wide: 760, value: (row) => row.input, cell: (row) => tokens(row.input)},
    {title: 'cached', width: '4.5rem', number: true, wide: 860, value: (row) => (row.input ? row.cached / row.input : null), cell: (row) => (row.input ? `${Math.round(100 * row.cached / row.input)} %` : '–')},
    {title: 'output', width: '5rem', number: true, wide: 760, value: (row) => row.output, cell: (row) => tokens(row.output)},
    {title: 'cost', width: '5.5rem', wide: 450, number: true, value: (row) => row.cost, cell: (row) => cost(row)},
    {title: 'runs', means: 'executions', width: '4rem', number: true, wide: 860, value: (row) => row.executions, cell: (row) => row.executions},
    {title: 'time', width: '7rem', number: true, wide: 620, value: (row) => row.seconds, cell: (row) => took(row.seconds)},
    {title: 'note', width: 'minmax(6rem, 2fr)', wide: 1000, value: (row) => row.note, cell: (row) => row.note},
  ], {label: 'Trajectories', text: () => (row) => chosen.lets(row.stage) && query.lets(`${row.name} ${row.reason} ${row.note}`)});
  query.changed = table.arrange;
  page.table = table;
  page.query = query;
  let units = said.units;
  const counted = () => chosen.draw(units.reduce((counts, unit) => counts.set(unit.stage, (counts.get(unit.stage) ?? 0) + 1), new Map()));
  page.fill = (now) => {
    units = now.units;
    table.rows(units.map((unit) => ({...unit, key: unit.name, href: unit.name === 'votes' ? here('tests') : here('t', unit.name)})));
    counted();
  };
  page.fill(said);
  return [query.element, chosen.element, table.element];
}
