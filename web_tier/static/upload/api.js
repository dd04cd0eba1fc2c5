// The calls of the page to /api/v1.

const ANSWER_MS = 120_000;
const STALL_MS = 45_000;
const ASK_MS = 10_000;

/** Raised when a call got no answer, or one that says so; `again` tells whether repeating it may help. */
export class CallError extends Error {
    constructor(message, again, waitSeconds = 0) {
        super(message);
        Object.assign(this, { again, waitSeconds });
    }
}

/** Raised when a call was refused because the user is not signed in; after a sign-in it can be repeated. */
export class SignedOutError extends CallError {
    constructor() {
        super("you are not signed in", true);
    }
}

/** Return a key that no other request has. Also pages without TLS get random values, unlike `randomUUID`. */
export function newKey() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Create a job; its images stay if `keep`; the same `key` makes no second one. */
export function createJob(name, keep, key) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    return post("/api/v1/jobs", headers, JSON.stringify({ name, keep }), () => {});
}

/**
 * Send items to a job; the same `key` makes no second images of them.
 *
 * @param {(share: number) => void} progress - told how much of it is sent, 0 to 1.
 */
export function addImages(jobId, items, key, progress) {
    const form = new FormData();
    for (const item of items) form.append("images", item.blob, item.name);
    return post(`/api/v1/jobs/${jobId}/images`, { "Idempotency-Key": key }, form, progress);
}

/** Return whether the web tier and the services that it needs respond. */
export async function isReady() {
    try {
        return (await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(5_000) })).ok;
    } catch {
        return false;
    }
}

/** Return what the fleet does just now, as its page shows it; null without an answer in time. */
export async function fleetNow() {
    try {
        const answer = await fetch("/fleet/now", { cache: "no-store", signal: AbortSignal.timeout(ASK_MS) });
        return answer.ok ? await answer.json() : null;
    } catch {
        return null;
    }
}

// XMLHttpRequest, because fetch does not tell how much of a body is sent.
function post(url, headers, body, progress) {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    return new Promise((resolve, reject) => {
        let timer;
        const patience = (milliseconds) => {
            clearTimeout(timer);
            timer = setTimeout(() => request.abort(), milliseconds);
        };
        request.upload.onprogress = ({ loaded, total }) => {
            progress(total ? loaded / total : 0);
            patience(loaded === total ? ANSWER_MS : STALL_MS);
        };
        request.onloadend = () => {
            clearTimeout(timer);
            answer(request, resolve, reject);
        };
        patience(ANSWER_MS);
        request.send(body);
    });
}

function answer(request, resolve, reject) {
    const body = parsed(request.responseText);
    const whole = request.status >= 200 && request.status < 300;
    if (body && (whole || "rejected" in body)) {
        resolve(body);
        return;
    }
    if (request.status === 401) {
        reject(new SignedOutError());
        return;
    }
    const again = request.status === 0 || request.status === 408 || request.status === 429 || request.status >= 500;
    const words = body?.detail ?? (request.status ? `the server answered ${request.status}` : "the connection was cut");
    reject(new CallError(words, again || whole, Number(request.getResponseHeader("Retry-After")) || 0));
}

function parsed(text) {
    try {
        return JSON.parse(text);
    } catch {
        return null;
    }
}
