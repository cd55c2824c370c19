// Text on the page: made visible, never markup. Nothing else here makes elements.

const PLAIN = /[^\n\t\x20-\x7e]/u;
const EVERY = /[^\n\t\x20-\x7e]/gu;
const HIDES = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u{fe00}-\u{fe0f}\u{e0100}-\u{e01ef}\u115f\u1160\u3164\uffa0]/u;

// Every character shows: controls, ANSI escapes, what reorders or hides, bytes that are no UTF-8. As visible.py does it.
export function shown(text) {
  const whole = String(text);
  return PLAIN.test(whole) ? whole.replace(EVERY, visible) : whole;
}

function visible(character) {
  if (character === '\r') return '␍';
  const code = character.codePointAt(0);
  const hex = code.toString(16).toUpperCase();
  if (code >= 0xdc80 && code <= 0xdcff) return `⟨byte ${(code - 0xdc00).toString(16).toUpperCase()}⟩`;
  return HIDES.test(character) ? `⟨U+${hex.padStart(4, '0')}⟩` : character;
}

// An element. Strings become text that shows; addresses can only lead to places of this page.
export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name === 'href') made.setAttribute('href', value.startsWith('#') ? value : '#/');
    else if (name === 'value') made.value = value;
    else made.setAttribute(name, value === true ? '' : shown(value));
  }
  put(made, children);
  return made;
}

export function put(place, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    place.append(child instanceof Node ? child : document.createTextNode(shown(child)));
  }
}

export function address(...parts) {
  return '#/' + parts.map((part) => encodeURIComponent(String(part).toWellFormed?.() ?? part)).join('/');
}

export function count(n, one, many) {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many ?? one + 's'}`;
}

export function dollars(sum) {
  if (sum === null || sum === undefined) return '–';
  return sum >= 100 ? '$' + Math.round(sum).toLocaleString('en') : sum >= 0.1 || sum === 0 ? '$' + sum.toFixed(2) : '$' + sum.toFixed(4);
}

export function tokens(n) {
  if (n === null || n === undefined) return '–';
  if (n < 1000) return String(n);
  const [size, unit] = n >= 999500000 ? [1e9, 'G'] : n >= 999500 ? [1e6, 'M'] : [1e3, 'k'];
  return `${Number((n / size).toPrecision(3))} ${unit}`;
}

export function took(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  return hours ? `${hours} h ${String(minutes).padStart(2, '0')} min` : `${minutes} min ${String(whole % 60).padStart(2, '0')} s`;
}

export function cost(of) {
  if (of.recorded && (!of.calls || of.recorded === of.calls)) return 'recorded';
  return of.calls ? dollars(of.cost) : '–';
}

export function say(text) {
  document.getElementById('said').textContent = shown(text);
}
