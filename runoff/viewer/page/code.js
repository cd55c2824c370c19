// Code, diffs and long texts.
import {h, put, count} from './text.js';

const WORDS = new Set(('and as assert async await break case catch class const continue def default del delete do elif else enum except export extends '
  + 'extern false finally fn for from func function global go goto if impl import in include instanceof interface is lambda let match mod mut new nil None '
  + 'nonlocal not null or package pass pub public private protected raise range return self static struct super switch this throw True False try type typeof '
  + 'undefined union unsafe use var void while with yield').split(' '));
const TOKEN = /("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`)|((?:#|\/\/)(?=\s|!|$).*)|\b(\d[\w.]*)\b|([A-Za-z_]\w*)/g;
const LONG = 2000;

// A line of code as text and coloured pieces; of a very long one only the text.
export function coloured(line) {
  if (line.length > LONG) return [line];
  const found = [];
  let at = 0;
  for (const token of line.matchAll(TOKEN)) {
    const kind = token[1] ? 's' : token[2] ? 'c' : token[3] ? 'n' : WORDS.has(token[4]) ? 'k' : '';
    if (!kind) continue;
    if (token.index > at) found.push(line.slice(at, token.index));
    found.push(h('span', {class: kind}, token[0]));
    at = token.index + token[0].length;
  }
  if (at < line.length) found.push(line.slice(at));
  return found;
}

export function code(text, label = 'code') {
  const lines = text.replace(/\n$/, '').split('\n');
  return h('pre', {class: 'code', tabindex: 0, 'aria-label': label}, lines.slice(0, 3000).map((line) => [coloured(line), '\n']),
    lines.length > 3000 && `… ${count(lines.length - 3000, 'more line')}`);
}

// Files of a patch, with what differs inside of a changed line marked.
export function diff(files) {
  if (!files.length) return h('p', {class: 'quiet'}, 'The patch is empty.');
  return files.map((file) => h('section', {class: 'file'},
    h('h4', {}, h('code', {}, file.path), ' ', h('span', {class: 'plus'}, `+${file.added}`), ' ', h('span', {class: 'minus'}, `−${file.deleted}`)),
    h('pre', {class: 'diff', tabindex: 0, 'aria-label': `diff of ${file.path}`}, lined(file.lines.filter((one) => !heading(file, one)))),
    file.left > 0 && h('p', {class: 'quiet'}, `What is left out here: ${count(file.left, 'more line')} of this file’s diff.`)));
}

// What the heading says already: only where it says just that.
function heading(file, [kind, text]) {
  return kind === 'm' && (text === `diff --git a/${file.path} b/${file.path}` || text === `--- a/${file.path}` || text === `+++ b/${file.path}` || /^index [0-9a-f]+\.\.[0-9a-f]+( 100644)?$/.test(text));
}

function lined(lines) {
  const made = [];
  for (let at = 0; at < lines.length;) {
    if (lines[at][0] !== 'd') { made.push(line(lines[at++])); continue; }
    const gone = [], come = [];
    while (lines[at]?.[0] === 'd') gone.push(lines[at++]);
    while (lines[at]?.[0] === 'a') come.push(lines[at++]);
    const pairs = gone.length === come.length;
    gone.forEach((one, n) => made.push(line(one, pairs ? come[n][1] : null)));
    come.forEach((one, n) => made.push(line(one, pairs ? gone[n][1] : null)));
  }
  return made;
}

function line([kind, text, before, after], other = null) {
  const code = kind === 'a' || kind === 'd' || kind === 's';
  return h('span', {class: `line l${kind}`}, h('i', {'data-n': before ?? ''}), h('i', {'data-n': after ?? ''}),
    code ? [h('b', {}, text.slice(0, 1)), marked(text.slice(1), other?.slice(1))] : text, '\n');
}

function marked(text, other) {
  if (other === undefined || other === null || text === other || text.length > LONG) return coloured(text);
  let head = 0, tail = 0;
  while (head < text.length && text[head] === other[head]) head++;
  while (tail < Math.min(text.length, other.length) - head && text.at(-1 - tail) === other.at(-1 - tail)) tail++;
  const middle = text.slice(head, text.length - tail);
  if (!middle || middle.length > 0.7 * text.length) return coloured(text);
  return [coloured(text.slice(0, head)), h('mark', {}, coloured(middle)), coloured(text.slice(text.length - tail))];
}

// What a model wrote: prose, with its blocks of code as code.
export function prose(text) {
  const made = [];
  let block = null, lines = [];
  const close = () => {
    const whole = lines.join('\n');
    if (whole.trim()) made.push(block === null ? h('div', {class: 'prose'}, whole.replace(/^\n+|\n+$/g, '')) : code(whole));
    lines = [];
  };
  for (const line of text.split('\n')) {
    const opens = block === null && (/^```\w*\s*$/.test(line) ? '```' : line.match(/^<(test|replace|with|search|file|patch|diff)\b[^>]*>\s*$/)?.[1]);
    if (opens) {
      close();
      if (opens !== '```') made.push(h('div', {class: 'tagged'}, line));
      block = opens;
    } else if (block === '```' && /^```\s*$/.test(line)) { close(); block = null; }
    else if (block && line.trim() === `</${block}>`) { close(); made.push(h('div', {class: 'tagged'}, line)); block = null; }
    else lines.push(line);
  }
  close();
  return made;
}

export function plain(text, label = 'output') {
  return text ? h('pre', {class: 'plain', tabindex: 0, 'aria-label': label}, text) : h('p', {class: 'quiet'}, 'Nothing.');
}

const opened = new Map();

// A part that opens; what is in it is made when it does. Whether it is open outlives the page being drawn again.
export function fold(key, summary, made, {open = false, klass = ''} = {}) {
  const at = location.hash.split('/').slice(0, 6).join('/') + ' ' + key;
  const is = opened.get(at) ?? open, place = h('div', {class: 'inside'});
  const folded = h('details', {class: klass, 'data-key': key, open: is, ontoggle: () => {
    if (folded.open !== (opened.get(at) ?? open)) opened.set(at, folded.open);
    if (folded.open && !place.firstChild) fill();
  }}, h('summary', {'data-key': `summary ${key}`}, summary), place);
  const fill = () => {
    const inside = made();
    if (inside instanceof Promise) {
      put(place, h('p', {class: 'quiet'}, 'Reading …'));
      inside.then((it) => { place.replaceChildren(); put(place, it); }, (error) => { place.replaceChildren(); put(place, h('p', {class: 'notice'}, error.message)); });
    } else put(place, inside);
  };
  if (is) fill();
  return folded;
}
