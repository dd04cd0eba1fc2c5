// The fleet page: it shows every two seconds what the server renders then, while it is visible.

import { keepPolling } from "../connection.js";
import "../dialogs.js";
import { mergePage } from "../merge.js";
import { showValue } from "./chart.js";

const POLL_INTERVAL_MS = 2_000;

async function show(response) {
    await mergePage(response, ["main", "workersPill"]);
    showValue();
}

keepPolling(`/fleet/live${location.search}`, show, () => POLL_INTERVAL_MS);
