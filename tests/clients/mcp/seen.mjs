// What the TypeScript clients share: the steps of the plan on standard input, and the document of all that was seen.
//
// A step is one of
//   {"method": "tools/call", "params": {...}}   a request; with "cancel": true it is cancelled at its first progress,
//                                               with "answers": {...} questions are answered with these meanwhile
//   {"hear": "notifications/...", "count": 1}   waits until so many of them were told since the start
//   {"watch": uri}, {"unwatch": uri}            hears of changes, and of updates of a resource, in the words of the era
// `answers` of the plan are what the client answers with by method; they decide which capabilities it declares.

import { readFileSync } from 'node:fs';

const PATIENCE_MS = 10_000;

export const plan = JSON.parse(readFileSync(0, 'utf8'));
export const [era, kind, ...target] = process.argv.slice(2);
export const headers = process.env.CLIENT_KEY ? { Authorization: `Bearer ${process.env.CLIENT_KEY}` } : {};

/** The capabilities that go with the plan's answers. */
export const capabilities = {};
if (plan.answers['sampling/createMessage']) capabilities.sampling = {};
if (plan.answers['elicitation/create']) capabilities.elicitation = { form: {}, url: {} };
if (plan.answers['roots/list']) capabilities.roots = { listChanged: true };

export class Seen {
  asked = {};
  told = {};
  #answers = plan.answers;

  /** A question of the server. */
  answer({ method, params }) {
    (this.asked[method] ??= []).push(params ?? {});
    return this.#answers[method];
  }

  hear({ method, params }) {
    (this.told[method] ??= []).push(params ?? {});
  }

  /** Takes the steps of the plan with these `requests` by method, and gives what came of each. */
  async take(requests, { watch, unwatch }) {
    const steps = [];
    for (const step of plan.steps) {
      this.#answers = { ...plan.answers, ...step.answers };
      const progress = [];
      const cancel = new AbortController();
      const options = {
        signal: cancel.signal,
        onprogress: ({ progress: n, total, message }) => {
          progress.push({ progress: n, total, message });
          if (step.cancel) cancel.abort('changed my mind');
        },
      };
      const seen = { step };
      try {
        if (step.hear) await this.#heard(step.hear, step.count);
        else if (step.watch) await watch(step.watch);
        else if (step.unwatch) await unwatch(step.unwatch);
        else seen.result = await requests[step.method](step.params ?? {}, options);
      } catch (error) {
        seen.error = { name: error.name, code: error.code, message: error.message, data: error.data };
      }
      steps.push({ ...seen, progress });
    }
    return steps;
  }

  async #heard(method, count) {
    const deadline = Date.now() + PATIENCE_MS;
    while ((this.told[method] ?? []).length < count) {
      if (deadline < Date.now()) throw new Error(`heard ${method} ${this.told[method]?.length ?? 0} times only`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}
