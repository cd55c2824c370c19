// Where the page's answers come from: the server, or the file that holds them.
import {say} from './text.js';

const inside = document.getElementById('answers');
const answers = inside ? JSON.parse(inside.textContent) : null;
export const exported = inside ? JSON.parse(document.getElementById('about').textContent) : null;
const kept = new Map();

export class NotThere extends Error {}

// An answer: a kind, the run, and what else names the thing.
export async function ask(...asked) {
  const key = JSON.stringify(asked);
  if (answers) return await fromFile(asked, key);
  let reply;
  try {
    reply = await fetch('/api?q=' + encodeURIComponent(key));
  } catch {
    throw new NotThere('The server does not answer: `runoff view` has ended. The same command opens the window again.');
  }
  if (reply.status === 401) throw new NotThere('Open the address that `runoff view` printed: it has the key.');
  const said = await reply.json();
  if (!reply.ok) throw new NotThere(said.error);
  return said;
}

// The same, asked once: for what does not change.
export function once(...asked) {
  const key = JSON.stringify(asked);
  if (!kept.has(key)) {
    if (kept.size > 300) kept.clear();
    kept.set(key, ask(...asked).catch((error) => { kept.delete(key); throw error; }));
  }
  return kept.get(key);
}

async function fromFile(asked, key) {
  if (asked[0] === 'search') return await searched(asked[2], asked[3]);
  const packed = answers[key];
  if (packed === undefined) throw new NotThere('This is not in the file: it was left out when the run was exported.');
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'))).json();
}

async function searched(text, instance) {
  const hits = [], low = text.toLowerCase();
  const walk = (value, hit) => {
    if (hits.length >= 200) return;
    if (typeof value === 'string') {
      const at = value.toLowerCase().indexOf(low);
      if (at >= 0) hits.push({...hit, before: value.slice(Math.max(0, at - 70), at), match: value.slice(at, at + text.length), after: value.slice(at + text.length, at + text.length + 70)});
    } else if (value && typeof value === 'object') {
      const here = typeof value.path === 'string' && 'effects' in value ? {...hit, path: value.path} : hit;
      for (const part of Object.values(value)) walk(part, here);
    }
  };
  for (const key of Object.keys(answers)) {
    const [kind, , name, trajectory] = JSON.parse(key);
    if (kind === 'trajectory' && (!instance || name === instance)) {
      walk((await fromFile([kind], key)), {instance: name, trajectory, path: '', what: 'text'});
    }
  }
  return {hits, partial: hits.length >= 200, text};
}

// Hear of a run's changes until the function that is given back is called. A page that nobody sees listens to nothing.
export function listen(run, told) {
  if (answers) return () => {};
  let source = null, gone = false;
  const open = () => {
    if (gone || source || document.hidden) return;
    source = new EventSource('/events?run=' + encodeURIComponent(run));
    source.onmessage = (event) => { say(''); told(JSON.parse(event.data)); };
    source.onerror = () => { if (!gone) say('The server does not answer; it is asked again.'); };
  };
  const close = () => { source?.close(); source = null; };
  const turned = () => (document.hidden ? close() : open());
  document.addEventListener('visibilitychange', turned);
  open();
  return () => { gone = true; close(); document.removeEventListener('visibilitychange', turned); };
}
