// A trajectory, turn by turn.
import {h, put, address, count, dollars, tokens, took, cost} from './text.js';
import {ask, exported} from './data.js';
import {code, diff, fold, plain, prose} from './code.js';

const VERDICTS = {fixed: ['✓', 'pass'], pass: ['✓', 'pass'], 'not fixed': ['✗', 'fail'], fail: ['✗', 'fail'], broken: ['?', 'unknown'], 'could not tell': ['?', 'unknown'], 'timed out': ['?', 'unknown'], killed: ['?', 'unknown']};

export function verdictChip(verdict) {
  if (!verdict) return '';
  const [sign, kind] = VERDICTS[verdict] ?? ['', ''];
  return h('span', {class: `verdict ${kind}`}, `${sign} ${verdict}`);
}

export async function trajectoryPage(run, name, which, turn) {
  let said = await ask('trajectory', run, name, which), at = -1, follows = false;
  const here = (...parts) => address('r', run, 'i', name, ...parts);
  const head = h('div'), body = h('div', {class: 'turns'}), foot = h('div');
  const turns = () => [...body.children];
  const page = {title: which, crumbs: [[run, address('r', run)], [name, here()], ['trajectories', here('trajectories')], [which, here('t', which)]], run, instance: name, element: [head, body, foot], keys: {}};

  function draw() {
    const unit = said.unit, total = (of) => said.turns.reduce((sum, one) => sum + (one.usage?.[of] ?? 0), 0);
    head.replaceChildren();
    put(head, [h('header', {class: 'title'}, h('h1', {}, which), h('span', {class: `tag ${said.end ? 'good' : 'doubt'}`}, said.end?.reason ?? said.stopped?.reason ?? 'under way')),
      h('p', {class: 'quiet'}, [said.model, count(said.turns.filter((one) => one.kind === 'ask').length, 'answer'), unit && took(unit.seconds),
        total('input') && `${tokens(total('input'))} in, ${Math.round(100 * total('cached') / total('input'))} % cached, ${tokens(total('output'))} out`, unit && cost(unit)].filter((one) => one && one !== '–').join(' · ')),
      said.aside > 0 && h('p', {class: 'notice'}, `${count(said.aside, 'effect')} of an earlier life set aside; what they cost is counted.`)]);
    body.replaceChildren(...said.turns.map((one, n) => drawn(one, n)));
    foot.replaceChildren();
    put(foot, ending());
  }

  function drawn(one, n) {
    const title = one.path ? one.path.replace(/\/ask$/, '') : 'before the first answer';
    const usage = one.usage ?? {};
    const figures = one.kind === 'intent' ? 'asked, no reply on record yet' : [took(one.seconds ?? null), usage.input !== undefined && `${tokens(usage.input)} in${usage.cached ? ` (${Math.round(100 * usage.cached / usage.input)} % cached)` : ''}`,
      usage.output !== undefined && `${tokens(usage.output)} out`, one.recorded ? 'recorded' : one.cost !== null && one.cost !== undefined ? dollars(one.cost) : '', one.finish && one.finish !== 'stop' ? one.finish : ''].filter((part) => part && part !== '–').join(' · ');
    return h('article', {class: `turn${n === at ? ' here' : ''}`, id: `turn-${n}`, tabindex: -1, 'data-path': one.path, 'data-key': `turn ${n}`, 'aria-label': title},
      h('header', {}, h('a', {href: here('t', which, one.path.split('/')[0] || '-')}, title), h('span', {class: 'quiet'}, figures)),
      one.told.map((message, m) => fold(`told ${n} ${m}`, [h('span', {class: 'role'}, message.role), ' ', h('span', {class: 'quiet'}, `${message.size.toLocaleString('en')} characters`), ' ', h('span', {class: 'first'}, message.text.trim().split('\n')[0].slice(0, 110))], () => whole(message), {klass: 'told'})),
      one.why && h('p', {class: 'notice'}, one.why),
      one.reply && h('div', {class: 'reply'}, prose(one.reply.text), [...(one.reply.calls ?? [])].map((call) => h('div', {class: 'call'}, h('span', {class: 'role'}, call.name), code(arguments_(call.arguments), 'arguments')))),
      one.effects.map((effect, m) => did(effect, `${n} ${m}`)));
  }

  async function whole(message) {
    if (message.size <= message.text.length) return plain(message.text, 'the prompt');
    try {
      return plain((await ask('message', run, name, message.digest)).text, 'the prompt');
    } catch (error) {
      return [plain(message.text, 'the prompt'), h('p', {class: 'quiet'}, exported ? 'The rest of it is not in this file.' : error.message)];
    }
  }

  function did(effect, key) {
    if (effect.kind === 'patch') return fold(`did ${key}`, [h('span', {class: 'role'}, 'patch'), ' ', h('span', {class: 'quiet'}, effect.path)], () => diff(effect.files), {klass: 'did'});
    if (effect.kind === 'once') return fold(`did ${key}`, [h('span', {class: 'role'}, 'decided'), ' ', h('span', {class: 'quiet'}, effect.path)], () => plain(effect.text), {klass: 'did'});
    const how = effect.verdict ?? (effect.outcome === 'finished' ? `exit ${effect.exit}` : effect.outcome);
    return fold(`did ${key}`, [h('span', {class: 'role'}, 'executed'), ' ', effect.verdict || effect.outcome !== 'finished' ? verdictChip(how) : h('span', {class: `verdict ${effect.exit === 0 ? '' : 'fail'}`}, how), ' ',
      h('span', {class: 'quiet'}, `${effect.path}${effect.seconds === undefined ? '' : ` · ${effect.seconds.toFixed(2)} s`}`), ' ', effect.why && h('span', {class: 'first'}, effect.why.slice(0, 110))],
    () => [plain(effect.text), effect.dropped > 0 && h('p', {class: 'quiet'}, `${effect.dropped.toLocaleString('en')} bytes of output were not kept.`),
      effect.cut && fold(`all ${key}`, `all ${effect.size.toLocaleString('en')} characters`, async () => plain((await ask('execution', run, name, effect.key)).text))], {klass: 'did'});
  }

  function ending() {
    const end = said.end;
    if (!end) return said.stopped ? h('section', {class: 'turn'}, h('header', {}, `Stopped: ${said.stopped.reason}`), h('p', {}, said.stopped.why), h('p', {class: 'quiet'}, 'The same command goes on from here.')) : null;
    return h('section', {class: 'turn end'}, h('header', {}, `Ended: ${end.reason}`), end.note && h('p', {}, end.note), end.why && h('div', {class: 'prose'}, end.why),
      end.files && diff(end.files), end.script && [h('h3', {}, 'The test'), code(end.script, 'the test')], end.output && fold('its output', 'What it printed', () => plain(end.output)),
      end.value && end.value !== 'null' && fold('its value', 'As it is on record', () => plain(end.value)));
  }

  function go(to) {
    if (!turns().length) return;
    at = Math.min(turns().length - 1, Math.max(0, to));
    turns().forEach((one, n) => one.classList.toggle('here', n === at));
    turns()[at].scrollIntoView({block: 'start'});
    turns()[at].focus({preventScroll: true});
    history.replaceState(null, '', here('t', which, turns()[at].dataset.path.split('/')[0] || '-'));
  }

  const beside = async (step) => {
    const order = (await ask('instance', run, name)).order.filter((one) => one !== 'votes');
    const to = order[order.indexOf(which) + step];
    if (to) location.hash = here('t', to);
  };
  page.step = (n) => go(at + n);
  page.keys = {
    o: () => turns()[at]?.querySelectorAll('details').forEach((one, n, all) => { one.open = n ? all[0].open : !all[0].open; }),
    '[': () => beside(-1), ']': () => beside(1),
    f: () => { follows = !follows; if (follows) scrollTo(0, document.body.scrollHeight); },
  };
  page.changed = async (event) => {
    if (!(name in event.rows)) return false;
    const now = await ask('trajectory', run, name, which);
    if (JSON.stringify(now) === JSON.stringify(said)) return false;
    said = now;
    draw();
    if (follows) scrollTo(0, document.body.scrollHeight);
    return true;
  };
  draw();
  page.arrived = () => {
    const n = turn === undefined ? -1 : said.turns.findIndex((one) => (one.path.split('/')[0] || '-') === turn);
    if (n >= 0) go(n);
  };
  return page;
}

function arguments_(text) {
  if (typeof text !== 'string') return JSON.stringify(text, null, 1);
  try {
    const value = JSON.parse(text);
    const only = value && typeof value === 'object' ? Object.values(value) : [];
    return only.length === 1 && typeof only[0] === 'string' ? only[0] : JSON.stringify(value, null, 1);
  } catch {
    return text;
  }
}
