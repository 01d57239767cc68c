import type { FastifyContextConfig } from 'fastify';

import { problemKind } from './problem.ts';
import type { ProblemKind } from './problem.ts';

type RouteConfig = Pick<FastifyContextConfig, 'access' | 'customerProblems'>;

const SCHEME = 'bearer';

/** API keys and JWTs are one scheme, because both are sent in the same header. */
export const securitySchemes = {
  [SCHEME]: {
    type: 'http' as const,
    scheme: 'bearer',
    description:
      'An API key (`npm run keys`), or a JWT of the identity provider of this installation. It ' +
      'belongs to a service, or to a customer, who sees and changes only its own orders.',
  },
};

/** What the document says of the access to one operation: the scope that it requires, and its refusals. */
export function describeAccess({ access, customerProblems = [] }: RouteConfig = {}): Readonly<{
  security: Record<string, string[]>[];
  note: string;
  problems: readonly ProblemKind[];
}> {
  if (access === undefined || access === 'public') return { security: [], note: '', problems: [] };
  const { scope, customers } = access;
  return {
    security: [{ [SCHEME]: [scope] }],
    note: `Requires the scope \`${scope}\`.${customers ? '' : ' For services only.'}`,
    problems: [
      problemKind('unauthenticated'),
      problemKind('insufficient_scope'),
      ...(customers ? customerProblems : [problemKind('services_only')]),
      problemKind('authentication_unavailable'),
    ],
  };
}
