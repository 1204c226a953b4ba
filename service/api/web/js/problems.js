// What went wrong, in the server's words, with the way out where there is one.

import { $, button } from "./dom.js";

/** A refused or failed request; `title` and `detail` are for people. `retry` is what a person may want to do again. */
export class Problem extends Error {
  constructor({ type = "", status = 0, title = "Something went wrong", detail = "", retry_after_s = null, request_id = "" }) {
    super(detail || title);
    Object.assign(this, { type, status, title, detail, retryAfterS: retry_after_s, requestId: request_id });
  }
}

/** What to add to the server's own words, by the end of the problem's type. */
const ADVICE = {
  "too-many-requests": "The server has much to do.",
  unavailable: "This passes by itself as a rule.",
  expired: "Open the video again to start anew.",
};

/** Show a problem. retry: called when the person wants to try again; left out where that cannot help. */
export function showProblem(error, retry = null) {
  const problem = error instanceof Problem ? error : new Problem({ detail: error.detail ?? error.message, ...error });
  if (problem.status === 401) $("key-dialog").showModal();
  const advice = ADVICE[problem.type.split(":").at(-1)] ?? "";
  const wait = problem.retryAfterS ? `Try again in ${problem.retryAfterS} s.` : "";
  $("problem-title").textContent = problem.title;
  $("problem-detail").textContent = [sentence(problem.detail), advice, wait].filter(Boolean).join(" ");
  $("problem-id").textContent = problem.requestId ? `Request ${problem.requestId}` : "";
  $("problem-actions").replaceChildren(...(retry ? [button("Try again", () => (hideProblem(), retry()))] : []));
  $("problem").hidden = false;
}

export function hideProblem() {
  $("problem").hidden = true;
}

/** An event handler that shows what it throws. */
export function guarded(action) {
  return async (...parts) => {
    try {
      return await action(...parts);
    } catch (error) {
      if (!(error instanceof Problem)) console.warn(error);
      showProblem(error);
      return undefined;
    }
  };
}

function sentence(text) {
  if (!text) return "";
  const begun = text[0].toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}
