// The orders that images can be shown in; web_tier/results/query.py has the same for browsers without JavaScript.

const STATES = ["failed", "waiting", "done"];

export const byName = new Intl.Collator(undefined, { numeric: true }).compare;

export const ORDERS = {
  "": null, // as uploaded: the order of the ids
  name: (a, b) => byName(a.name, b.name),
  label: (a, b) => byName(a.label ?? "\uffff", b.label ?? "\uffff"),
  sure: (a, b) => (b.score ?? -1) - (a.score ?? -1),
  unsure: (a, b) => (a.score ?? 2) - (b.score ?? 2),
  state: (a, b) => STATES.indexOf(a.status) - STATES.indexOf(b.status),
  recent: (a, b) => (b.at ?? 0) - (a.at ?? 0),
};
