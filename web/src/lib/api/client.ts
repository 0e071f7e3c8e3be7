// Requests to the controller, each typed by the OpenAPI document: a route, parameter or field that is not there does not
// compile. A request is first made as a value (`call`), so that it can be shown, copied and sent; a refusal is thrown.
import createClient, { type MaybeOptionalInit, type Middleware } from 'openapi-fetch';
import { refusalOf, unreachable, type Refusal } from './refusal';
import type { paths } from './schema';

type Listener = (refusal: Refusal) => void;
type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';
type Route<M extends Method> = { [R in keyof paths]: paths[R] extends Record<Lowercase<M>, { responses: unknown }> ? R : never }[keyof paths];
type Init<M extends Method, R extends Route<M>> = MaybeOptionalInit<paths[R], Lowercase<M>>;
/** Nothing has to be given if nothing is required. */
type InitArgument<T> = undefined extends T ? [T?] : [T];
type AnswerOf<R extends keyof paths, M extends Method> = paths[R][Lowercase<M>] extends { responses: infer Responses }
  ? { [Status in keyof Responses & (200 | 201 | 202)]: Responses[Status] extends { content: { 'application/json': infer T } } ? T : undefined }[keyof Responses & (200 | 201 | 202)]
  : never;

/** A request that is not sent yet, and what its answer will be. */
export interface Call<T = unknown> {
  readonly method: Method;
  /** As the document has it: `/v1/vms/{name}`. */
  readonly route: string;
  /** With its parameters filled in. */
  readonly path: string;
  readonly body?: unknown;
  /** Only in the type. */
  readonly answer?: T;
}

interface Given {
  params?: { path?: Record<string, string>; query?: Record<string, unknown> };
  body?: unknown;
}

export function call<M extends Method, R extends Route<M>>(method: M, route: R, ...[init]: InitArgument<Init<M, R>>): Call<AnswerOf<R, M>> {
  const { params, body } = (init ?? {}) as Given;
  const filled = route.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params?.path?.[name] ?? ''));
  return { method, route, path: withQuery(filled, params?.query ?? {}), body };
}

/** The answer's body; the refusal if there is none. */
export async function send<T>({ method, path, body }: Call<T>, signal?: AbortSignal): Promise<T> {
  // What the parts of the path and the query are was checked where the call was made.
  const untyped = client.request as unknown as (method: string, path: string, init: object) => Promise<{ data?: unknown }>;
  const { data } = await untyped(method.toLowerCase(), path, { body, signal });
  return data as T;
}

/** What is empty is not sent. */
export function withQuery(path: string, query: Record<string, unknown>): string {
  const parts = Object.entries(query)
    .filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false)
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`);
  return parts.length === 0 ? path : `${path}?${parts.join('&')}`;
}

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
  // Whoever ended it himself knows why.
  onError: ({ error }) => (error instanceof DOMException && error.name === 'AbortError' ? error : unreachable()),
};

const client = createClient<paths>({ baseUrl: location.origin, credentials: 'same-origin', headers: { Accept: 'application/json' }, fetch: (request) => fetch(request) });
client.use(middleware);
