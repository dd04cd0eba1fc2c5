// Pages that show, again and again, what the server renders now.

/**
 * Show the elements with these ids as a page that the server has rendered now has them; see `merge`.
 *
 * @param {Response} response - with the page.
 * @param {string[]} ids
 */
export async function mergePage(response, ids) {
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ids) merge(document.getElementById(id), page.getElementById(id));
}

/**
 * Make a node equal to a fresh one. What is equal stays, with its focus and with what the user has entered. Children
 * with an `id` are known by it, so that rows may move. An element with `data-static` stays as it is.
 */
function merge(shown, fresh) {
    if (shown.isEqualNode(fresh)) return;
    if (shown.nodeType !== Node.ELEMENT_NODE) {
        shown.nodeValue = fresh.nodeValue;
        return;
    }
    if ("static" in shown.dataset) return;
    for (const { name } of [...shown.attributes]) if (!fresh.hasAttribute(name)) shown.removeAttribute(name);
    for (const { name, value } of fresh.attributes) {
        if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
    }
    mergeChildren(shown, [...fresh.childNodes]);
}

function mergeChildren(shown, fresh) {
    const known = new Map([...shown.children].filter(({ id }) => id).map((child) => [child.id, child]));
    const others = [...shown.childNodes].filter(({ id }) => !id);
    const nodes = fresh.map((node) => {
        const own = node.id ? known.get(node.id) : takeLike(others, node);
        if (own?.nodeName !== node.nodeName) return node;
        merge(own, node);
        return own;
    });
    const kept = new Set(nodes);
    for (const node of [...shown.childNodes]) if (!kept.has(node)) node.remove();
    for (const [index, node] of nodes.entries()) {
        if (shown.childNodes[index] !== node) shown.insertBefore(node, shown.childNodes[index] ?? null);
    }
}

/** Take the first of the nodes that is as `node` is, and those before it; undefined if there is none. */
function takeLike(nodes, { nodeName }) {
    return nodes.splice(0, 1 + nodes.findIndex((each) => each.nodeName === nodeName)).at(-1);
}
