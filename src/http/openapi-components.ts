import { z } from 'zod';

import { problemKinds } from './problem-kinds.ts';
import { problemType } from './problem.ts';

const { code, title, status } = problemKinds.invalidRequest;

/** What a problem looks like, for the documentation. */
export const problemExample = {
  type: problemType(code),
  title,
  status,
  detail: '/items/0/quantity must be at least 1.',
  code,
  requestId: '6f1c2a52-3c57-4d1e-9a5b-0c1df4b4a3f5',
  errors: [{ pointer: '/items/0/quantity', message: 'must be at least 1' }],
};

/** The body of every failure, for the OpenAPI document. */
export const problemSchema = z
  .looseObject({
    type: z.string().meta({ format: 'uri-reference', description: 'Where the code is explained.' }),
    title: z.string(),
    status: z.int().min(400).max(599),
    detail: z.string().meta({ description: 'What went wrong this time and what to do about it.' }),
    code: z.string().meta({ pattern: '^[a-z][a-z0-9_]*$', description: 'Stable; act on this.' }),
    requestId: z.string().meta({ description: 'Under which the log has the rest.' }),
    errors: z
      .array(z.object({ pointer: z.string(), message: z.string() }))
      .optional()
      .meta({
        description:
          'What is wrong with the request. pointer is a JSON pointer into the body, or ' +
          'query/limit, path/orderId, header/If-Match.',
      }),
    current: z
      .object({ status: z.string(), version: z.int(), allowed: z.array(z.string()) })
      .optional()
      .meta({ description: 'How the order stands, and which commands it allows now.' }),
  })
  .meta({
    id: 'Problem',
    description: 'Problem details, RFC 9457.',
    examples: [problemExample],
  });

/** Headers of answers, for the OpenAPI document. */
export const answerHeaders = {
  'X-Request-Id': {
    description: 'Names this request in the log.',
    schema: { type: 'string', format: 'uuid' },
  },
  ETag: {
    description:
      'Names this answer, for If-None-Match. That of an order is its version, for If-Match too.',
    schema: { type: 'string', examples: ['"v1"'] },
  },
  Location: {
    description: 'Where the new resource is.',
    schema: { type: 'string', format: 'uri-reference' },
  },
  'Idempotency-Replayed': {
    description: 'true when the answer is the stored one of an earlier request with this key.',
    schema: { type: 'string', enum: ['true'] },
  },
  'Retry-After': {
    description: 'Seconds to wait before the same request is worth sending again.',
    schema: { type: 'integer', minimum: 1 },
  },
} as const;
