// Why a request failed, in the server's own words, or in ours when there was no server to speak.
import type { Problem } from './types';

export class Refusal extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.detail);
    this.name = 'Refusal';
    this.problem = problem;
  }

  /** The stable word at the end of `type`. */
  get code(): string {
    return this.problem.type.slice(this.problem.type.lastIndexOf(':') + 1);
  }

  /** Whether the same request may succeed later without any change. */
  get passes(): boolean {
    return this.problem.class === 'transient';
  }
}

/** The refusal that an answer carries; every answer that is not 2xx is one. */
export async function refusalOf(response: Response): Promise<Refusal> {
  const text = await response.text().catch(() => '');
  if (response.headers.get('content-type')?.includes('json')) {
    try {
      const problem = JSON.parse(text) as Partial<Problem>;
      if (typeof problem.detail === 'string' && typeof problem.type === 'string') return new Refusal(problem as Problem);
    } catch {
      // Not what it says it is: told below.
    }
  }
  return new Refusal({
    type: 'urn:gantry:problem:not-understood',
    title: 'answer not understood',
    status: response.status,
    class: response.status >= 500 ? 'transient' : 'permanent',
    detail: `the controller answered with status ${response.status} and no explanation`,
    remedy: 'try again; if it stays, look at the controller’s log',
  });
}

/** No answer at all. */
export function unreachable(): Refusal {
  return new Refusal({
    type: 'urn:gantry:problem:controller-unreachable',
    title: 'controller unreachable',
    status: 503,
    class: 'transient',
    detail: 'the controller does not answer',
    remedy: 'nothing is known to have been changed; try again when the connection is back',
  });
}

/** Whatever was thrown, as something that can be shown. */
export function asRefusal(thrown: unknown): Refusal {
  if (thrown instanceof Refusal) return thrown;
  const detail = thrown instanceof Error ? thrown.message : String(thrown);
  return new Refusal({
    type: 'urn:gantry:problem:page-error',
    title: 'error in this page',
    status: 500,
    class: 'permanent',
    detail,
    remedy: 'reload the page',
  });
}
