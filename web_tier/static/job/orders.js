// The sort orders of a job's images. web_tier/results/query.py has the same orders for browsers without JavaScript.

const STATUS_ORDER = ["failed", "waiting", "done"];

let collator; // made when it is needed, which takes long

/** Compare two names by the alphabet, and by the numbers in them. */
export function compareNames(a, b) {
    collator ??= new Intl.Collator(undefined, { numeric: true });
    return collator.compare(a, b);
}

/** Compare functions of two rows, by the `sort` parameter of the page's URL. Missing labels and scores come last. */
export const ORDERS = {
    "": null, // as uploaded: the order of the ids
    name: (a, b) => compareNames(a.name, b.name),
    label: (a, b) => compareNames(a.label ?? "\uffff", b.label ?? "\uffff"),
    sure: (a, b) => (b.score ?? -1) - (a.score ?? -1),
    unsure: (a, b) => (a.score ?? 2) - (b.score ?? 2),
    state: (a, b) => STATUS_ORDER.indexOf(a.status) - STATUS_ORDER.indexOf(b.status),
    recent: (a, b) => (b.at ?? 0) - (a.at ?? 0),
};
