import type { ProblemKind } from './problem.ts';

/** What can go wrong with any request, before or outside the rules of a route. */
export const problemKinds = {
  malformedRequest: {
    code: 'malformed_request',
    status: 400,
    title: 'Malformed request',
    advice: 'The request is not HTTP/1.1, or its address is not a valid one. Send it correctly.',
  },
  malformedJson: {
    code: 'malformed_json',
    status: 400,
    title: 'Malformed JSON',
    advice: 'The body is empty, is not UTF-8 or is not JSON. Send one JSON object.',
  },
  invalidRequest: {
    code: 'invalid_request',
    status: 400,
    title: 'Invalid request',
    advice: 'Each member of `errors` names a field and the rule that it breaks. Correct them all.',
  },
  headerNotHonoured: {
    code: 'header_not_honoured',
    status: 400,
    title: 'Header not honoured',
    advice:
      'Idempotency-Key, If-Match or If-None-Match was sent to a command that cannot honour it. ' +
      'Nothing was done. Leave it out; the description of the request lists what it honours.',
  },
  crossOrigin: {
    code: 'cross_origin',
    status: 403,
    title: 'Sent by a page of another origin',
    advice:
      'A browser sent this for a page of another origin. Nothing was done. Send commands from ' +
      'the origin of this service, or with an empty JSON object as application/json.',
  },
  routeNotFound: {
    code: 'route_not_found',
    status: 404,
    title: 'No such address',
    advice: 'Nothing answers at this path. /openapi.json lists what does.',
  },
  methodNotAllowed: {
    code: 'method_not_allowed',
    status: 405,
    title: 'Method not allowed',
    advice: 'The path exists, the method does not. The Allow header lists those that do.',
  },
  requestTimeout: {
    code: 'request_timeout',
    status: 408,
    title: 'Request took too long to arrive',
    advice: 'Send the whole request within the time limit; repeat it on a new connection.',
  },
  bodyTooLarge: {
    code: 'body_too_large',
    status: 413,
    title: 'Body too large',
    advice: 'The body is above the limit. Send a smaller one.',
  },
  uriTooLong: {
    code: 'uri_too_long',
    status: 414,
    title: 'Address too long',
    advice: 'A part of the path is longer than any identifier here.',
  },
  unsupportedMediaType: {
    code: 'unsupported_media_type',
    status: 415,
    title: 'Unsupported media type',
    advice: 'Send the body as application/json in UTF-8, without a content encoding.',
  },
  idempotencyKeyInUse: {
    code: 'idempotency_key_in_use',
    status: 409,
    title: 'Idempotency-Key in use',
    advice: 'A request with this key is under way. Repeat it after Retry-After seconds.',
  },
  idempotencyKeyReused: {
    code: 'idempotency_key_reused',
    status: 422,
    title: 'Idempotency-Key used for another request',
    advice: 'A key stands for one request for 72 hours. Choose a new key for a new request.',
  },
  preconditionFailed: {
    code: 'precondition_failed',
    status: 412,
    title: 'Precondition failed',
    advice:
      'If-Match or If-None-Match does not hold: what is there has changed. Nothing was done. ' +
      'Read it, decide again, and send its new ETag.',
  },
  ifMatchWeak: {
    code: 'if_match_weak',
    status: 412,
    title: 'If-Match names a weak tag',
    advice:
      'If-Match compares strongly, so a weak tag (W/) never holds. Nothing was done. The tags of ' +
      'this service are strong: a proxy on the way has weakened it, mostly by compressing. Send ' +
      'the tag without its W/, or let the proxy leave responses as they are.',
  },
  preconditionRequired: {
    code: 'precondition_required',
    status: 428,
    title: 'Precondition required',
    advice:
      'This command needs If-Match. Nothing was done. Read what it is about, decide, and send the ' +
      'ETag of what you read.',
  },
  expectationFailed: {
    code: 'expectation_failed',
    status: 417,
    title: 'Expectation not met',
    advice: 'Send the request without the Expect header, or with 100-continue.',
  },
  headersTooLarge: {
    code: 'headers_too_large',
    status: 431,
    title: 'Header fields too large',
    advice: 'Send fewer or shorter headers.',
  },
  notImplemented: {
    code: 'not_implemented',
    status: 501,
    title: 'Not implemented',
    advice:
      'The server does not do this: it is no proxy (CONNECT), and knows no transfer coding but ' +
      'chunked. Send the request without.',
  },
  overloaded: {
    code: 'overloaded',
    status: 503,
    title: 'Too much at once',
    advice: 'Nothing was written. Repeat the request after Retry-After seconds.',
  },
  internal: {
    code: 'internal',
    status: 500,
    title: 'Internal error',
    advice:
      'A fault of the service; the log has it under the requestId. The request may have taken ' +
      'effect: repeat it with the same Idempotency-Key.',
  },
} as const satisfies Record<string, ProblemKind>;
