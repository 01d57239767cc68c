import createClient from 'openapi-fetch';
import type { paths, Problem } from './api.d.ts';

/** Without the other forms of an order, which only who asks for them gets. */
type OwnMedia = 'application/json' | 'application/problem+json';

/**
 * A typed client of the order service. `token` is an API key or a JWT; without it the service must run with
 * AUTH=off.
 */
export function createOrderClient(baseUrl: string, token?: string) {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return createClient<paths, OwnMedia>({ baseUrl, headers });
}

export type OrderClient = ReturnType<typeof createOrderClient>;

/** The service refused a request. Act on `problem.code`, which never changes. */
export class OrderServiceRefused extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(`${problem.code}: ${problem.detail} (request ${problem.requestId})`);
    this.name = 'OrderServiceRefused';
    this.problem = problem;
  }
}

type Result<Body> = Readonly<{ data?: Body; error?: Problem; response: Response }>;

/**
 * The body of a response. @throws OrderServiceRefused
 */
export function bodyOf<Body>({ data, error, response }: Result<Body>): NonNullable<Body> {
  if (error !== undefined) throw new OrderServiceRefused(error);
  if (data === undefined || data === null) throw new Error(`${response.status} has no body`);
  return data;
}

/** The problem of a request that the service refused. */
export function problemOf({ error, response }: Result<unknown>): Problem {
  if (error === undefined) throw new Error(`${response.status} is no refusal`);
  return error;
}
