// Requests to the controller. Typed by the OpenAPI document; a refusal is thrown.
import createClient, { type Middleware } from 'openapi-fetch';
import { refusalOf, unreachable, type Refusal } from './refusal';
import { routes } from './routes';
import type { paths } from './schema';

type Listener = (refusal: Refusal) => void;

let csrfToken: string | undefined;
const onUnauthenticated = new Set<Listener>();

/** Each change must carry the session's token, which a page of another origin can't read. */
export function setCsrfToken(token: string | undefined) {
  csrfToken = token;
}

/** Tells when a request was refused because nobody is logged in any more. */
export function whenUnauthenticated(listener: Listener) {
  onUnauthenticated.add(listener);
}

export function headersOf(method: string): Record<string, string> {
  const changes = method !== 'GET' && method !== 'HEAD';
  return changes && csrfToken ? { 'X-Gantry-Csrf': csrfToken } : {};
}

export async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  const refusal = await refusalOf(response);
  if (response.status === 401) for (const listener of onUnauthenticated) listener(refusal);
  throw refusal;
}

const middleware: Middleware = {
  onRequest({ request }) {
    for (const [name, value] of Object.entries(headersOf(request.method))) request.headers.set(name, value);
    return request;
  },
  onResponse: ({ response }) => checked(response),
  onError: () => unreachable(),
};

export const api = createClient<paths>({ baseUrl: '', credentials: 'same-origin' });
api.use(middleware);

/** A request whose route is chosen at run time; the caller knows the shape of its answer. */
export async function request<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const json: Record<string, string> = body === undefined ? {} : { 'Content-Type': 'application/json' };
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      credentials: 'same-origin',
      headers: { Accept: 'application/json', ...json, ...headersOf(method) },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreachable();
  }
  await checked(response);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

const offered = new Set(routes);

/** Whether the controller has this route: `offers('POST /v1/vms/{name}/start')`. */
export function offers(route: string): boolean {
  return offered.has(route);
}
