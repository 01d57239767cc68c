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
    type: z
      .string()
      .meta({ format: 'uri-reference', description: 'Link to the explanation of the code.' }),
    title: z.string(),
    status: z.int().min(400).max(599),
    detail: z.string().meta({ description: 'What went wrong and what to do about it.' }),
    code: z.string().meta({
      pattern: '^[a-z][a-z0-9_]*$',
      description: 'Never changes. Act on this, not on the texts.',
    }),
    requestId: z.string().meta({ description: 'Find the details in the log under this id.' }),
    errors: z
      .array(z.object({ pointer: z.string(), message: z.string() }))
      .optional()
      .meta({
        description:
          'Everything that is wrong with the request. `pointer` is a JSON pointer into the body, ' +
          'or names another part of the request, such as query/limit, path/orderId or ' +
          'header/If-Match.',
      }),
    current: z
      .object({ status: z.string(), version: z.int(), allowed: z.array(z.string()) })
      .optional()
      .meta({ description: 'The present state of the order and the commands that it allows now.' }),
  })
  .meta({
    id: 'Problem',
    description: 'Problem details (RFC 9457).',
    examples: [problemExample],
  });

/** Headers of responses, as JSON Schema with a description. */
export const responseHeaders = {
  'X-Request-Id': {
    type: 'string',
    format: 'uuid',
    description: 'Id of this request in the log.',
  },
  ETag: {
    type: 'string',
    examples: ['"v1"'],
    description:
      'Identifies this state of the resource, for If-None-Match. The ETag of an order is its ' +
      'version, and can be sent as If-Match.',
  },
  Location: {
    type: 'string',
    format: 'uri-reference',
    description: 'Address of the new resource.',
  },
  'Idempotency-Replayed': {
    type: 'string',
    enum: ['true'],
    description:
      'true if this is the stored response to an earlier request with the same Idempotency-Key.',
  },
  'Retry-After': {
    type: 'integer',
    minimum: 1,
    description: 'Seconds to wait before retrying.',
  },
} as const;

export const headerName = z.enum([
  'X-Request-Id',
  'ETag',
  'Location',
  'Idempotency-Replayed',
  'Retry-After',
]);

/** A header that the OpenAPI document describes. */
export type HeaderName = z.infer<typeof headerName>;
