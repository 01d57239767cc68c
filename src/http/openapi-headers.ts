/** The headers of responses, for the OpenAPI document. */
export const responseHeaders = {
  'X-Request-Id': {
    description:
      'Id of this request in the log, in problems and in the events that it causes: the one that was sent, or ' +
      'a new one.',
    schema: { type: 'string' },
  },
  ETag: {
    description:
      'Identifies this state of the resource, for If-None-Match. The ETag of an order is its ' +
      'version, and can be sent as If-Match.',
    schema: { type: 'string', examples: ['"v1"'] },
  },
  Location: {
    description: 'Address of the new resource.',
    schema: { type: 'string', format: 'uri-reference' },
  },
  'Idempotency-Replayed': {
    description:
      'true if this is the stored response to an earlier request with the same Idempotency-Key.',
    schema: { type: 'string', enum: ['true'] },
  },
  'RateLimit-Limit': {
    description: 'Requests that are accepted in one second.',
    schema: { type: 'integer', minimum: 1 },
  },
  'RateLimit-Remaining': {
    description: 'Requests that are still accepted in this second.',
    schema: { type: 'integer', minimum: 0 },
  },
  'RateLimit-Reset': {
    description: 'Seconds until requests are accepted again.',
    schema: { type: 'integer', minimum: 0 },
  },
  'Preference-Applied': {
    description: 'return=minimal if the body was left out because of the header Prefer.',
    schema: { type: 'string', enum: ['return=minimal'] },
  },
  'WWW-Authenticate': {
    description: 'What is missing or wrong, by RFC 6750: the token, or the scope.',
    schema: { type: 'string', examples: ['Bearer realm="orders", error="invalid_token"'] },
  },
  'Retry-After': {
    description: 'Seconds to wait before retrying.',
    schema: { type: 'integer', minimum: 1 },
  },
} as const;

/** Every request may have this header. */
export const requestIdParameter = {
  in: 'header',
  name: 'X-Request-Id',
  required: false,
  description:
    'Your id for this request: 8 to 128 letters, digits, dots, hyphens and underscores. Any other value is ' +
    'ignored, and the request gets a new id. Must not contain personal data: it is logged and stored.',
  schema: { type: 'string' },
} as const;
/** Every command whose response has a body may have this header. */
export const preferParameter = {
  in: 'header',
  name: 'Prefer',
  required: false,
  description:
    'Send return=minimal to get the response without its body, with 204 instead of 200. Problems keep their ' +
    'body. Other preferences are ignored.',
  schema: { type: 'string', examples: ['return=minimal'] },
} as const;

/** A header of responses that the OpenAPI document describes. */
export type HeaderName = keyof typeof responseHeaders;
