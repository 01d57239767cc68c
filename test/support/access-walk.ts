import { z } from 'zod';
import type { Access, Scope } from '#src/auth/principal.ts';
import { problemOf } from './api-shapes.ts';
import type { HttpClient, HttpResponse } from './http-client.ts';

type Headers = Readonly<Record<string, string>>;

/** Who calls each operation of a service. */
export type Callers = Readonly<{
  /** None of them has a valid token, each for another reason. */
  invalid: Readonly<Record<string, Headers>>;
  /** A service that has every scope but this one. */
  without: (scope: Scope) => Headers;
  /** A service that has only this scope. */
  withOnly: (scope: Scope) => Headers;
  /** A customer that has every scope. */
  customer: Headers;
}>;

const ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
const operationShape = z.looseObject({
  operationId: z.string(),
  security: z.array(z.record(z.string(), z.array(z.string()))).optional(),
  responses: z.record(z.string(), z.unknown()),
});
const documentShape = z.looseObject({
  paths: z.record(z.string(), z.record(z.string(), operationShape)),
});

/**
 * Sends every caller to every operation of the OpenAPI document.
 * @returns where the service lets somebody in whom `access` does not name, keeps somebody out whom it names, or
 * documents anything else
 */
export async function walkAccess(
  client: HttpClient,
  access: Readonly<Record<string, Access>>,
  callers: Callers,
): Promise<string[]> {
  const { paths } = documentShape.parse(
    JSON.parse((await client.request('GET', '/openapi.json')).text),
  );
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, spec]) => ({ method: method.toUpperCase(), path, spec })),
  );
  const existing = new Set(operations.map(({ spec }) => spec.operationId));
  const faults = Object.keys(access)
    .filter((name) => !existing.has(name))
    .map((name) => `${name} does not exist`);
  for (const { method, path, spec } of operations) {
    const ask = (headers: Headers) =>
      client.request(method, path.replaceAll(/\{\w+\}/g, ID), { headers });
    const found = await faultsOf(spec, access[spec.operationId], callers, ask);
    faults.push(...found.map((fault) => `${spec.operationId}: ${fault}`));
  }
  return faults;
}

async function faultsOf(
  spec: z.infer<typeof operationShape>,
  access: Access | undefined,
  callers: Callers,
  ask: (headers: Headers) => Promise<HttpResponse>,
): Promise<string[]> {
  if (access === undefined) return ['nobody said who may call it'];
  const faults =
    documented(spec) === documentedFor(access) ? [] : [`documents ${documented(spec)}`];
  // At the same time, because unknown keys are looked for together.
  const visited = await Promise.all(
    visits(access, callers).map(async ([who, headers, wanted]) => {
      const response = await ask(headers);
      const refusal = refusalIn(response);
      return refusal === wanted ? [] : [`${who} got ${response.status} ${refusal}, not ${wanted}`];
    }),
  );
  return [...faults, ...visited.flat()];
}

const NONE = 'no refusal';

/** Each caller and the refusal that it must get. */
function visits(access: Access, callers: Callers): [string, Headers, string][] {
  const invalid = Object.entries(callers.invalid);
  if (access === 'public') {
    return invalid.map(([who, headers]) => [who, headers, NONE]);
  }
  const { scope, customers } = access;
  return [
    ...invalid.map(([who, headers]): [string, Headers, string] => [
      who,
      headers,
      '401 unauthenticated Bearer',
    ]),
    [
      `a service without ${scope}`,
      callers.without(scope),
      `403 insufficient_scope Bearer ${scope}`,
    ],
    [`a service with ${scope} only`, callers.withOnly(scope), NONE],
    ['a customer', callers.customer, customers ? NONE : '403 services_only'],
  ];
}

/** How a response says that the caller may not do this. */
function refusalIn(response: HttpResponse): string {
  const { status, headers } = response;
  if (status !== 401 && status !== 403) return status >= 500 ? `${status}` : NONE;
  const { code } = problemOf(response);
  const challenge = headers['www-authenticate'] ?? '';
  const scope = /scope="([^"]+)"/.exec(challenge)?.[1];
  return [status, code, ...(challenge.startsWith('Bearer realm=') ? ['Bearer'] : []), scope]
    .filter((part) => part !== undefined)
    .join(' ');
}

function documented({ security, responses }: z.infer<typeof operationShape>): string {
  const text = JSON.stringify(responses);
  const codes = ['unauthenticated', 'insufficient_scope', 'authentication_unavailable'];
  const named = codes.filter((code) => text.includes(`"${code}"`));
  return `${JSON.stringify(security)} ${named.join(' ')}`;
}

function documentedFor(access: Access): string {
  return access === 'public'
    ? '[] '
    : `[{"bearer":["${access.scope}"]}] unauthenticated insufficient_scope authentication_unavailable`;
}
